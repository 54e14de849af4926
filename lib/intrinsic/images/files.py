"""Files: what a folder holds, and pictures, DICOM and NIfTI to arrays, decoded in threads and cached.

What a file is, its content says; its suffix only where the content does not.
"""

import hashlib
import os
import warnings
from collections import Counter, namedtuple
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from intrinsic.images import cache, pictures, scans
from intrinsic.images.matching import matched
from intrinsic.images.pictures import Picture, Undecided
from intrinsic.images.sets import BadImageFile, BadSource, reason

SUFFIXES = {"picture": pictures.SUFFIXES, "DICOM": (".dcm", ".dicom", ".ima"), "NIfTI": (".nii", ".nii.gz")}
SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"GIF8", b"RIFF")  # of pictures
WORTH_CACHING = 500, 2**22  # files, or bytes of them all: below both, decoding them again is no matter
_DECODERS = {
    "picture": (pictures.look, pictures.decoder),
    "DICOM": (scans.dicom_look, scans.dicom_decoder),
    "NIfTI": (scans.nifti_look, scans.nifti_decoder),
}
PACKAGES = ("pillow", "pydicom", "python-gdcm", "nibabel", "torchvision")  # whose versions decide pixels
_MISSING = "does not exist"
# What lies beside images without being one, and is not told of
BESIDE = (".txt", ".csv", ".tsv", ".parquet", ".json", ".md", ".xml", ".yaml", ".yml", ".html", ".htm", ".pdf")
BESIDE += (".md5", ".sha1", ".sha256", ".sha512")
BESIDE_NAMES = ("thumbs.db", "desktop.ini", "readme", "license", "licence", "md5sums", "sha1sums", "sha256sums")
_File = namedtuple("_File", "name path rows frames axes")  # one file and the rows of the table that it serves
# All that decides a pixel beside its file: size, channels and range as in matching.match, and Levels. Where these are
# None: the window of a DICOM file that has one; percentile:0.1,99.9 of a NIfTI volume, unless of unsigned bytes; any
# other file with more than 8 bits is refused, since nothing in it decides
Reading = namedtuple("Reading", "size channels pixel_range levels", defaults=[None, None, "stored", None])


@dataclass(frozen=True)
class Found:
    """What a source holds: a table with one row an image, and either pixels or files to be read.

    Column `path` is what the image is called, for files from `root` on; `frame`, where files hold several, which one.
    Further columns are whatever else the source says, for the rules to use.
    """

    table: pd.DataFrame
    label: str | None = None  # the column of the label, unless a rule names one or there is one called label
    group: str | None = None  # the column of the group, unless a rule names one; None: unknown
    classes: tuple[str, ...] | None = None  # class names in the source's own order; None: sorted
    root: Path | None = None
    images: np.ndarray | None = None  # uint8 (n, H, W) or (n, H, W, 3)


def of_arrays(images, labels, classes, group=None, paths=None):
    """Pixels with a class and perhaps a group each, as Found."""
    table = pd.DataFrame({"path": paths or [f"row={i}" for i in range(len(images))], "label": np.take(classes, labels)})
    if group is not None:
        table["group"] = group
    return Found(table, group=None if group is None else "group", classes=classes, images=images)


def kind_of(path):
    """What a file is, "picture", "DICOM" or "NIfTI": by its content, else by its suffix; else None."""
    name = path.name.lower()
    by_name = next((kind for kind, suffixes in SUFFIXES.items() if name.endswith(suffixes)), None)
    if not path.is_file():
        return by_name if path.is_symlink() and not path.is_dir() else None  # a link that leads nowhere is told of
    try:
        with path.open("rb") as stream:
            start = stream.read(132)
    except OSError:  # told once it is read
        return by_name
    if start[128:] == b"DICM":
        return "DICOM"
    return "picture" if by_name and start.startswith(SIGNATURES) else by_name


def in_threads(work, items, what, progress=False):
    """work(item) of all items, one after the other in their order."""
    items, threads = list(items), min(16, os.cpu_count() or 1)
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        # Filters belong to the process, not to a thread, so they are set here, once
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # such pictures are refused
        warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")  # oddities of a header that do not touch pixels
        step = 16 * threads  # few results wait to be taken
        parts = (items[i : i + step] for i in range(0, len(items), step))
        done = (one for part in parts for one in pool.map(work, part))
        yield from tqdm(done, what, len(items), False, unit=" files", delay=1, disable=not progress)


def listed(path):
    """What a folder holds and shows, sorted by name. Raises BadSource where it may not be read."""
    try:
        content = sorted(path.iterdir())
    except OSError as error:
        why = error.strerror or reason(error)
        raise BadSource(f"the folder {path} cannot be listed ({why}): make it readable, or take it away") from None
    return [one for one in content if not one.name.startswith(".") and one.name not in ("__MACOSX", "__pycache__")]


def walk(path, seen=()):
    """{file: kind} in a folder and those below, sorted; each file once, however many links lead to it.

    seen   real paths that are passed by, so that links that lead back end; a set is added to
    """
    seen, home, files = seen or set(), os.path.realpath(path), {}
    seen.add(home)
    for entry in listed(path):
        real = os.path.realpath(entry) if entry.is_symlink() else os.path.join(home, entry.name)
        if real in seen:
            continue
        if entry.is_dir():
            files |= walk(entry, seen)
        else:
            seen.add(real)
            files[entry] = kind_of(entry)
    return files


def tell_left_out(path, files, read, instead):
    """One warning of {file: kind} below a folder that are not among those read; `instead`: what can be done."""
    told = {}
    for file, kind in files.items():
        suffix = file.suffix.lower()
        if file not in read and (kind or not (suffix in BESIDE or file.name.lower() in BESIDE_NAMES)):
            told[file] = kind or suffix or "without suffix"
    if told:
        shown = ", ".join(f"{kind} {n:,}" for kind, n in Counter(told.values()).most_common(4))
        first = next(iter(told)).relative_to(path).as_posix()
        found = f"not all of {path} is read: {len(told):,} files are left out ({shown}), e.g. {first!r}"
        warnings.warn(f"{found}; {instead}", stacklevel=6)


def rows_of(path, files, several, **columns):
    """A row for each image of files below a folder: path, folder (the top one), stem; with frames also frame, volume.

    several   of each file: the numbers of its frames or slices, or how many; None for a file that is one image
    columns   more, with a value for each file
    """
    names = [file.relative_to(path) for file in files]
    own = {"path": [n.as_posix() for n in names], "folder": [n.parts[0] if len(n.parts) > 1 else "" for n in names]}
    own["stem"] = [n.stem for n in names]
    table = pd.DataFrame(own | columns, dtype=object)  # names of files may hold bytes that are no text
    if all(n is None for n in several):
        return table
    frames = [[pd.NA] if n is None else list(range(n) if isinstance(n, int) else n) for n in several]
    table = table.loc[table.index.repeat([len(f) for f in frames])].reset_index(drop=True)
    table["frame"] = pd.array([i for f in frames for i in f], dtype="Int64")
    table["volume"] = table["path"]
    return table


def read(root, table, reading, *, skip=False, progress=False):
    """(images, rows that were read, files that were not) of a table's rows.

    table    column `path`, from `root` on; optionally `frame` (empty: the file is one image) and, for NIfTI, `axis`
    images   uint8 (n, H, W) or (n, H, W, 3), of the rows that were read: a bool mask, all True unless skip
    skip     leave files out that cannot be read; the third value names each: ((path, reason), ...)
    Raises BadSource, also as BadImageFile and Undecided. What does not fit together is told at once, from the headers.
    """
    found, nothing = {}, [None] * len(table)
    frames, axes = table.get("frame", nothing), table.get("axis", [2] * len(table))
    for row, (name, frame, axis) in enumerate(zip(table["path"], frames, axes, strict=True)):
        file = found.setdefault(name, _File(name, root / name, [], [], []))
        file.rows.append(row)
        file.frames.append(int(frame) if str(frame).isdigit() else None)
        file.axes.append(int(axis))
    files = list(found.values())

    def each(work, what):
        return in_threads(work, files, what, progress)

    def decoded():
        _refuse_mixed(root, files, list(each(lambda file: _look(file, reading), "headers")), reading)
        return _filled(files, each(lambda file: _decode(file, reading), "reading"), reading, skip)

    many, large = WORTH_CACHING
    if cache.limit() and (len(files) >= many or sum(f.path.stat().st_size for f in files if f.path.exists()) >= large):
        versions = [f"{name} {version(name)}" for name in PACKAGES]
        key = [repr(reading), str(skip), *versions, *each(_key, "looking up")]
        images, lost, unreadable, clear = cache.kept(key, decoded)
    else:
        images, lost, unreadable, clear = decoded()
    if clear:
        some = f"{clear:,} of {len(images):,} pictures are transparent in places"
        warnings.warn(f"{some}, and are read on black: save them without transparency if that is wrong", stacklevel=3)
    good = np.ones(len(table), dtype=bool)
    good[lost] = False
    return images, good, tuple(unreadable.items())


def _key(file):
    """What decides the pixels of a file: its kind, a hash of its content, or why there is none, and its rows."""
    try:
        with file.path.open("rb") as stream:
            content = f"{kind_of(file.path)} {hashlib.file_digest(stream, 'sha256').hexdigest()}"
    except OSError as error:
        content = reason(error)
    return f"{content} {file.rows} {file.frames} {file.axes}"


def _refuse_mixed(root, files, looks, reading):
    """One error of all sizes, colors and depths that do not fit together or leave grey levels undecided."""
    seen = [(file, look) for file, look in zip(files, looks, strict=True) if look is not None]
    n, problems, flags, kind = len(files), [], [], BadSource
    sizes = Counter(look.size for _, look in seen)
    if len(sizes) > 1 and reading.size is None:
        (width, height), most = sizes.most_common(1)[0]
        file, look = next((file, look) for file, look in seen if look.size != (width, height))
        example = f"{file.name}, {look.size[0]} x {look.size[1]}"
        problems.append(f"{len(seen) - most:,} of {n:,} files are not {width} x {height} pixels, e.g. {example}")
        flags.append("--size 64")
    mapped = {look.mapped: file for file, look in seen}
    if len(mapped) > 1:
        both = f"{mapped[False].name} holds 8 bits and {mapped[True].name} more"
        if reading.levels:
            warnings.warn(f"{both}: the former stay as they are, so brightness may tell files apart", stacklevel=3)
        else:
            problems.append(f"{both} (choose --levels full or window)")
    plain = next((file for file, look in seen if not look.colour), None)
    if plain is not None and reading.channels is None:
        coloured = [file for file, look in seen if look.colour]
        shown = ((file, one) for file in coloured[:50] for one in _decode(file, reading))
        true = next((file for file, one in shown if isinstance(one, Picture) and one.pixels.ndim == 3), None)
        if true is not None:
            problems.append(f"{len(coloured):,} of {n:,} files are in color: {plain.name} is grey and {true.name} not")
            flags.append("--channels 1")
    open_ones = [file for file, look in seen if look.undecided]
    if open_ones and isinstance(error := _decode(open_ones[0], reading)[0], Undecided):
        problems.append(f"{open_ones[0].name} {error}")
        kind = Undecided
    if problems:
        agree = f": add {' '.join(flags)}, the setting of the published sets" if flags else ""
        raise kind(f"{root}: {'; '.join(problems)}{agree}")


def _look(file, reading):
    """What the header says, as a Look; None where it cannot be read, which is told once the file is."""
    try:
        return _DECODERS[kind_of(file.path) or "picture"][0](file.path, reading.levels, file.axes[0])
    except Exception:  # readers raise nearly every type on damaged files
        return None


def _decode(file, reading):
    """A Picture or an error for each of the file's rows."""
    kind = "file"
    try:
        if not file.path.is_file():
            raise BadImageFile("is no regular file" if os.path.lexists(file.path) else _MISSING)
        kind = kind_of(file.path) or "picture"
        get = _DECODERS[kind][1](file.path, file.frames, reading.levels)
        results = []
        for frame, axis in zip(file.frames, file.axes, strict=True):
            try:
                results.append(_finished(get(frame, axis), reading))
            except BadImageFile as error:
                results.append(error)
        return results
    except BadImageFile as error:
        return [error] * len(file.rows)
    except Exception as error:  # decoders raise nearly every type on damaged files
        what = {"DICOM": "DICOM image", "NIfTI": "NIfTI volume"}.get(kind, kind)
        why = " ".join(str(error).split()) or reason(error)
        return [BadImageFile(f"cannot be read as a {what} ({why})")] * len(file.rows)


def _finished(picture, reading):
    """A picture at the channels, range and size that are asked for; one of equal channels is grey."""
    pixels = picture.pixels
    if pixels.ndim == 3 and (pixels[..., :1] == pixels).all():
        pixels = pixels[..., 0]
    return picture._replace(pixels=matched(pixels[None], reading.size, reading.channels, reading.pixel_range)[0])


def _filled(files, results, reading, skip):
    """(all pictures, rows of what could not be read, {name: why}, how many are transparent), pixels held once."""
    images, lost, bad, clear, first, plain, coloured = None, [], {}, 0, None, None, None
    for file, found in zip(files, results, strict=True):
        for row, one in zip(file.rows, found, strict=True):
            if isinstance(one, Undecided):
                raise Undecided(f"{file.path} {one}")
            if isinstance(one, BadImageFile):
                lost.append(row)
                bad.setdefault(file.name, str(one))
                continue
            pixels, clear = one.pixels, clear + one.clear
            if images is None:
                first, images = file, np.empty((sum(len(f.rows) for f in files), *pixels.shape), dtype=np.uint8)
            plain = plain or (None if one.colour else file)
            coloured = coloured or (file if pixels.ndim == 3 else None)
            if None not in (coloured, plain) and reading.channels is None:
                raise BadSource(f"{plain.path} is grey and {coloured.path} in color: add --channels 1 or 3")
            if pixels.shape[:2] != images.shape[1:3]:  # pages of a file differ, or a header is wrong
                raise BadSource(f"{first.path} and {file.path} differ in size: resize all with --size 64")
            if pixels.ndim == images.ndim:  # the first in color
                images = np.repeat(images[..., None], 3, axis=3)
            images[row] = pixels[..., None] if pixels.ndim < images.ndim - 1 else pixels
    if bad and (images is None or not skip):
        absent = sum(why == _MISSING for why in bad.values())
        gone = f", {absent:,} do not exist" if absent else ""
        first = next(file for file in files if file.name in bad)
        found = f"{first.path} {bad[first.name]}; {len(bad):,} of {len(files):,} files cannot be read{gone}"
        raise BadImageFile(f"{found}: repair them, or leave them out with --skip-unreadable")
    return np.delete(images, lost, axis=0) if lost else images, lost, bad, clear
