"""DICOM and NIfTI: headers, and grey levels of frames and slices.

DICOM: modality LUT or rescale, then grey levels as `levels` says; MONOCHROME1 is inverted after that; YBR and palettes
become RGB. In a file of several frames rescale and window may be those of the frame.
NIfTI: slope and intercept applied; axes in the closest canonical order (RAS), so that axis 0 is sagittal, 1 coronal,
2 axial. In a slice the upper row is superior, or anterior in axial ones; columns run from left to right or from
posterior to anterior. Nothing is resampled: oblique volumes keep their slices, and voxels their shape.
"""

import math
from collections.abc import Sequence

import numpy as np

from intrinsic.images.pictures import Levels, Look, Picture, checked_frame, eight_bit, refuse_nonfinite, undecided
from intrinsic.images.rules import text_of
from intrinsic.images.sets import BadImageFile

MAX_VOXELS = 2**29  # held at once: 512 x 512 x 2,048
RESCALE = ("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept")
WINDOW = ("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction")


def header(path, tags=None):
    """A DICOM header, of it all or some attributes; None where it cannot be read, which is said once the file is."""
    import pydicom

    try:
        return pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=tags)
    except Exception:  # pydicom raises nearly every type on damaged files
        return None


def attribute(header, tag):
    """An attribute as text; several values as DICOM writes them, with a backslash between; "" where there is none."""
    try:
        value = None if header is None else header.get(tag)
    except Exception:  # damaged values are decoded when they are asked for, and raise nearly every type
        return ""
    many = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return "\\".join(str(one) for one in value) if many else text_of(value)


def dicom_look(path, levels, axis=None):
    """What the header of a DICOM image says."""
    dataset = header(path)
    deep, colour = dataset.get("BitsStored", 32) > 8, _is_coloured(dataset)
    windowed = _is_windowed(_grey_rules(dataset, 0))
    mapped = deep if colour else deep or windowed or levels is not None
    return Look((dataset.Columns, dataset.Rows), colour, mapped, deep and not (colour or windowed or levels))


def dicom_decoder(path, frames, levels):
    """A function of (frame, axis) that gives the Picture."""
    import pydicom
    from pydicom.pixels import iter_pixels

    dataset = pydicom.dcmread(path, force=True)
    if "Rows" not in dataset or "Columns" not in dataset:
        raise BadImageFile("is no DICOM image: it has no pixels")
    n = int(dataset.get("NumberOfFrames") or 1)
    if "TransferSyntaxUID" not in dataset.file_meta and dataset.original_encoding == (True, True):
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    whole = levels is not None and levels.kind == "percentile"
    if (n if whole else 1) * dataset.Rows * dataset.Columns > MAX_VOXELS:
        size = f"{dataset.Columns:,} x {dataset.Rows:,} pixels"
        raise BadImageFile(f"holds {n:,} frames of {size}, more than is safe to load at once ({MAX_VOXELS:,})")
    wanted = list(range(n)) if whole else sorted({frame or 0 for frame in frames} & set(range(n)) or {0})
    stored = {i: np.array(a) for i, a in zip(wanted, iter_pixels(dataset, indices=wanted), strict=True)}
    shown = (_in_colour if _is_coloured(dataset) else _in_grey)(dataset, stored, levels)
    return lambda frame, axis: shown(checked_frame(frame, n, "frames"))


def _is_coloured(dataset):
    return dataset.SamplesPerPixel == 3 or dataset.PhotometricInterpretation == "PALETTE COLOR"


def _in_colour(dataset, stored, levels):
    from pydicom.pixels import apply_color_lut

    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        top = 2 ** dataset.RedPaletteColorLookupTableDescriptor[2] - 1
        return lambda i: Picture(eight_bit(apply_color_lut(stored[i], dataset)[..., :3], 0, top), True)
    full, deep = (0, 2**dataset.BitsStored - 1), dataset.BitsStored > 8
    bounds = ((levels if deep else None) or Levels("full")).bounds(full, lambda: np.stack(list(stored.values())))
    return lambda i: Picture(eight_bit(stored[i], *bounds), True)


def _in_grey(dataset, stored, levels):
    rules = {i: _grey_rules(dataset, i) for i in stored}
    rescaled = {i: _rescaled(values, rules[i]) for i, values in stored.items()}
    for values in rescaled.values():
        refuse_nonfinite(values)

    def shown(i):
        values, windowed, bits = rescaled[i], _is_windowed(rules[i]), dataset.get("BitsStored")
        if windowed and (levels is None or levels.kind == "window"):
            pixels = _windowed(values, rules[i])
        elif levels is None and (bits is None or bits > 8):  # none: floating-point
            raise undecided(values, "full", "has no window and holds")
        else:
            full = None if bits is None else _full(bits, dataset.get("PixelRepresentation", 0), rules[i])
            how = levels or Levels("full")
            pixels = eight_bit(values, *how.bounds(full, lambda: np.stack(list(rescaled.values()))))
        inverse = dataset.PhotometricInterpretation == "MONOCHROME1"
        return Picture(255 - pixels if inverse else pixels, False)

    return shown


def _grey_rules(dataset, frame):
    """Rescale and window of a frame, as a dataset: of its own functional group, the shared one, or the file."""
    import pydicom

    rules = pydicom.Dataset()
    # the range that pydicom gives windows; without this it would be the stored bits, rescaled
    rules.PhotometricInterpretation, rules.BitsStored, rules.PixelRepresentation = "MONOCHROME2", 16, 0
    for keys, group in ((RESCALE, "PixelValueTransformationSequence"), (WINDOW, "FrameVOILUTSequence")):
        part = dataset
        for sequence, i in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
            items = dataset.get(sequence)
            if items and i < len(items) and items[i].get(group):
                part = items[i].get(group)[0]
                break
        for key in keys:
            if part.get(key) not in (None, "", []):
                rules.add(part[key])
    return rules


def _is_windowed(rules):
    return "VOILUTSequence" in rules or ("WindowCenter" in rules and "WindowWidth" in rules)


def _rescaled(values, rules):
    """Stored values through the modality LUT, or times slope plus intercept."""
    from pydicom.pixels import apply_modality_lut

    return _looked_up(values, rules, RESCALE[0])[0] if RESCALE[0] in rules else apply_modality_lut(values, rules)


def _full(bits, signed, rules):
    """The range of the stored bits after rescale."""
    stored = np.array((-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1), dtype=np.int64)
    if RESCALE[0] in rules:
        return 0, _looked_up(stored, rules, RESCALE[0])[1]
    return tuple(sorted(_rescaled(stored, rules).tolist()))


def _windowed(values, rules):
    """uint8 by the first VOI LUT or window (DICOM PS3.3, C.11.2)."""
    from pydicom.pixels import apply_voi_lut

    if WINDOW[0] in rules:
        shown, top = _looked_up(values, rules, WINDOW[0])
        return eight_bit(shown, 0, top)
    for key in RESCALE:  # applied already
        rules.pop(key, None)
    with np.errstate(over="ignore"):  # of a sigmoid far from its center
        shown = apply_voi_lut(values, rules)
    refuse_nonfinite(shown)
    return eight_bit(shown, 0, 2**rules.BitsStored - 1)


def _looked_up(values, rules, key):
    """(values through a lookup table, those outside by its ends; the most that its entries can be).

    pydicom counts entries in as many bits as they have, and knows no entries of a byte.
    """
    table = rules[key].value[0]
    entries, first, bits = table.LUTDescriptor
    n, data = entries or 2**16, table.LUTData
    if isinstance(data, bytes):
        little = table.original_encoding[1] is not False
        data = np.frombuffer(data, "u1" if len(data) < 2 * n else "<u2" if little else ">u2")
    return np.asarray(data)[np.clip(np.rint(values).astype(np.int64) - first, 0, n - 1)], 2**bits - 1


def slices(path):
    """The shape of a NIfTI volume in canonical axes, from its header; None where that cannot be read."""
    import nibabel

    try:
        image = nibabel.load(path)
        order = nibabel.io_orientation(image.affine)[:, 0].astype(int)
        return tuple(int(n) for n in np.array(_three(image.shape))[np.argsort(order)])
    except Exception:  # the reason is given once the file is read
        return None


def nifti_look(path, levels, axis=2):
    """What the header of a volume says of a slice along an axis."""
    import nibabel

    image = nibabel.load(path)
    plain = image.get_data_dtype() == np.uint8 and (image.dataobj.slope, image.dataobj.inter) == (1, 0)
    shown = tuple(n for i, n in enumerate(slices(path)) if i != axis)
    return Look(shown, False, not (plain and levels is None), False)


def volume(path):
    """(values (x, y, z) in canonical order, full range of the stored integers, plain bytes) of a NIfTI file."""
    import nibabel

    image = nibabel.load(path)
    shape, stored = _three(image.shape), image.get_data_dtype()
    if math.prod(shape) > MAX_VOXELS:
        raise BadImageFile(f"holds {math.prod(shape):,} voxels, more than is safe to load ({MAX_VOXELS:,})")
    if stored.kind not in "iuf":
        raise BadImageFile(f"holds voxels of type {stored}, which are not grey levels")
    slope, inter = image.dataobj.slope, image.dataobj.inter
    values = np.asarray(image.dataobj).reshape(shape)
    values = nibabel.apply_orientation(values, nibabel.io_orientation(image.affine))
    full = None
    if stored.kind in "iu":
        limits = np.iinfo(stored)
        full = tuple(sorted((float(limits.min) * slope + inter, float(limits.max) * slope + inter)))
    return values, full, stored == np.uint8 and (slope, inter) == (1, 0)


def _three(shape):
    if any(n != 1 for n in shape[3:]):
        raise BadImageFile(f"holds {' x '.join(map(str, shape))} values, and only volumes of three dimensions are read")
    return (*shape, 1, 1, 1)[:3]


def nifti_decoder(path, frames, levels):
    """A function of (frame, axis) that gives the slice as a Picture."""
    values, full, plain = volume(path)
    refuse_nonfinite(values)
    as_stored = plain and levels is None
    how = levels or Levels("percentile", 0.1, 99.9)
    low, high = (0, 255) if as_stored else how.bounds(full, lambda: values)

    def get(frame, axis):
        i = checked_frame(frame, values.shape[axis], "slices")
        slice_ = np.moveaxis(values, axis, 0)[i].T[::-1]
        return Picture(eight_bit(slice_, low, high), False)

    return get
