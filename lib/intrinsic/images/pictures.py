"""Grey levels, and pictures: PNG, JPEG, BMP, TIFF, GIF, WEBP, PBM, PGM, PPM.

Pictures are read upright, transparency over black, of an animation the first.
"""

import math
import re
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from intrinsic.images.sets import BadImageFile

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".webp")
SUFFIXES += (".pbm", ".pgm", ".ppm", ".pnm")
# what a file's header says: (width, height); whether it is stored in color, brought to 8 bits, and undecided how
Look = namedtuple("Look", "size colour mapped undecided")
# uint8 (H, W) or (H, W, 3); whether it is stored in color, and transparent in places
Picture = namedtuple("Picture", "pixels colour clear", defaults=[False])
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "GIF", "WEBP", "PPM")


class Undecided(BadImageFile):
    """A file with more than 8 bits, and nothing says what becomes 0 and 255. Never skipped as unreadable."""


@dataclass(frozen=True)
class Levels:
    """What becomes 0 and 255 where a file holds more than 8 bits, by a clipped linear map, rounded half up.

    full                  0 to 2^bits - 1; DICOM: the range of the stored bits, after rescale
    range:LOW,HIGH        these values, after rescale (CT: Hounsfield units)
    percentile:LOW,HIGH   of the picture, or of the whole volume where the file is one
    window                the first VOI LUT or window of the DICOM file
    """

    kind: str
    low: float = 0.0
    high: float = 0.0

    @classmethod
    def of(cls, text):
        """From its text; None stays None. Raises ValueError."""
        if text is None:
            return None
        found = re.fullmatch(r"(full|window)|(range|percentile):([^,]+),([^,]+)", text.strip())
        try:
            levels = cls(found[1]) if found[1] else cls(found[2], float(found[3]), float(found[4]))
        except (TypeError, ValueError):
            levels = cls("none")
        inside = levels.kind != "percentile" or (levels.low >= 0 and levels.high <= 100)
        if levels.kind not in ("full", "window") and not (-math.inf < levels.low < levels.high < math.inf and inside):
            ways = "full, window, range:LOW,HIGH (grey levels) or percentile:LOW,HIGH (0 to 100)"
            raise ValueError(f"levels {text!r} does not say what becomes 0 and 255: give {ways}")
        return levels

    def bounds(self, full, values):
        """(what becomes 0, what becomes 255).

        full     the range of the stored numbers; None: floating-point
        values   a function that gives what percentiles are of
        """
        if self.kind == "range":
            return self.low, self.high
        if self.kind == "percentile":
            low, high = np.percentile(values(), (self.low, self.high))
            return float(low), float(high)
        if self.kind == "window" or full is None:
            what = "window of its own" if self.kind == "window" else "full range, as it holds floating-point numbers"
            raise Undecided(f"has no {what}, which levels={self.kind!r} needs: give others, e.g. percentile:1,99")
        return full


def eight_bit(values, low, high):
    """uint8: `low` and below become 0, `high` and above 255, linear between, rounded half up."""
    if high <= low:
        return np.where(values > low, 255, 0).astype(np.uint8)
    scaled = (np.clip(values, low, high).astype(np.float64) - low) * 255 / (high - low)
    return np.floor(scaled + 0.5).astype(np.uint8)


def undecided(values, example, why="holds"):
    """The error for a file in which nothing says what becomes 0 and 255."""
    return Undecided(
        f"{why} grey levels from {values.min():g} to {values.max():g} in more than 8 bits, and which become 0 and 255 "
        f"changes every distance: choose levels (--levels), e.g. {example} or percentile:1,99"
    )


def refuse_nonfinite(values):
    """Raises BadImageFile for NaN and infinite values."""
    if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
        n = int((~np.isfinite(values)).sum())
        raise BadImageFile(f"holds {n:,} values that are not finite numbers (NaN or infinite), which are no grey level")


def checked_frame(frame, n, what):
    """The number of a frame that is there. Raises BadImageFile."""
    if frame is None and n > 1:
        raise BadImageFile(f"holds {n:,} {what}, and nothing says which of them is the image: give the column `frame`")
    if not 0 <= (frame or 0) < n:
        raise BadImageFile(f"has no {what.removesuffix('s')} {frame}, only {n:,} counted from 0")
    return frame or 0


def look(path, levels, axis=None):
    """What the header of a picture says."""
    with Image.open(path, formats=FORMATS) as picture:
        size = picture.size[::-1] if picture.getexif().get(274, 1) in (5, 6, 7, 8) else picture.size
        deep = picture.mode.startswith(("I", "F")) or _is_deep_png(picture, path)
        return Look(size, _is_coloured(picture), deep, deep and levels is None)


def decoder(path, frames, levels):
    """A function of (frame, axis) that gives the Picture."""

    def get(frame, axis):
        with Image.open(path, formats=FORMATS) as picture:
            if frame is not None or picture.format == "TIFF":  # of an animation the first is shown
                picture.seek(checked_frame(frame, getattr(picture, "n_frames", 1), "pages"))
            if picture.format == "PPM":  # of more than 8 bits Pillow drops the lower ones
                arguments = picture.tile[0][3]  # the last one is the maximum, unless that is the format's own
                if picture.mode in ("I", "F") or (isinstance(arguments, tuple) and arguments[-1] > 255):
                    raise BadImageFile("holds more than 8 bits as PNM, of which only 8 could be read; save it as PNG")
            picture.load()
            return _of_pillow(picture, path, levels)

    return get


def _is_coloured(picture):
    return picture.mode not in ("1", "L", "LA", "La") and not picture.mode.startswith(("I", "F"))


def _is_deep_png(picture, path):
    if picture.format != "PNG":
        return False
    with path.open("rb") as stream:
        return stream.read(25)[24:] == b"\x10"


def _of_pillow(picture, path, levels):
    tags = getattr(picture, "tag_v2", {})  # of a TIFF
    bits, deep_png = max(tags.get(258, (8,))), _is_deep_png(picture, path)
    colour, clear = False, False
    if deep_png and picture.mode in ("RGB", "RGBA"):  # Pillow drops the lower byte of these
        values, colour, clear = _deep_png(path)
        full = (0, 2**16 - 1)
    elif picture.mode.startswith(("I", "F")):
        values = np.asarray(ImageOps.exif_transpose(picture))
        kind = tags.get(339, (1,))[0]  # SampleFormat: 1 unsigned, 2 signed, 3 floating-point
        bits = 16 if deep_png else bits
        if kind == 1 and bits == 32 and values.dtype == np.int32:
            values = values.view(np.uint32)
        full = {1: (0, 2**bits - 1), 2: (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)}.get(kind)
    elif bits > 8:
        raise BadImageFile(f"holds color in {bits} bits as TIFF, of which only 8 could be read; save it as PNG instead")
    else:
        return _of_eight_bits(picture)
    refuse_nonfinite(values)
    if levels is None:
        raise undecided(values, "full" if full else f"range:{values.min():g},{values.max():g}")
    pixels = eight_bit(values, *levels.bounds(full, lambda: values))
    inverse = tags.get(262) == 0  # PhotometricInterpretation: white is zero; Pillow inverts 8 bits only
    return Picture(255 - pixels if inverse else pixels, colour, clear)


def _deep_png(path):
    """(uint16 (H, W) or (H, W, 3) over black, in color, transparent in places) of a PNG of 16 bits a channel."""
    from torchvision.io import ImageReadMode, decode_image

    values = decode_image(str(path), ImageReadMode.UNCHANGED, apply_exif_orientation=True).numpy().transpose(1, 2, 0)
    colour, clear = values.shape[2] > 2, False
    if values.shape[2] in (2, 4):
        alpha = values[..., -1:].astype(np.uint64)
        clear = bool((alpha < 65535).any())
        values = ((values[..., :-1] * alpha * 2 + 65535) // (2 * 65535)).astype(np.uint16)
    return (values if colour else values[..., 0]), colour, clear


def _of_eight_bits(picture):
    """A Pillow image of at most 8 bits a channel, upright and over black."""
    upright, clear = ImageOps.exif_transpose(picture), False
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        clear = upright.getchannel("A").getextrema()[0] < 255
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, (0, 0, 0, 255)), upright)
    pixels = np.asarray(upright.convert("L" if picture.mode in ("1", "L") else "RGB"))
    return Picture(pixels, _is_coloured(picture), clear)
