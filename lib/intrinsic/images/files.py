"""Files to arrays: pictures, in 8 bits or more, decoded once."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from intrinsic.images.matching import Range, grey, resize, stretched
from intrinsic.images.sets import BadImageFile, MixedSizes, reason

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif")
PILLOW_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "GIF", "WEBP")  # WEBP is often named .jpg


@dataclass(frozen=True)
class Reading:
    """How files become arrays: all that decides a pixel, beside the file.

    size, channels, range   as in matching.match, applied to each image as it is read; None stays as it is
    """

    size: int | None = None
    channels: int | None = None
    range: Range = "stored"
    levels: str | None = None


def read(root: Path, table: pd.DataFrame, reading: Reading, *, skip: bool = False, progress: bool = False):
    """(images, rows that were read, files that were not) of a table's rows.

    images   uint8 (n, H, W) or (n, H, W, 3), of the rows that were read: a bool mask, all True unless skip
    skip     leave files out that cannot be read; the third value names each: ((path, reason), ...)
    Raises BadImageFile, MixedSizes.
    """
    pictures, files, unreadable = [], [], []
    good = np.ones(len(table), dtype=bool)
    for i, name in enumerate(table["path"]):
        file = root / name
        try:
            picture = _read_picture(file)
        except BadImageFile as error:
            if not skip:
                raise
            good[i] = False
            unreadable.append((name, str(error)))
            continue
        if picture.ndim == 3 and reading.channels == 1:
            picture = grey(picture)
        if reading.range == "image":
            picture = stretched(picture[None])[0]
        if reading.size is not None:
            picture = resize(picture, reading.size)
        elif picture.shape[:2] != (pictures[0] if pictures else picture).shape[:2]:
            raise MixedSizes(
                f"{files[0]} is {_sides(pictures[0])} and {file} is {_sides(picture)} pixels, "
                "and distances need one size: resize all by giving one, e.g. size=64"
            )
        pictures.append(picture)
        files.append(file)
    if any(picture.ndim == 3 for picture in pictures):
        pictures = [p if p.ndim == 3 else np.repeat(p[..., None], 3, axis=2) for p in pictures]
    if not pictures:
        raise BadImageFile(f"none of the {len(table)} files in {root} can be read: {unreadable[0][1]}")
    return np.stack(pictures), good, tuple(unreadable)


def _sides(picture: np.ndarray) -> str:
    return f"{picture.shape[1]} x {picture.shape[0]}"


def hidden(path: Path) -> bool:
    """Whether a file is not meant to be seen."""
    return path.name.startswith((".", "__"))


def is_picture(path: Path) -> bool:
    """Whether a path looks like a picture file."""
    return path.suffix.lower() in SUFFIXES and not hidden(path) and not path.is_dir()


def _read_picture(path):
    """uint8 (H, W) where all channels are equal, else (H, W, 3); transparency is laid over black."""
    if not path.is_file():
        raise BadImageFile(f"{path} is no regular file (a broken link?), so it cannot be read: remove it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=PILLOW_FORMATS) as picture:
                picture.load()
                deep = picture.mode.startswith(("I", "F"))  # 16 or 32 bits
                levels = picture.getextrema() if deep else None
                pixels = None if deep else _eight_bit(picture)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise BadImageFile(
            f"{path} unpacks to more pixels than is safe to load ({Image.MAX_IMAGE_PIXELS:,}), as a "
            "decompression bomb does: make it smaller or remove it"
        ) from None
    except Exception as error:  # Pillow's readers raise nearly every type on damaged files
        raise BadImageFile(f"{path} cannot be read as a picture ({reason(error)}): replace or remove it") from None
    if pixels is None:
        raise BadImageFile(
            f"{path} holds grey levels from {levels[0]:g} to {levels[1]:g} in more than 8 bits, and which of "
            "them become 0 and 255 changes every distance: convert it to 8 bits first"
        )
    if pixels.ndim == 3 and (pixels[..., :1] == pixels).all():
        pixels = pixels[..., 0]
    return np.ascontiguousarray(pixels)


def _eight_bit(picture):
    """Grey levels or RGB of a Pillow image of at most 8 bits a channel, upright."""
    grey = picture.mode in ("1", "L")
    upright = ImageOps.exif_transpose(picture)
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        black = Image.new("RGBA", upright.size, (0, 0, 0, 255))
        return np.asarray(Image.alpha_composite(black, upright).convert("RGB"))
    return np.asarray(upright.convert("L" if grey else "RGB"))
