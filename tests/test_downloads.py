"""Downloads: a file is whole and right or not there, whatever the server does."""

import hashlib
import http.server
import io
import multiprocessing
import re
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from intrinsic.images.downloads import DownloadFailed, Offline, fetch
from intrinsic.images.sets import BadSource

BODY = bytes(range(256)) * 1200  # 307,200 bytes, several chunks
MD5, SHA256 = hashlib.md5(BODY).hexdigest(), hashlib.sha256(BODY).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `body`; `plan` says what goes wrong in each request, in order: "" for nothing."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.plan, self.etag, self.ranges = BODY, [], '"first"', True
        self.asked, self.sent = [], 0  # Range of each request; bytes of all answers
        self.resume, self.lock = threading.Event(), threading.Lock()

    def url(self, name="set.bin"):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        server = self.server
        with server.lock:
            server.asked.append(self.headers.get("Range"))
            trouble = server.plan.pop(0) if server.plan else ""
        body, start = server.body, 0
        if trouble.isdigit():
            return self.send_error(int(trouble))
        if trouble == "reset":
            return self.connection.close()
        if self.headers.get("Range") and server.ranges and self.headers.get("If-Range") in (None, server.etag):
            start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
            if start >= len(body):
                return self.send_error(416)
            self.send_response(206)
            start += trouble == "elsewhere"
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if trouble != "no length":
            self.send_header("Content-Length", str(len(body) - start))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        part = body[start:]
        if trouble in ("cut", "stall"):
            part = part[: len(part) // 2]
        if trouble == "wait":
            server.resume.wait(10)
        server.sent += len(part)
        self.wfile.write(part)
        if trouble == "stall":
            self.wfile.flush()
            server.resume.wait(10)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("INTRINSIC_OFFLINE", raising=False)
    with Server() as one:
        thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield one
        one.resume.set()
        one.shutdown()
        thread.join()


def get(server, target, **options):
    """fetch without waiting between tries; returns the waits that it asked for."""
    waits = []
    fetch(server.url(), target, **{"timeout": 5, "sleep": waits.append, **options})
    return waits


def left(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("checksums", [{}, {"md5": MD5}, {"sha256": SHA256.upper()}, {"md5": MD5, "sha256": SHA256}])
def test_a_file_is_fetched_once(server, tmp_path, capfd, checksums):
    target = tmp_path / "a" / "b" / "set.bin"
    assert get(server, target, size=len(BODY), **checksums) == []
    assert target.read_bytes() == BODY
    assert capfd.readouterr().err.startswith(f"downloading set.bin (307 kB) from {server.url()} to {target}\n")
    get(server, target, size=len(BODY), **checksums)
    assert (len(server.asked), left(target.parent)) == (1, ["set.bin"])
    assert not capfd.readouterr().err


@pytest.mark.parametrize("trouble", ["500", "503", "429", "reset"])
def test_a_server_in_trouble_is_asked_again_after_growing_waits(server, tmp_path, capfd, trouble):
    server.plan = [trouble, trouble]
    assert get(server, tmp_path / "set.bin", md5=MD5) == [1, 4]
    assert re.findall(r"^set\.bin: .*; trying again in (.*) s$", capfd.readouterr().err, re.MULTILINE) == ["1", "4"]
    assert (tmp_path / "set.bin").read_bytes() == BODY
    assert len(server.asked) == 3


def test_a_server_that_stays_in_trouble_is_given_up(server, tmp_path):
    server.plan = ["500"] * 9
    with pytest.raises(DownloadFailed, match=r"500 Internal.*0 bytes received, 3 tries.*yourself to .*set\.bin"):
        get(server, tmp_path / "set.bin", attempts=3)
    assert len(server.asked) == 3
    assert left(tmp_path) == []


@pytest.mark.parametrize("answer", ["404", "403", "410"])
def test_a_refusal_is_final(server, tmp_path, answer):
    server.plan = [answer]
    with pytest.raises(BadSource, match=rf"{re.escape(server.url())}.* {answer} .*0 bytes.*yourself to {tmp_path}"):
        get(server, tmp_path / "set.bin", md5=MD5)
    assert len(server.asked) == 1
    assert left(tmp_path) == []


def test_no_server_at_all_is_said_so(server, tmp_path):
    with Server() as closed:
        url = closed.url()
    with pytest.raises(DownloadFailed, match=r"no connection \(.*refused.*2 tries"):
        fetch(url, tmp_path / "set.bin", attempts=2, sleep=lambda s: None)


@pytest.mark.parametrize("trouble", ["cut", "stall"])
@pytest.mark.parametrize("known", [{"md5": MD5}, {}])
def test_a_broken_download_goes_on_where_it_ended(server, tmp_path, trouble, known):
    server.plan = [trouble, trouble]
    assert get(server, tmp_path / "set.bin", timeout=0.3, **known) == [1, 1]  # each try brought bytes
    assert (tmp_path / "set.bin").read_bytes() == BODY
    assert server.asked == [None, f"bytes={len(BODY) // 2}-", f"bytes={len(BODY) * 3 // 4}-"]
    assert server.sent == len(BODY)  # no byte twice


def test_a_server_that_ignores_ranges_sends_all_of_it_again(server, tmp_path):
    server.ranges, server.plan = False, ["cut"]
    get(server, tmp_path / "set.bin", md5=MD5)
    assert (tmp_path / "set.bin").read_bytes() == BODY
    assert server.sent == len(BODY) * 3 // 2


def test_a_server_that_ignores_ranges_and_always_breaks_is_given_up(server, tmp_path):
    server.ranges, server.plan = False, ["cut"] * 20
    with pytest.raises(DownloadFailed, match=r"ended after 153,600 of 307,200 bytes.*4 tries\)"):
        get(server, tmp_path / "set.bin", md5=MD5)
    assert len(server.asked) == 4


def test_without_checksum_and_seal_a_broken_download_begins_anew(server, tmp_path):
    server.etag, server.plan = None, ["cut"]
    get(server, tmp_path / "set.bin")
    assert (tmp_path / "set.bin").read_bytes() == BODY
    assert server.asked == [None, None]


def test_a_file_that_changes_between_tries_is_not_mixed(server, tmp_path):
    server.plan, new = ["cut"], BODY[::-1]

    def change(seconds):
        server.body, server.etag = new, '"second"'

    get(server, tmp_path / "set.bin", sleep=change)
    assert (tmp_path / "set.bin").read_bytes() == new


def test_another_part_than_asked_for_is_not_taken(server, tmp_path):
    server.plan = ["cut", "elsewhere"]
    get(server, tmp_path / "set.bin", md5=MD5)
    assert (tmp_path / "set.bin").read_bytes() == BODY


def test_a_later_call_goes_on_with_the_draft_of_an_earlier_one(server, tmp_path):
    server.plan = ["cut", "404"]
    with pytest.raises(DownloadFailed, match=r"404.*153,600 bytes received"):
        get(server, tmp_path / "set.bin", md5=MD5)
    assert left(tmp_path) == ["set.bin.draft"]
    get(server, tmp_path / "set.bin", md5=MD5)
    assert (tmp_path / "set.bin").read_bytes() == BODY
    assert server.sent == len(BODY)
    assert left(tmp_path) == ["set.bin"]


@pytest.mark.parametrize("draft", [b"of another file", BODY[:1000] + b"?", BODY + b"longer", b"?" * len(BODY)])
def test_a_draft_that_is_no_beginning_of_the_file_is_dropped(server, tmp_path, draft):
    (tmp_path / "set.bin.draft").write_bytes(draft)
    get(server, tmp_path / "set.bin", md5=MD5)
    assert (tmp_path / "set.bin").read_bytes() == BODY
    assert left(tmp_path) == ["set.bin"]


def test_a_whole_draft_needs_no_server(server, tmp_path):
    (tmp_path / "set.bin.draft").write_bytes(BODY)
    get(server, tmp_path / "set.bin", md5=MD5)
    assert (tmp_path / "set.bin").read_bytes() == BODY
    assert server.asked == []


def test_without_a_checksum_no_earlier_draft_is_trusted(server, tmp_path):
    (tmp_path / "set.bin.draft").write_bytes(b"?" * 100)
    get(server, tmp_path / "set.bin")
    assert (tmp_path / "set.bin").read_bytes() == BODY
    assert server.asked == [None]


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_a_wrong_file_is_removed_and_both_checksums_are_given(server, tmp_path, kind):
    server.body = BODY[:-1] + b"?"
    found = hashlib.new(kind, server.body).hexdigest()
    wanted = {"md5": MD5, "sha256": SHA256}[kind]
    with pytest.raises(DownloadFailed, match=f"has the {kind} {found} where {wanted} is expected.*yourself"):
        get(server, tmp_path / "set.bin", **{kind: wanted})
    assert len(server.asked) == 1
    assert left(tmp_path) == []


def test_a_length_that_is_not_expected_is_refused_before_the_bytes(server, tmp_path):
    with pytest.raises(DownloadFailed, match=r"server has 307,200 bytes where 307,201 are"):
        get(server, tmp_path / "set.bin", size=len(BODY) + 1)
    assert left(tmp_path) == []


def test_a_file_of_unstated_length_is_complete_where_its_size_is_known(server, tmp_path):
    server.plan = ["no length"]
    get(server, tmp_path / "set.bin", size=len(BODY))
    assert (tmp_path / "set.bin").read_bytes() == BODY


def test_a_wrong_file_at_the_target_is_kept_and_named(server, tmp_path):
    (tmp_path / "set.bin").write_bytes(b"mine")
    with pytest.raises(DownloadFailed, match=f"{tmp_path}/set.bin has the md5 .* where {MD5}.*remove it"):
        get(server, tmp_path / "set.bin", md5=MD5)
    with pytest.raises(DownloadFailed, match="has 4 bytes where 5 are"):
        get(server, tmp_path / "set.bin", size=5)
    assert (tmp_path / "set.bin").read_bytes() == b"mine"
    assert server.asked == []


def test_a_disk_without_room_is_seen_before_the_bytes(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 307_199))
    with pytest.raises(DownloadFailed, match=r"needs 307 kB.* 307 kB left"):
        get(server, tmp_path / "set.bin", md5=MD5)
    assert server.sent <= len(BODY)
    assert left(tmp_path) == []


@pytest.mark.parametrize("scheme", ["file", "ftp", "data"])
def test_only_web_addresses_are_fetched(tmp_path, scheme):
    with pytest.raises(DownloadFailed, match="http"):
        fetch(f"{scheme}:///etc/hosts", tmp_path / "x")
    assert left(tmp_path) == []


def test_offline_nothing_is_asked_and_what_is_there_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("INTRINSIC_OFFLINE", "1")
    with pytest.raises(Offline, match=rf"set\.bin is not there, and INTRINSIC_OFFLINE.*{re.escape(server.url())}"):
        get(server, tmp_path / "set.bin", md5=MD5)
    assert (server.asked, left(tmp_path)) == ([], [])
    (tmp_path / "set.bin").write_bytes(BODY)
    get(server, tmp_path / "set.bin", md5=MD5)
    monkeypatch.setenv("INTRINSIC_OFFLINE", "0")
    get(server, tmp_path / "other.bin", md5=MD5)
    assert len(server.asked) == 1


def test_of_two_threads_one_fetches_and_both_have_the_file(server, tmp_path, monkeypatch):
    server.plan, waiting = ["wait"], threading.Event()

    class Listener(io.StringIO):
        def write(self, text):
            if "waiting for another" in text:
                waiting.set()
            return super().write(text)

    monkeypatch.setattr(sys, "stderr", Listener())
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(get, server, tmp_path / "set.bin", md5=MD5) for _ in range(2)]
        assert waiting.wait(10)
        server.resume.set()
        assert [call.result(20) for call in calls] == [[], []]
    assert (tmp_path / "set.bin").read_bytes() == BODY
    assert (server.asked, left(tmp_path)) == ([None], ["set.bin"])


def _fetch_without_bar(url, target):
    fetch(url, target, md5=MD5, progress=False, timeout=5)


def test_of_several_processes_one_fetches(server, tmp_path):
    context = multiprocessing.get_context("forkserver")
    workers = [context.Process(target=_fetch_without_bar, args=(server.url(), tmp_path / "set.bin")) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert (tmp_path / "set.bin").read_bytes() == BODY
    assert (server.asked, left(tmp_path)) == ([None], ["set.bin"])


def test_a_process_killed_while_it_fetches_leaves_no_lock(server, tmp_path):
    server.plan = ["stall"]
    context = multiprocessing.get_context("forkserver")
    worker = context.Process(target=_fetch_without_bar, args=(server.url(), tmp_path / "set.bin"))
    worker.start()
    draft = tmp_path / "set.bin.draft"
    while worker.is_alive() and not (draft.exists() and draft.stat().st_size > 0):
        worker.join(0.02)
    worker.kill()
    worker.join(20)
    get(server, tmp_path / "set.bin", md5=MD5)
    assert (tmp_path / "set.bin").read_bytes() == BODY
    assert server.asked[1].startswith("bytes=")
