"""Images in rows, and pairs of images with their difference, as one PNG with its text alternative."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

DENSITY, FONT, TEXT = 2, 12, "#333333"  # pixels of the PNG a pixel of the page


class BadPictures(ValueError):
    """Images that cannot be drawn beside each other."""


class Picture:
    """A PNG that shows itself in a notebook: `png` bytes, `size` on the page, `description` in words."""

    def __init__(self, image: Image.Image, description: str):
        out = io.BytesIO()
        image.save(out, format="PNG", optimize=True)
        self.png, self.description = out.getvalue(), description
        self.size = tuple(side // DENSITY for side in image.size)

    def __repr__(self) -> str:
        return self.description

    def _repr_mimebundle_(self, **_):
        width, height = self.size
        bundle = {"image/png": base64.b64encode(self.png).decode("ascii"), "text/plain": self.description}
        return bundle, {"image/png": {"width": width, "height": height, "alt": self.description}}


def gallery(images, titles: Sequence[str] | None = None, *, side=96, headings=None, description=None):
    """Draw images in rows as one Picture, each enlarged by repeating its pixels, with a title below.

    Parameters
    ----------
    images : ImageSet, or sequence of uint8 arrays (H, W) or (H, W, C), C = 1 or 3
    titles, headings : sequence of str, optional
        One text an image, of one or more lines; one text a column, above the first row. Without, a row has six images.
    side : int
        Pixels of the longer side on the page, about.
    description : str, optional
        The text alternative; the titles otherwise.
    """
    drawn = [_array(image) for image in getattr(images, "images", images)]
    titles = [""] * len(drawn) if titles is None else [str(title) for title in titles]
    if not drawn or len(titles) != len(drawn):
        raise BadPictures(f"{len(titles)} titles are given for {len(drawn)} images: give one or more, a title each")
    columns = len(headings) if headings is not None else min(6, len(drawn))
    font, line, gap = ImageFont.load_default(size=FONT * DENSITY), 16 * DENSITY, 12 * DENSITY
    tiles = [_enlarged(image, side * DENSITY) for image in drawn]
    width = max(side * DENSITY, *(tile.width for tile in tiles))
    height = max(tile.height for tile in tiles)
    texts = [[_fitting(part, font, width) for part in title.split("\n")] for title in titles]
    below = line * max(len([part for part in parts if part]) for parts in texts)
    above = line if headings is not None else 0
    step = height + below + gap
    canvas = Image.new("RGB", (columns * (width + gap) + gap, above + -(-len(tiles) // columns) * step + gap), "white")
    draw = ImageDraw.Draw(canvas)
    for column, heading in enumerate(headings or []):
        draw.text((gap + column * (width + gap), gap // 2), _fitting(heading, font, width), TEXT, font)
    for i, (tile, parts) in enumerate(zip(tiles, texts, strict=True)):
        left, top = gap + i % columns * (width + gap), above + gap + i // columns * step
        canvas.paste(tile, (left, top))
        for row, part in enumerate(parts):
            draw.text((left, top + height + row * line), part, TEXT, font)
    named = "; ".join(" ".join(title.split()) for title in titles if title)
    return Picture(canvas, description or f"{len(tiles)} images" + (f": {named}." if named else "."))


def pairs(left, right, titles=None, *, headings=("one", "the other", "difference"), side=128):
    """Draw pairs of images of one shape, a row each: the one, the other, their difference scaled to its largest value.

    Parameters and result are as for `gallery`, with one title a pair.
    """
    both = [[_array(image) for image in getattr(side_, "images", side_)] for side_ in (left, right)]
    titles = [""] * len(both[0]) if titles is None else [str(title) for title in titles]
    shown, texts = [], []
    for a, b, title in zip(*both, titles, strict=True):
        if a.shape != b.shape:
            raise BadPictures(f"images of shapes {a.shape} and {b.shape} have no difference; match them first")
        apart = np.abs(a.astype(np.int16) - b)
        shown += [a, b, (apart * (255 / max(int(apart.max()), 1))).astype(np.uint8)]
        texts += [title, "", f"at most {int(apart.max())} of 255"]
    named = "; ".join(" ".join(title.split()) for title in titles if title)
    text = f"{len(titles)} pairs of images with their differences" + (f": {named}." if named else ".")
    return gallery(shown, texts, headings=headings, side=side, description=text)


def _array(image) -> np.ndarray:
    image = np.asarray(image)
    image = image[..., 0] if image.shape[2:] == (1,) else image
    if image.dtype != np.uint8 or image.ndim < 2 or image.shape[2:] not in ((), (3,)):
        found = f"an image of shape {image.shape} and type {image.dtype}"
        raise BadPictures(f"{found} cannot be drawn; give uint8 images of one or three channels")
    return image


def _enlarged(image: np.ndarray, side: int) -> Image.Image:
    """Whole multiples of pixels up to about `side`; larger images are averaged down."""
    picture = Image.fromarray(image).convert("RGB")
    longer = max(picture.size)
    if longer > side:
        return picture.resize([max(1, round(s * side / longer)) for s in picture.size], Image.Resampling.BOX)
    zoom = max(1, round(side / longer))
    return picture.resize([s * zoom for s in picture.size], Image.Resampling.NEAREST)


def _fitting(text: str, font, width: int) -> str:
    """The text, or as much of it as fits."""
    cut = [str(text), *(f"{str(text)[:n]}…" for n in range(len(text) - 1, -1, -1))]
    return next((one for one in cut if font.getlength(one) <= width), "…")
