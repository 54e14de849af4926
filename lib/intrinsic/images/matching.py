"""Matching: one size, number of channels and range for every set of a comparison."""

from dataclasses import replace

import numpy as np
from PIL import Image

MOST_PIXELS = 2048  # a side: of 1,000 images these are 4 GB a channel


def match(images, *, size=None, channels=None, pixel_range="stored"):
    """The same set at a common size, number of channels and range, so that distances can be compared.

    Parameters
    ----------
    images : ImageSet
    size : int, optional
        Pixels: every image becomes size x size by antialiased bilinear resampling. The aspect is not kept.
    channels : {1, 3}, optional
        1: grey = 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), rounded. 3: grey levels replicated, which multiplies
        every distance by sqrt(3).
    pixel_range : {"stored", "image"}
        "stored": as they are. "image": each image times 255 / its maximum, rounded; a black one stays black.

    Returns
    -------
    ImageSet
        What is None stays. Channels are changed first, then the range, then the size.

    Raises
    ------
    ValueError
        For a setting that does not exist, and for a stored range that cannot be had back.

    Examples
    --------
    >>> from intrinsic import images
    >>> match(images.load("photo_patches"), size=16, channels=1).images.shape[1:]
    (16, 16)
    """
    check_match(size, channels, pixel_range)
    if pixel_range == "stored" and images.pixel_range != "stored":
        raise ValueError(f"{images.name}: the stored range cannot be had back: load it with pixel_range='stored'")
    pixels = matched(images.images, size, channels, pixel_range if images.pixel_range == "stored" else "stored")
    return images if pixels is images.images else replace(images, images=pixels, pixel_range=pixel_range)


def matched(pixels, size, channels, pixel_range):
    """Pixels, uint8 (n, H, W) or (n, H, W, 3), as `match` makes them; the array itself where nothing changes."""
    if channels == 1 and pixels.ndim == 4:
        pixels = grey(pixels)
    if channels == 3 and pixels.ndim == 3:
        pixels = np.repeat(pixels[..., None], 3, axis=3)
    if pixel_range == "image":  # each image times 255 / its maximum, rounded
        top = np.maximum(pixels.reshape(len(pixels), -1).max(axis=1), 1).astype(np.int32)
        top = top.reshape(-1, *[1] * (pixels.ndim - 1))
        pixels = ((pixels.astype(np.int32) * 510 + top) // (2 * top)).astype(np.uint8)
    if size is not None and pixels.shape[1:3] != (size, size):
        resized = (Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR) for image in pixels)
        pixels = np.stack([np.asarray(image) for image in resized])
    return pixels


def check_match(size, channels, pixel_range="stored"):
    """Raises ValueError for a size, a number of channels or a range that does not exist."""
    if size is not None and (not isinstance(size, int | np.integer) or not 1 <= size <= MOST_PIXELS):
        raise ValueError(f"size={size} is no number of pixels a side: give a whole number from 1 to {MOST_PIXELS:,}")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels={channels} cannot be made from grey or color images: give 1 or 3")
    if pixel_range not in ("stored", "image"):
        raise ValueError(f"pixel_range={pixel_range!r} is unknown: give stored or image")


def grey(pixels):
    """uint8 (..., 3) to (...): ITU-R BT.601, rounded."""
    weights = np.array([299, 587, 114], dtype=np.int32)
    return ((pixels.astype(np.int32) @ weights + 500) // 1000).astype(np.uint8)
