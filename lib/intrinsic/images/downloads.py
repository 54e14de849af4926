"""Downloads: one file from a web address to a place, whole and checked, or not at all."""

import contextlib
import hashlib
import http.client
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from tqdm import tqdm

from intrinsic.images.sets import BadSource, reason

OFFLINE = "INTRINSIC_OFFLINE"  # 1: nothing is downloaded
AGENT = "intrinsic-properties-book"  # some servers refuse Python's own name
CHUNK = 1 << 16  # bytes
BUSY = (408, 425, 429)  # answers that ask to come back, as all from 500 on


class DownloadFailed(BadSource):
    """A file that could not be fetched, or is not the one expected."""


class Offline(DownloadFailed):
    """A file that is not there, and may not be fetched."""


class _Broken(Exception):
    """A try that ended early, and may go better another time."""


def fetch(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    progress: bool = True,
    timeout: float = 30,
    attempts: int = 4,
    sleep: Callable[[float], object] = time.sleep,
) -> Path:
    """The file at `url` (http or https), at `target`: fetched unless it is there; never there in part.

    sha256, md5   checksums as hexadecimal digits; without any, the length that the server states is checked
    size          bytes, where known
    timeout       seconds without a byte after which a try is given up
    attempts      tries, counted anew when one brings bytes beyond those before; waits of 1, 4, 16, ... seconds
    progress      a bar in a terminal; one line on what and how much goes to standard error in any case
    sleep         what waits

    The bytes go to a draft beside the target, renamed once its checksums are right. A broken try is continued by HTTP
    Range where the server allows that and its ETag or date, or a checksum, tells that the file is still the same; with
    a checksum a later call goes on from there too. Of two processes one fetches and the other waits.
    Raises DownloadFailed; Offline where the environment variable INTRINSIC_OFFLINE is 1.
    """
    target = Path(target)
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadFailed(f"{url} does not begin with http or https, so it is not fetched: put it at {target}")
    download = _Download(url, target, {"sha256": sha256, "md5": md5}, size, progress, timeout, attempts, sleep)
    if download.there():
        return target
    if os.environ.get(OFFLINE, "") not in ("", "0"):
        raise Offline(
            f"{target} is not there, and {OFFLINE} is set, so it is not fetched: unset it, or download {url} to "
            f"{target} yourself"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(download.draft, target) as file:
        if download.there():  # another process was first
            download.draft.unlink()
        else:
            download.run(file)
    return target


def checksum(path: Path, kind: str) -> str:
    """The checksum of a file, kind "md5" or "sha256", as hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()


@dataclass
class _Download:
    """One call of fetch; the arguments as there."""

    url: str
    target: Path
    checksums: dict[str, str | None]
    size: int | None
    progress: bool
    timeout: float
    attempts: int
    sleep: Callable[[float], object]

    def __post_init__(self):
        self.checksums = {kind: value.lower() for kind, value in self.checksums.items() if value}
        self.draft = self.target.with_name(f"{self.target.name}.draft")
        self.seal = None  # ETag or date of the file whose beginning is in the draft
        self.inherited = False  # the draft begins with bytes of an earlier call
        self.announced = False

    def there(self) -> bool:
        """Whether the target is there and right. Raises DownloadFailed where it is there and wrong."""
        if not self.target.exists():
            return False
        wrong = self.wrong(self.target)
        if wrong:
            raise DownloadFailed(
                f"{self.target} {wrong}, so it is damaged or another file: remove it, and it is fetched anew from "
                f"{self.url}"
            )
        return True

    def wrong(self, path: Path) -> str:
        """How a file differs from the one expected; "" where it does not."""
        length = path.stat().st_size
        if self.size is not None and length != self.size:
            return f"has {length:,} bytes where {self.size:,} are expected"
        for kind, value in self.checksums.items():
            found = checksum(path, kind)
            if found != value:
                return f"has the {kind} {found} where {value} is expected"
        return ""

    def failed(self, what: str, received: int, tries: int = 1) -> DownloadFailed:
        again = "try again later, or " if tries > 1 else ""
        count = f"{received:,} bytes received" + (f", {tries} tries" if tries > 1 else "")
        return DownloadFailed(f"{self.url}: {what} ({count}); {again}download it yourself to {self.target}")

    def run(self, file: BinaryIO) -> None:
        """The draft filled, checked and renamed; left for a later call only where a checksum can tell its worth."""
        try:
            self.inherited = bool(self.checksums) and file.seek(0, os.SEEK_END) > 0
            if not self.inherited or self.wrong(self.draft):  # else only the renaming was missing
                wrong = self._fill(file)
                if wrong and self.inherited:  # its beginning may have been of an older file
                    self._empty(file)
                    wrong = self._fill(file)
                if wrong:
                    received = file.seek(0, os.SEEK_END)
                    self._empty(file)
                    raise self.failed(f"the file that came {wrong}, so it was removed", received)
            self.draft.replace(self.target)
        finally:
            if self.draft.exists() and (not self.checksums or not self.draft.stat().st_size):
                self.draft.unlink()

    def _empty(self, file: BinaryIO) -> int:
        self.inherited = False
        return file.truncate(0)

    def _fill(self, file: BinaryIO) -> str:
        """All bytes in the draft, in as many tries as that takes; returns how they are wrong."""
        furthest, failures = file.seek(0, os.SEEK_END), 0
        while True:
            try:
                self._try(file)
                file.flush()
                return self.wrong(self.draft)
            except _Broken as error:
                received = file.seek(0, os.SEEK_END)
                failures = 1 if received > furthest else failures + 1
                furthest = max(furthest, received)
                if failures >= self.attempts:
                    raise self.failed(str(error), received, failures) from None
                wait = 4.0 ** (failures - 1)
                print(f"{self.target.name}: {error}; trying again in {wait:g} s", file=sys.stderr)
                self.sleep(wait)

    def _try(self, file: BinaryIO) -> None:
        start = file.seek(0, os.SEEK_END)
        if start and not (self.seal or self.checksums):
            start = self._empty(file)
        headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if self.seal:
                headers["If-Range"] = self.seal
        try:
            response = urllib.request.urlopen(urllib.request.Request(self.url, headers=headers), timeout=self.timeout)
        except urllib.error.HTTPError as error:
            answer = f"the server answered {error.code} {error.reason}"
            error.close()
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                self._empty(file)  # the draft is longer than the file: another file
            elif error.code < 500 and error.code not in BUSY:
                raise self.failed(answer, start) from None
            raise _Broken(answer) from None
        except urllib.error.URLError as error:
            raise _Broken(f"no connection ({reason(error.reason)})") from None
        except (OSError, http.client.HTTPException) as error:
            raise _Broken(f"no answer ({reason(error)})") from None
        with response:
            total = self._total(response, file, start)
            self._save(response, file, total)

    def _total(self, response, file: BinaryIO, start: int) -> int | None:
        """Bytes of the whole file, where the server says; the draft is cut to where the answer begins."""
        length = response.headers.get("Content-Length")
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            begin = re.match(rf"bytes {start}-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if begin is None:
                self._empty(file)
                raise _Broken("the server sent another part of the file than was asked for")
            total = int(begin[1]) if begin[1] != "*" else None if length is None else start + int(length)
        else:
            start = self._empty(file)
            total = None if length is None else int(length)
            etag = response.headers.get("ETag", "")
            self.seal = etag if etag.startswith('"') else response.headers.get("Last-Modified")
        if self.size is not None and total not in (None, self.size):
            raise self.failed(f"the server has {total:,} bytes where {self.size:,} are expected", start)
        total = self.size if total is None else total
        free = shutil.disk_usage(self.target.parent).free
        if total is not None and total - start > free:
            raise DownloadFailed(
                f"{self.url} needs {_bytes(total - start)}, and the disk of {self.target} has {_bytes(free)} left: "
                "make room, or place the image set elsewhere"
            )
        if not self.announced:
            much = "of unknown size" if total is None else _bytes(total)
            kept = f", {_bytes(start)} of it there already" if start else ""
            print(f"downloading {self.target.name} ({much}{kept}) from {self.url} to {self.target}", file=sys.stderr)
            self.announced = True
        return total

    def _save(self, response, file: BinaryIO, total: int | None) -> None:
        received = file.seek(0, os.SEEK_END)
        bar = {"unit": "B", "unit_scale": True, "desc": self.target.name, "disable": None if self.progress else True}
        with tqdm(total=total, initial=received, **bar) as shown:
            while True:
                try:
                    chunk = response.read1(CHUNK)
                except TimeoutError:
                    raise _Broken(f"no byte came for {self.timeout:g} seconds") from None
                except (OSError, http.client.HTTPException) as error:
                    raise _Broken(f"the connection broke ({reason(error)})") from None
                if not chunk:
                    break
                file.write(chunk)
                received += len(chunk)
                shown.update(len(chunk))
        if total is not None and received < total:
            raise _Broken(f"the connection ended after {received:,} of {total:,} bytes")


@contextlib.contextmanager
def _locked(draft: Path, target: Path):
    """The draft, open to read and append, and this process's alone: the system ends the lock with the process."""
    while True:
        with draft.open("a+b") as file:
            try:
                import fcntl

                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    print(f"waiting for another process that downloads {target}", file=sys.stderr)
                    fcntl.flock(file, fcntl.LOCK_EX)
            except (ImportError, OSError) as error:
                raise DownloadFailed(
                    f"{draft} cannot be locked here ({reason(error)}), so two processes could write to it at once: "
                    f"download {target.name} yourself to {target}"
                ) from None
            try:
                same = os.path.samestat(os.fstat(file.fileno()), draft.stat())
            except FileNotFoundError:  # renamed or removed by the process that had the lock
                same = False
            if same:
                yield file
                return


def _bytes(n: int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} GB"
