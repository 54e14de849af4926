"""Makes pictures, DICOM and NIfTI files of which every pixel is known; what is known of images made by a formula."""

import nibabel
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from intrinsic.images import manifolds


def flat(value, shape=(4, 3)):
    """Pixels of one grey level."""
    return np.full(shape, value, np.uint8)


def level(path, value, shape=(4, 3)):
    """A picture of one grey level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(flat(value, shape)).save(path)


def levels(images):
    """The one grey level of each image."""
    rows = images.images.reshape(len(images), -1)
    assert (rows == rows[:, :1]).all()
    return rows[:, 0].tolist()


def layers(*values, shape=(3, 4)):
    """A volume whose axial slice i has the value i of those given."""
    return np.repeat(np.array(values, np.uint8)[None], np.prod(shape), axis=0).reshape(*shape, len(values))


def nifti(path, values, affine=None, slope=None, inter=None, kind=nibabel.Nifti1Image):
    """A NIfTI volume."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = kind(values, np.eye(4) if affine is None else affine)
    image.header.set_slope_inter(slope, inter)
    nibabel.save(image, path)


def dicom(path, values, *, bits=None, **tags):
    """A DICOM file of values (H, W), (frames, H, W) or, with SamplesPerPixel=3, (H, W, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    colour = tags.get("SamplesPerPixel") == 3
    shape = values.shape[:-1] if colour else values.shape
    if len(shape) == 3:
        data.NumberOfFrames = shape[0]
    data.Rows, data.Columns = shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "RGB" if colour else "MONOCHROME2"
    data.BitsAllocated = 8 * values.dtype.itemsize
    data.BitsStored = bits or data.BitsAllocated
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(values.dtype.kind == "i")
    if colour:
        data.PlanarConfiguration = 0
    for name, value in tags.items():
        setattr(data, name, value)
    content = values.tobytes()
    data.PixelData = content + b"\0" * (len(content) % 2)
    data.save_as(path, enforce_file_format=True)


def truth(family, d, gap, size=32):
    """(scale, distance between the classes) from the definition."""
    if family is manifolds.torus_images:
        waves = manifolds._patterns(2, d, 2 * d, size)
        scale = 0.5 / np.sqrt(waves[0::2] ** 2 + waves[1::2] ** 2).sum(axis=0).max()
        return scale, 2 * scale * np.sin(gap / 4)
    scale = 0.5 / abs(manifolds._patterns(2, d, d, size)).sum(axis=0).max()
    return scale, scale * gap
