"""Files to arrays: pictures, DICOM and NIfTI, in 8 bits or more, decoded once, in threads, and cached.

What a file is, its content says; its suffix only where the content does not.

    pictures   PNG, JPEG, BMP, TIFF, GIF, WEBP, PBM, PGM, PPM: upright, transparency over black, the first picture of an
               animation
    DICOM      modality LUT or rescale, then grey levels as Reading.levels says; MONOCHROME1 is inverted after that;
               YBR and palettes become RGB. In a file of several frames rescale and window may be those of the frame
    NIfTI      slope and intercept applied; axes in the closest canonical order (RAS), so that axis 0 is sagittal, 1
               coronal, 2 axial; a slice lies as in the embedded brain images: upper row superior, or anterior in axial
               ones, columns from left to right or from posterior to anterior. Nothing is resampled: oblique volumes
               keep their slices, and voxels their shape
"""

import gzip
import io
import math
import os
import re
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError
from tqdm import tqdm

from intrinsic.images import cache
from intrinsic.images.matching import Range, grey, resize, stretched
from intrinsic.images.sets import BadImageFile, BadSource, MixedSizes, reason

PICTURES = (".png", ".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".webp")
PICTURES += (".pbm", ".pgm", ".ppm", ".pnm")
DICOMS = (".dcm", ".dicom")
NIFTIS = (".nii", ".nii.gz")
PILLOW_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "GIF", "WEBP", "PPM")
MAX_VOXELS = 2**29  # of one volume: 512 x 512 x 2,048
FACTS = "errors, clear"  # what an entry of the cache says beside the images: another one says other things
WORTH_CACHING = 500, 2**22  # files, or bytes of them all: below both, decoding them again is no matter
_DEFAULT_NIFTI = "percentile:0.1,99.9"
_DEEP = "holds grey levels from {:g} to {:g} in more than 8 bits"
_SAY = (
    "and which of them become 0 and 255 changes every distance: choose levels (--levels of `measure`, or levels in "
    "the set's entry), e.g. {} or percentile:1,99"
)


class BadLevels(ValueError):
    """A text that does not say what becomes 0 and 255."""


class Undecided(BadImageFile):
    """A file with more than 8 bits, and nothing says what becomes 0 and 255. Never skipped as unreadable."""


class MixedFiles(BadSource):
    """Files of one set whose pixels do not mean the same: grey beside color, 8 bits beside more."""


@dataclass(frozen=True)
class Levels:
    """What becomes 0 and 255: `full`, `range:LOW,HIGH`, `percentile:LOW,HIGH` or `window`. Raises BadLevels."""

    kind: str
    low: float = 0.0
    high: float = 0.0

    @classmethod
    def of(cls, text: str) -> "Levels":
        """From its text."""
        found = re.fullmatch(r"(full|window)|(range|percentile):([^,]+),([^,]+)", text.strip())
        try:
            levels = cls(found[1]) if found[1] else cls(found[2], float(found[3]), float(found[4]))
        except (TypeError, ValueError):
            levels = None
        if levels is not None and levels.kind in ("range", "percentile"):
            inside = levels.kind == "range" or (levels.low >= 0 and levels.high <= 100)
            if not (-math.inf < levels.low < levels.high < math.inf and inside):
                levels = None
        if levels is None:
            raise BadLevels(
                f"levels {text!r} does not say what becomes 0 and 255: give full, range:LOW,HIGH (grey levels), "
                "percentile:LOW,HIGH (between 0 and 100, LOW below HIGH) or window"
            )
        return levels


@dataclass(frozen=True)
class Reading:
    """How files become arrays: all that decides a pixel, beside the file.

    size, channels, pixel_range   as in matching.match, applied to each image as it is read; None stays as it is
    levels     what becomes 0 and 255 where a file holds more than 8 bits, by a clipped linear map, rounded half up
               full               0 to 2^bits - 1; DICOM: the range of the stored bits, after rescale
               range:LOW,HIGH     these values, after rescale (CT: Hounsfield units)
               percentile:LOW,HIGH   of the picture, or of the whole volume where the file is one
               window             the first VOI LUT or window of the DICOM file
               None: window for DICOM files that have one; percentile:0.1,99.9 for NIfTI, but volumes of unsigned bytes
               as they are; all other files with more than 8 bits are refused, since nothing in them decides it
    Raises BadLevels.
    """

    size: int | None = None
    channels: int | None = None
    pixel_range: Range = "stored"
    levels: str | None = None

    def __post_init__(self):
        if self.levels is not None:
            Levels.of(self.levels)


@dataclass(frozen=True)
class _Picture:
    pixels: np.ndarray  # uint8 (H, W) where all channels are equal, else (H, W, 3)
    colour: bool  # stored in color, whatever the pixels are
    mapped: bool  # brought to 8 bits by levels
    clear: bool = False  # some of it is transparent, wholly or in part


@dataclass
class _File:
    """One file and the rows of the table that it serves."""

    name: str
    path: Path
    rows: list[int]
    frames: list[int | None]
    axes: list[int]


def read(root: Path, table: pd.DataFrame, reading: Reading, *, skip=False, progress=False, threads=None):
    """(images, rows that were read, files that were not) of a table's rows.

    table    column `path`, from `root` on; optionally `frame` (empty: the file is one image) and, for NIfTI, `axis`
    images   uint8 (n, H, W) or (n, H, W, 3), of the rows that were read: a bool mask, all True unless skip
    skip     leave files out that cannot be read; the third value names each: ((path, reason), ...)
    threads  how many; the result does not depend on it. None: one a core
    Warns where pictures are transparent in places.
    Files are decoded once: sets of 500 files or 4 MiB and more come from the cache afterwards.
    Raises BadImageFile (Undecided), MixedSizes, MixedFiles: for the first file in the order of rows.
    """
    files = _files(root, table)
    with warnings.catch_warnings(), ThreadPoolExecutor(threads or min(16, os.cpu_count() or 1)) as pool:
        # Filters belong to the process, not to a thread, so they are set here, once
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is checked in _checked_size
        warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")  # oddities of a header that do not touch pixels

        def each(work, what):
            shown = tqdm(files, desc=what, unit=" files", delay=1, leave=False, disable=not progress)
            with shown:
                for result in pool.map(work, files):
                    shown.update()
                    yield result

        keep = cache.limit() > 0 and _worth_caching(files)
        if keep:
            held = cache.load(_key(table, files, list(each(_hash, "looking up")), reading))
            if held is not None:
                return _chosen(files, *held, skip)
        results = list(each(lambda file: _decode(file, reading), "reading"))
    digests = [digest for digest, _ in results]
    pictures: dict[int, _Picture] = {}
    errors, undecided = {}, {}
    for file, (_, decoded) in zip(files, results, strict=True):
        for row, picture in zip(file.rows, decoded, strict=True):
            if isinstance(picture, Undecided):
                undecided[row] = f"{file.path} {picture}"
            elif isinstance(picture, BadImageFile):
                errors[row] = str(picture)
            else:
                pictures[row] = picture
    if undecided and (skip or min(undecided) < min(errors, default=len(table))):
        raise Undecided(undecided[min(undecided)])
    if errors and (not skip or not pictures):
        _refuse(files, errors)
    del results, decoded, picture  # the pictures are held by one list alone, which is emptied as they are stacked
    rows = sorted(pictures)
    clear = sum(picture.clear for picture in pictures.values())
    images = _stacked(root, table["path"].iloc[rows], [pictures.pop(row) for row in rows], reading)
    facts = {"errors": [[row, errors[row]] for row in sorted(errors)], "clear": clear}
    if keep:
        cache.store(_key(table, files, digests, reading), images, facts)
    return _chosen(files, images, facts, skip)


def _files(root: Path, table: pd.DataFrame) -> list[_File]:
    """One for each path, in the order of their first rows."""
    nothing = [None] * len(table)
    frames, axes = table.get("frame", nothing), table.get("axis", [2] * len(table))
    files: dict[str, _File] = {}
    for row, (name, frame, axis) in enumerate(zip(table["path"], frames, axes, strict=True)):
        file = files.setdefault(name, _File(name, root / name, [], [], []))
        file.rows.append(row)
        file.frames.append(None if pd.isna(frame) else int(frame))
        file.axes.append(int(axis))
    return list(files.values())


def _worth_caching(files: list[_File]) -> bool:
    many, large = WORTH_CACHING
    return len(files) >= many or sum(os.path.getsize(f.path) for f in files if os.path.isfile(f.path)) >= large


def _key(table, files, digests, reading) -> str:
    """The name in the cache: what is read, how, by which versions, and every file's content in the order of rows."""
    parts = [""] * len(table)
    for file, digest in zip(files, digests, strict=True):
        for row, frame, axis in zip(file.rows, file.frames, file.axes, strict=True):
            parts[row] = f"{digest} {frame} {axis}"
    decoders = [f"{name} {version(name)}" for name in ("pillow", "pydicom", "python-gdcm", "nibabel", "torchvision")]
    return cache.key([repr(reading), FACTS, *decoders, *parts])


def _chosen(files, images, facts, skip):
    """What `read` returns, from an entry of the cache or one to be."""
    errors = {row: why for row, why in facts["errors"]}
    if errors and not skip:
        _refuse(files, errors)
    if clear := facts["clear"]:
        warnings.warn(
            f"{clear:,} of {len(images):,} pictures are transparent in places, and are read as they look on "
            "black: give pictures without transparency if that is not what they show",
            stacklevel=3,
        )
    good = np.ones(sum(len(file.rows) for file in files), dtype=bool)
    good[list(errors)] = False
    return images, good, tuple((file.name, why) for file, why in _bad(files, errors))


def _bad(files: list[_File], errors: dict[int, str]) -> list[tuple[_File, str]]:
    """Files with a row that could not be read, each with the reason of the first."""
    found = ((file, [errors[row] for row in file.rows if row in errors]) for file in files)
    return [(file, why[0]) for file, why in found if why]


def _refuse(files: list[_File], errors: dict[int, str]):
    bad = _bad(files, errors)
    first, why = bad[0]
    leave = (
        "leave them out with --skip-unreadable of `measure`, or with skip_unreadable: true in an entry of the set "
        "(`intrinsic datasets --draft PATH` begins one)"
    )
    if why == _MISSING:
        n = sum(why == _MISSING for _, why in bad)
        raise BadImageFile(
            f"{n:,} of {len(files):,} files do not exist, e.g. {first.path}: put them there, correct what lists them, "
            f"or {leave}"
        )
    raise BadImageFile(
        f"{first.path} {why}; {len(bad):,} of {len(files):,} files cannot be read: repair or remove them, or {leave}"
    )


def _stacked(root: Path, names: Sequence[str], pictures: list[_Picture], reading: Reading) -> np.ndarray:
    """One array of all pictures. Empties the list, so that they are not held twice."""
    names = [root / name for name in names]
    shape = pictures[0].pixels.shape[:2]
    for name, picture in zip(names, pictures, strict=True):
        if picture.pixels.shape[:2] != shape:
            raise MixedSizes(
                f"{names[0]} is {_sides(pictures[0].pixels)} and {name} is {_sides(picture.pixels)} pixels, "
                "and distances need one size: resize all by giving one, e.g. --size 64 (size=64)"
            )
    mapped = [picture.mapped for picture in pictures]
    if any(mapped) and not all(mapped):
        raise MixedFiles(
            f"{names[mapped.index(False)]} holds 8 bits and {names[mapped.index(True)]} more, so that their grey "
            "levels do not mean the same: bring all files to 8 bits, or leave one kind out"
        )
    coloured = [picture.pixels.ndim == 3 for picture in pictures]
    plain = [not picture.colour for picture in pictures]
    if any(coloured) and any(plain) and reading.channels is None:
        raise MixedFiles(
            f"{names[plain.index(True)]} is stored in grey and {names[coloured.index(True)]} in color, and channels "
            "change every distance: choose one for all, --channels 1 (grey) or 3 (channels=1)"
        )
    images = np.empty((len(pictures), *shape, *([3] if any(coloured) else [])), dtype=np.uint8)
    for i, picture in enumerate(pictures):
        pixels = picture.pixels
        images[i] = pixels[..., None] if pixels.ndim < images.ndim - 1 else pixels
        pictures[i] = None
    return images


def _sides(picture: np.ndarray) -> str:
    return f"{picture.shape[1]} x {picture.shape[0]}"


# ------------------------------------------------------------------------------------------ What a path is


def hidden(path: Path) -> bool:
    """Whether a file or folder is not meant to be seen."""
    return path.name.startswith(".") or path.name in ("__MACOSX", "__pycache__")


def kind_of(path: Path) -> str | None:
    """What a path looks like, "picture", "DICOM" or "NIfTI": by its suffix, without one by its content; else None."""
    name = path.name.lower()
    if hidden(path) or path.is_dir():
        return None
    for kind, suffixes in (("picture", PICTURES), ("DICOM", DICOMS), ("NIfTI", NIFTIS)):
        if name.endswith(suffixes):
            return kind
    if (not path.suffix or path.suffix[1:].isdigit()) and path.is_file():  # DICOM names often end in a UID
        try:
            with path.open("rb") as stream:
                return "DICOM" if stream.read(132)[128:] == b"DICM" else None
        except OSError:  # it is no image that can be listed; nothing is decided by leaving it out
            return None
    return None


def slices(path: Path) -> tuple[int, int, int] | None:
    """The shape of a NIfTI volume in canonical axes, from its header; None where that cannot be read."""
    import nibabel

    try:
        image = nibabel.load(path)
        order = nibabel.io_orientation(image.affine)[:, 0]
        shape = [1, 1, 1]
        for length, axis in zip(_three(image.shape), order, strict=True):
            shape[int(axis)] = length
    except Exception:  # the reason is given once the file is read
        return None
    return tuple(shape)


def _content(path: Path) -> bytes:
    """The bytes of a file. Raises BadImageFile with what is wrong, without the path."""
    try:
        if not path.is_file():
            exists = os.path.lexists(path)
            raise BadImageFile("is no regular file (a folder, or a broken link?)" if exists else _MISSING)
        return path.read_bytes()
    except FileNotFoundError:
        raise BadImageFile(_MISSING) from None
    except OSError as error:
        raise BadImageFile(f"cannot be opened ({error.strerror or reason(error)})") from None


_MISSING = "does not exist"


def _kind(name: str, data: bytes) -> str:
    """What the content is; by the name where it does not say."""
    if data[128:132] == b"DICM":
        return "DICOM"
    if data[344:348] == b"n+1\0" or data[4:8] == b"n+2\0":
        return "NIfTI"
    name = name.lower()
    if name.endswith(NIFTIS) and (data[:2] == b"\x1f\x8b" or not _looks_like_picture(data)):
        return "NIfTI"
    if name.endswith(DICOMS) and not _looks_like_picture(data):
        return "DICOM"
    return "picture"


def _looks_like_picture(data: bytes) -> bool:
    starts = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"GIF8", b"RIFF")
    return data.startswith(starts)


# ------------------------------------------------------------------------------------------ Decoding


def _hash(file: _File) -> str:
    """What stands for the file in the cache: its kind and a hash of its content, or why there is none."""
    try:
        return _digest(file, _content(file.path))
    except BadImageFile as error:
        return str(error)


def _digest(file: _File, data: bytes) -> str:
    return f"{_kind(file.name, data)} {sha256(data).hexdigest()}"


def _decode(file: _File, reading: Reading) -> tuple[str, list[_Picture | BadImageFile]]:
    """(what stands for the very bytes decoded, a picture or an error for each of the file's rows)."""
    try:
        data = _content(file.path)
    except BadImageFile as error:
        return str(error), [error] * len(file.rows)
    kind = _kind(file.name, data)
    levels = None if reading.levels is None else Levels.of(reading.levels)
    decode = {"picture": _pictures, "DICOM": _dicom, "NIfTI": _nifti}[kind]
    results: list[_Picture | BadImageFile]
    try:
        get = decode(data, file, levels)
        results = []
        for frame, axis in zip(file.frames, file.axes, strict=True):
            try:
                results.append(_finished(get(frame, axis), reading))
            except BadImageFile as error:
                results.append(error)
    except BadImageFile as error:
        results = [error] * len(file.rows)
    except Exception as error:  # decoders raise nearly every type on damaged files
        what = {"DICOM": "DICOM image", "NIfTI": "NIfTI volume"}.get(kind, kind)
        why = " ".join(str(error).split()) if kind == "DICOM" else reason(error)  # pydicom names decoders in lines
        results = [BadImageFile(f"cannot be read as a {what} ({why or reason(error)})")] * len(file.rows)
    return _digest(file, data), results


def _finished(picture: _Picture, reading: Reading) -> _Picture:
    """Channels, range and size, in the order of matching.match."""
    pixels = picture.pixels
    if pixels.ndim == 3 and (pixels[..., :1] == pixels).all():
        pixels = pixels[..., 0]
    if pixels.ndim == 3 and reading.channels == 1:
        pixels = grey(pixels)
    if reading.pixel_range == "image":
        pixels = stretched(pixels[None])[0]
    pixels = np.ascontiguousarray(pixels)
    if reading.size is not None:
        pixels = resize(pixels, reading.size)
    return _Picture(pixels, picture.colour, picture.mapped, picture.clear)


def eight_bit(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8: `low` and below become 0, `high` and above 255, linear between, rounded half up."""
    if high <= low:
        return np.where(values > low, 255, 0).astype(np.uint8)
    scaled = (np.clip(values, low, high).astype(np.float64) - low) * 255 / (high - low)
    return np.floor(scaled + 0.5).astype(np.uint8)


def _bounds(levels: Levels, full: tuple[float, float] | None, values: Callable[[], np.ndarray]) -> tuple[float, float]:
    """(what becomes 0, what becomes 255). values: what percentiles are of, made only when they are asked for."""
    if levels.kind == "range":
        return levels.low, levels.high
    if levels.kind == "percentile":
        low, high = np.percentile(values(), (levels.low, levels.high))
        return float(low), float(high)
    if levels.kind == "window":
        raise Undecided("has no window of its own, so levels='window' leaves open what becomes 0 and 255: give others")
    if full is None:
        raise Undecided(
            "holds floating-point numbers, which have no full range, so levels='full' leaves open what becomes 0 and "
            "255: give others, e.g. percentile:1,99"
        )
    return full


def _refuse_nonfinite(values: np.ndarray) -> None:
    if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
        n = int((~np.isfinite(values)).sum())
        raise BadImageFile(f"holds {n:,} values that are not finite numbers (NaN or infinite), which are no grey level")


def _checked_size(width: int, height: int) -> None:
    if width * height > Image.MAX_IMAGE_PIXELS:
        raise BadImageFile(
            f"unpacks to more pixels ({width:,} x {height:,}) than is safe to load ({Image.MAX_IMAGE_PIXELS:,}), as a "
            "decompression bomb does"
        )


def _checked_frame(frame: int | None, n: int, what: str) -> int:
    if frame is None and n > 1:
        raise BadImageFile(f"holds {n:,} {what}, and nothing says which of them is the image: give the column `frame`")
    if not 0 <= (frame or 0) < n:
        raise BadImageFile(f"has no {what.removesuffix('s')} {frame}, only {n:,} counted from 0")
    return frame or 0


# ------------------------------------------------------------------------------------------ Pictures


def _pictures(data: bytes, file: _File, levels: Levels | None):
    """A function of (frame, axis) that gives the picture."""

    def get(frame, axis):
        try:
            with Image.open(io.BytesIO(data), formats=PILLOW_FORMATS) as picture:
                _checked_size(*picture.size)
                if picture.format == "PPM":
                    _refuse_deep_pnm(picture)
                if frame is not None or picture.format == "TIFF":  # of an animation the first is shown
                    picture.seek(_checked_frame(frame, getattr(picture, "n_frames", 1), "pages"))
                    _checked_size(*picture.size)
                picture.load()
                return _of_pillow(picture, data, levels)
        except UnidentifiedImageError:
            known = ", ".join(PILLOW_FORMATS)
            why = f"it is none of {known}" if data else "it is empty"
            raise BadImageFile(f"cannot be read as a picture ({why})") from None
        except Image.DecompressionBombError:
            raise BadImageFile(
                f"unpacks to more pixels than is safe to load ({Image.MAX_IMAGE_PIXELS:,}), as a decompression bomb "
                "does"
            ) from None

    return get


def _refuse_deep_pnm(picture: Image.Image) -> None:
    """Of more than 8 bits Pillow drops the lower ones in color, and scales them in grey."""
    arguments = picture.tile[0][3]  # of the decoder; its last one is the maximum, unless that is the format's own
    if picture.mode in ("I", "F") or (isinstance(arguments, tuple) and arguments[-1] > 255):
        raise BadImageFile("holds more than 8 bits as PNM, of which only 8 could be read; save it as PNG instead")


def _of_pillow(picture: Image.Image, data: bytes, levels: Levels | None) -> _Picture:
    tags = picture.tag_v2 if isinstance(picture, TiffImagePlugin.TiffImageFile) else {}
    bits = max(tags.get(258, (8,)))
    deep_png = picture.format == "PNG" and data[24] == 16
    if deep_png and picture.mode in ("RGB", "RGBA"):  # Pillow drops the lower byte of these
        values, colour, clear = _deep_png(data, picture)
        full, inverse = (0, 2**16 - 1), False
    elif picture.mode.startswith(("I", "F")):
        values, colour, clear = np.asarray(ImageOps.exif_transpose(picture)), False, False
        kind = tags.get(339, (1,))[0]  # SampleFormat: 1 unsigned, 2 signed, 3 floating-point
        bits = 16 if deep_png else bits
        if kind == 1 and bits == 32 and values.dtype == np.int32:
            values = values.view(np.uint32)
        full = {1: (0, 2**bits - 1), 2: (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)}.get(kind)
        inverse = tags.get(262) == 0  # PhotometricInterpretation: white is zero; Pillow inverts 8 bits only
    elif bits > 8:
        raise BadImageFile(f"holds color in {bits} bits as TIFF, of which only 8 could be read; save it as PNG instead")
    else:
        pixels, clear = _of_eight_bits(picture)
        return _Picture(pixels, picture.mode not in ("1", "L", "LA", "La"), False, clear)
    _refuse_nonfinite(values)
    if levels is None:
        example = "full" if full else f"range:{values.min():g},{values.max():g}"
        raise Undecided(f"{_DEEP.format(values.min(), values.max())}, {_SAY.format(example)}")
    pixels = eight_bit(values, *_bounds(levels, full, lambda: values))
    return _Picture(255 - pixels if inverse else pixels, colour, True, clear)


def _deep_png(data: bytes, picture: Image.Image) -> tuple[np.ndarray, bool, bool]:
    """uint16 (H, W) or (H, W, 3) of a PNG of 16 bits with color or alpha, over black; and whether there is any of each.

    Alpha counts where a pixel is not opaque.
    """
    import torch
    from torchvision.io import ImageReadMode, decode_image

    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    values = decode_image(raw, mode=ImageReadMode.UNCHANGED).numpy().transpose(1, 2, 0)
    colour, clear = values.shape[2] > 2, False
    if values.shape[2] in (2, 4):
        alpha = values[..., -1:].astype(np.uint64)
        clear = bool((alpha < 65535).any())
        values = ((values[..., :-1] * alpha * 2 + 65535) // (2 * 65535)).astype(np.uint16)
    turn = picture.getexif().get(ExifTags.Base.Orientation, 1)
    return _upright(values if colour else values[..., 0], turn), colour, clear


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Rows and columns as EXIF's orientation 1 to 8 says."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _of_eight_bits(picture: Image.Image) -> tuple[np.ndarray, bool]:
    """Grey levels or RGB of a Pillow image of at most 8 bits a channel, upright; whether some of it is transparent."""
    in_grey = picture.mode in ("1", "L")
    upright = ImageOps.exif_transpose(picture)
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        black = Image.new("RGBA", upright.size, (0, 0, 0, 255))
        clear = upright.getchannel("A").getextrema()[0] < 255
        return np.asarray(Image.alpha_composite(black, upright).convert("RGB")), clear
    return np.asarray(upright.convert("L" if in_grey else "RGB")), False


# ------------------------------------------------------------------------------------------ DICOM


def _dicom(data: bytes, file: _File, levels: Levels | None):
    """A function of (frame, axis) that gives the picture."""
    import pydicom
    from pydicom.pixels import iter_pixels

    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    if "Rows" not in dataset or "Columns" not in dataset:
        raise BadImageFile("is no DICOM image: it has no pixels")
    _checked_size(dataset.Columns, dataset.Rows)
    n = int(dataset.get("NumberOfFrames") or 1)
    if "TransferSyntaxUID" not in dataset.file_meta and dataset.original_encoding == (True, True):
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    whole = levels is not None and levels.kind == "percentile"
    if whole and n * dataset.Rows * dataset.Columns > MAX_VOXELS:
        raise BadImageFile(f"holds {n:,} frames, more pixels than is safe to load at once ({MAX_VOXELS:,})")
    asked = {frame or 0 for frame in file.frames} & set(range(n))
    wanted = list(range(n)) if whole else sorted(asked or {0})
    stored = {i: np.array(a) for i, a in zip(wanted, iter_pixels(dataset, indices=wanted), strict=True)}
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        shown = _by_palette(dataset, stored)
    elif dataset.SamplesPerPixel == 3:
        shown = _in_colour(dataset, stored, levels)
    else:
        shown = _in_grey(dataset, stored, levels)
    return lambda frame, axis: shown(_checked_frame(frame, n, "frames"))


def _by_palette(dataset, stored: dict[int, np.ndarray]) -> Callable[[int], _Picture]:
    from pydicom.pixels import apply_color_lut

    entries, first, bits = dataset.RedPaletteColorLookupTableDescriptor
    first = first - 2**16 if dataset.PixelRepresentation and first >= 2**15 else first

    def shown(i):
        indices = np.clip(stored[i].astype(np.int64), first, first + (entries or 2**16) - 1)
        return _Picture(eight_bit(apply_color_lut(indices, dataset)[..., :3], 0, 2**bits - 1), True, False)

    return shown


def _in_colour(dataset, stored: dict[int, np.ndarray], levels: Levels | None) -> Callable[[int], _Picture]:
    full = (0, 2**dataset.BitsStored - 1)
    deep = dataset.BitsStored > 8

    def shown(i):
        low, high = full
        if levels is not None and deep:
            low, high = _bounds(levels, full, lambda: np.stack(list(stored.values())))
        return _Picture(eight_bit(stored[i], low, high), True, deep)

    return shown


def _in_grey(dataset, stored: dict[int, np.ndarray], levels: Levels | None) -> Callable[[int], _Picture]:
    bits = dataset.get("BitsStored")  # none: floating-point
    parts = {i: _part(dataset, i, "PixelValueTransformationSequence") for i in stored}
    rescaled = {i: _rescaled(values, parts[i], dataset) for i, values in stored.items()}
    for values in rescaled.values():
        _refuse_nonfinite(values)

    def shown(i):
        values, own = rescaled[i], _part(dataset, i, "FrameVOILUTSequence")
        windowed = own.get("VOILUTSequence") or None not in (own.get("WindowCenter"), own.get("WindowWidth"))
        as_stored = levels is None and not windowed and bits is not None and bits <= 8
        if windowed and (levels is None or levels.kind == "window"):
            pixels = _windowed(values, own, dataset)
        elif levels is None and not as_stored:
            raise Undecided(f"has no window and {_DEEP.format(values.min(), values.max())}, {_SAY.format('full')}")
        else:
            full = None if bits is None else _full(bits, parts[i], dataset)
            how = levels or Levels("full")
            pixels = eight_bit(values, *_bounds(how, full, lambda: np.stack(list(rescaled.values()))))
        inverse = dataset.PhotometricInterpretation == "MONOCHROME1"
        return _Picture(255 - pixels if inverse else pixels, False, not as_stored)

    return shown


def _part(dataset, frame: int, group: str):
    """Where a frame's rescale or window stands: its own functional group, the shared one, or the file."""
    for sequence, i in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items = dataset.get(sequence)
        if items and i < len(items) and items[i].get(group):
            return items[i].get(group)[0]
    return dataset


def _rescaled(values: np.ndarray, part, dataset) -> np.ndarray:
    """Stored values through the modality LUT, or times slope plus intercept."""
    if part.get("ModalityLUTSequence"):
        return _looked_up(values, part.ModalityLUTSequence[0], dataset)[0]
    slope, intercept = part.get("RescaleSlope"), part.get("RescaleIntercept")
    if slope is None or intercept is None or (slope, intercept) == (1, 0):
        return values
    return values.astype(np.float64) * float(slope) + float(intercept)


def _full(bits: int, part, dataset) -> tuple[float, float]:
    """The range of the stored bits after rescale."""
    if part.get("ModalityLUTSequence"):
        return 0, 2 ** part.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    signed = dataset.get("PixelRepresentation", 0)
    stored = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    low, high = sorted(_rescaled(np.array(stored, dtype=np.int64), part, dataset).tolist())
    return low, high


def _looked_up(values: np.ndarray, item, dataset) -> tuple[np.ndarray, int]:
    """(values through a lookup table, the highest that it can give); those outside it take its ends."""
    entries, first, bits = item.LUTDescriptor
    entries, content = entries or 2**16, item.LUTData
    if isinstance(content, bytes):
        wide = len(content) >= 2 * entries
        order = "<" if dataset.original_encoding[1] else ">"
        content = np.frombuffer(content, np.dtype(f"{order}u2") if wide else np.uint8)
    content = np.asarray(content)[:entries]
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, len(content) - 1)
    return content[index], 2**bits - 1


def _windowed(values: np.ndarray, part, dataset) -> np.ndarray:
    """uint8 by the first VOI LUT or window (DICOM PS3.3, C.11.2)."""
    if part.get("VOILUTSequence"):
        shown, top = _looked_up(values, part.VOILUTSequence[0], dataset)
        return eight_bit(shown, 0, top)
    centre, width = (float(np.atleast_1d(part.get(name))[0]) for name in ("WindowCenter", "WindowWidth"))
    how = str(part.get("VOILUTFunction") or "LINEAR").upper()
    least = 0 if how in ("SIGMOID", "LINEAR_EXACT") else 1
    if not (width > 0 and width >= least and math.isfinite(width) and math.isfinite(centre)):
        raise BadImageFile(
            f"has a window of center {centre:g} and width {width:g}, where a width "
            f"{'of at least 1' if least else 'above 0'} is needed to tell grey levels apart (--levels chooses others)"
        )
    if how == "SIGMOID":
        return eight_bit(1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700))), 0, 1)
    if how == "LINEAR_EXACT":
        return eight_bit(values, centre - width / 2, centre + width / 2)
    low = centre - 0.5 - (width - 1) / 2
    return eight_bit(values, low, low + width - 1)


# ------------------------------------------------------------------------------------------ NIfTI


def volume(data: bytes) -> tuple[np.ndarray, tuple[float, float] | None, bool]:
    """(values (x, y, z) in canonical order, full range of the stored integers, plain bytes) of a NIfTI file.

    Raises BadImageFile, without the path.
    """
    import nibabel

    if data[:2] == b"\x1f\x8b":
        stream = gzip.GzipFile(fileobj=io.BytesIO(data))  # unpacked as far as the header says
        head = stream.peek(8)[:8]
    else:
        stream, head = io.BytesIO(data), data[:8]
    kind = nibabel.Nifti2Image if head[4:8] == b"n+2\0" else nibabel.Nifti1Image
    try:
        image = kind.from_stream(stream)
        shape, stored = _three(image.shape), image.get_data_dtype()
        if math.prod(shape) > MAX_VOXELS:
            raise BadImageFile(f"holds {math.prod(shape):,} voxels, more than is safe to load ({MAX_VOXELS:,})")
        if stored.kind not in "iuf":
            raise BadImageFile(f"holds voxels of type {stored}, which are not grey levels")
        slope, inter = image.dataobj.slope, image.dataobj.inter
        values = np.asarray(image.dataobj).reshape(shape)
        order = nibabel.io_orientation(image.affine)
        values = nibabel.apply_orientation(values, order)
    except BadImageFile:
        raise
    except Exception as error:  # nibabel raises nearly every type on damaged files
        raise BadImageFile(f"cannot be read as a NIfTI volume ({reason(error)})") from None
    full = None
    if stored.kind in "iu":
        limits = np.iinfo(stored)
        full = tuple(sorted((float(limits.min) * slope + inter, float(limits.max) * slope + inter)))
    return values, full, stored == np.uint8 and (slope, inter) == (1, 0)


def _three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if any(n != 1 for n in shape[3:]):
        raise BadImageFile(f"holds {' x '.join(map(str, shape))} values, and only volumes of three dimensions are read")
    return (*shape, 1, 1, 1)[:3]


def _nifti(data: bytes, file: _File, levels: Levels | None):
    """A function of (frame, axis) that gives the slice."""
    values, full, plain = volume(data)
    _refuse_nonfinite(values)
    as_stored = plain and levels is None
    low, high = (0, 255) if as_stored else _bounds(levels or Levels.of(_DEFAULT_NIFTI), full, lambda: values)

    def get(frame, axis):
        i = _checked_frame(frame, values.shape[axis], "slices")
        slice_ = np.moveaxis(values, axis, 0)[i].T[::-1]
        _checked_size(slice_.shape[1], slice_.shape[0])
        return _Picture(eight_bit(slice_, low, high), False, not as_stored)

    return get
