"""Files to arrays: every pixel of pictures, DICOM and NIfTI in 8 bits and more, whatever the number of threads."""

import gzip
import struct
import tracemalloc
import zlib
from contextlib import nullcontext
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
from image_files import dicom, nifti
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

from intrinsic.images import ImageSet, files, match, pictures, scans
from intrinsic.images.files import Reading, read
from intrinsic.images.pictures import Levels, Undecided
from intrinsic.images.sets import BadImageFile, BadSource


def read_all(root, *names, frames=None, axes=None, levels=None, **options):
    """The images of files of `root`, in the order given."""
    table = pd.DataFrame({"path": names})
    if frames is not None:
        table["frame"] = pd.array(frames, dtype="Int64")
    if axes is not None:
        table["axis"] = axes
    keys = {key: options.pop(key) for key in ("size", "channels", "pixel_range") if key in options}
    return read(Path(root), table, Reading(levels=Levels.of(levels), **keys), **options)


def mapped(values, low, high):
    """The clipped linear map to 0..255, rounded half up, in whole numbers."""
    values = np.clip(np.asarray(values, dtype=object), low, high)
    return np.array([(510 * (v - low) + (high - low)) // (2 * (high - low)) for v in values.ravel()]).reshape(
        values.shape
    )


NOISE = np.random.default_rng(7)


DEEP = NOISE.integers(0, 2**16, (6, 5)).astype(np.uint16)


GREY = NOISE.integers(0, 256, (6, 5)).astype(np.uint8)


RGB = NOISE.integers(0, 256, (6, 5, 3)).astype(np.uint8)


def deep_png(path, values, turn=None):
    """A PNG of 16 bits: grey, grey and alpha, RGB or RGBA by the last axis."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[values.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header)]
    if turn is not None:
        exif = Image.Exif()
        exif[0x0112] = turn
        parts.append(chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    parts += [chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_levels_are_read_from_their_text():
    assert Levels.of("full") == Levels("full")
    assert Levels.of(" range:-1000, 400.5 ") == Levels("range", -1000.0, 400.5)
    assert Levels.of("percentile:0.1,99.9") == Levels("percentile", 0.1, 99.9)


@pytest.mark.parametrize(
    "text",
    ["", "all", "range", "range:5", "range:5,5", "range:9,5", "range:a,b", "range:0,inf", "range:0,nan", "range:1,2,3",
     "percentile:-1,50", "percentile:1,101", "percentile:50,50", "full:0,1", "window,1"],
)  # fmt: skip
def test_levels_that_say_nothing_definite_are_refused_in_one_sentence(text):
    with pytest.raises(ValueError, match="range:LOW,HIGH") as raised:
        Levels.of(text)
    assert "\n" not in str(raised.value)


def test_eight_bits_are_a_clipped_linear_map_rounded_half_up():
    values = np.arange(-5, 520)
    assert pictures.eight_bit(values, 0, 510).tolist() == mapped(values, 0, 510).tolist()
    assert pictures.eight_bit(np.array([1, 3, 509]), 0, 510).tolist() == [1, 2, 255]  # 0.5, 1.5 and 254.5: halves
    assert pictures.eight_bit(np.array([3.9, 4, 4.1]), 4, 4).tolist() == [0, 0, 255]  # no width: a step
    every = np.arange(256, dtype=np.uint8)
    assert pictures.eight_bit(every, 0, 255).tolist() == every.tolist()


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.TIFF", "x.bmp", "x.gif", "x.webp", "named_wrongly.jpg"])
def test_lossless_pictures_give_every_pixel_by_content_whatever_the_suffix(tmp_path, name):
    kind = {"jpg": "PNG", "webp": "WEBP", "bmp": "BMP", "gif": "GIF", "png": "PNG"}.get(name.split(".")[1], "TIFF")
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = np.repeat(GREY[..., None], 3, axis=2) if kind == "WEBP" else GREY
    Image.fromarray(pixels).save(tmp_path / name, format=kind, **options)
    assert np.array_equal(read_all(tmp_path, name)[0][0], GREY)
    if kind not in ("GIF",):
        Image.fromarray(RGB).save(tmp_path / name, format=kind, **options)
        assert np.array_equal(read_all(tmp_path, name)[0][0], RGB)


def test_netpbm_pictures_give_every_pixel_in_8_bits_and_are_refused_in_more(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "x.pgm")
    Image.fromarray(RGB).save(tmp_path / "x.ppm")
    Image.fromarray(GREY > 99).save(tmp_path / "x.pbm")
    (tmp_path / "plain.pnm").write_bytes(b"P2\n# levels to 3\n2 2\n3\n0 1\n2 3\n")
    assert np.array_equal(read_all(tmp_path, "x.pgm")[0][0], GREY)
    assert np.array_equal(read_all(tmp_path, "x.ppm")[0][0], RGB)
    assert np.array_equal(read_all(tmp_path, "x.pbm")[0][0], np.where(GREY > 99, 255, 0))
    assert read_all(tmp_path, "plain.pnm")[0][0].tolist() == [[0, 85], [170, 255]]
    for head, width in ((b"P5 2 2 65535\n", 2), (b"P5 2 2 4095\n", 2), (b"P6 2 2 65535\n", 6), (b"Pf 2 2 -1\n", 4)):
        (tmp_path / "deep.ppm").write_bytes(head + bytes(4 * width))
        with pytest.raises(BadImageFile, match=r"deep\.ppm .*more than 8 bits"):
            read_all(tmp_path, "deep.ppm")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_become_eight_as_levels_say_and_never_silently(tmp_path, suffix):
    name = f"x.{suffix}"
    Image.fromarray(DEEP).save(tmp_path / name)
    with pytest.raises(Undecided, match=rf"x\.{suffix} .*{DEEP.min()} to {DEEP.max()}"):
        read_all(tmp_path, name)
    with pytest.raises(Undecided, match="8 bits"):
        read_all(tmp_path, name, skip=True)  # a decision is missing, not a file broken
    with pytest.raises(Undecided, match="window"):
        read_all(tmp_path, name, levels="window")
    values = DEEP.astype(int)
    assert np.array_equal(read_all(tmp_path, name, levels="full")[0][0], mapped(values, 0, 65535))
    assert np.array_equal(read_all(tmp_path, name, levels="range:20000,40000")[0][0], mapped(values, 20000, 40000))
    low, high = np.percentile(DEEP, (10, 90))
    expected = np.floor(np.clip((values - low) / (high - low), 0, 1) * 255 + 0.5)
    assert np.array_equal(read_all(tmp_path, name, levels="percentile:10,90")[0][0], expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_png_of_sixteen_bits_a_channel_keeps_its_lower_byte(tmp_path, channels):
    values = NOISE.integers(0, 2**16, (6, 5, channels)).astype(np.uint16)
    values[..., 0] = values[..., 0] // 256 + 1000  # within two levels of 8 bits, were the lower byte dropped
    if channels in (2, 4):
        values[..., -1] = 65535
        values[0, 0, -1] = 0
    deep_png(tmp_path / "x.png", values)
    shown = values[..., : 1 if channels < 3 else 3].astype(int)
    if channels in (2, 4):
        shown[0, 0] = 0  # transparent: black
    with pytest.raises(Undecided):
        read_all(tmp_path, "x.png")
    told = pytest.warns(UserWarning, match="1 of 1 pictures are transparent") if channels in (2, 4) else nullcontext()
    with told:
        image = read_all(tmp_path, "x.png", levels="range:1000,1300")[0][0]
    assert np.array_equal(image, mapped(shown, 1000, 1300).squeeze())


@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_of_any_depth_are_turned_upright_alike(tmp_path, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(GREY).save(tmp_path / "8.png", exif=exif)
    deep_png(tmp_path / "16.png", GREY[..., None].astype(np.uint16) * 257, turn)
    deep_png(tmp_path / "48.png", np.repeat(GREY[..., None], 3, axis=2).astype(np.uint16) * 257, turn)
    upright = read_all(tmp_path, "8.png")[0][0]
    assert np.array_equal(read_all(tmp_path, "16.png", levels="full")[0][0], upright)
    assert np.array_equal(read_all(tmp_path, "48.png", levels="full")[0][0], upright)
    assert upright.shape == ((6, 5) if turn < 5 else (5, 6))


def test_tiffs_of_other_depths_and_signs_have_their_own_full_range(tmp_path):
    signed = NOISE.integers(-(2**31), 2**31, (6, 5)).astype(np.int32)
    Image.fromarray(signed).save(tmp_path / "signed.tif")
    assert np.array_equal(
        read_all(tmp_path, "signed.tif", levels="full")[0][0], mapped(signed.astype(object), -(2**31), 2**31 - 1)
    )
    real = NOISE.random((6, 5)).astype(np.float32)
    Image.fromarray(real).save(tmp_path / "float.tif")
    with pytest.raises(Undecided, match=r"float.*e\.g\. range:"):
        read_all(tmp_path, "float.tif")
    with pytest.raises(Undecided, match="no full range"):
        read_all(tmp_path, "float.tif", levels="full")
    expected = np.floor(np.clip(real.astype(float), 0, 1) * 255 + 0.5)
    assert np.array_equal(read_all(tmp_path, "float.tif", levels="range:0,1")[0][0], expected)
    real[2, 3] = np.nan
    Image.fromarray(real).save(tmp_path / "float.tif")
    with pytest.raises(BadImageFile, match=r"float\.tif holds 1 values that are not finite"):
        read_all(tmp_path, "float.tif", levels="range:0,1")


def test_pages_of_a_tiff_are_images_by_number_and_refused_without(tmp_path):
    pages = [Image.fromarray(GREY), Image.fromarray(255 - GREY), Image.fromarray(GREY // 2)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(BadImageFile, match=r"x\.tif .*3 pages"):
        read_all(tmp_path, "x.tif")
    images, _, _ = read_all(tmp_path, "x.tif", "x.tif", frames=[2, 1])
    assert np.array_equal(images, np.stack([GREY // 2, 255 - GREY]))
    with pytest.raises(BadImageFile, match="has no page 3, only 3"):
        read_all(tmp_path, "x.tif", frames=[3])


def test_grey_files_beside_colour_are_refused_unless_channels_are_chosen(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    Image.fromarray(RGB).save(tmp_path / "colour.png")
    Image.fromarray(np.repeat(GREY[..., None], 3, axis=2)).save(tmp_path / "looks_grey.png")
    with pytest.raises(BadSource, match=r"grey\.png .*colour\.png"):
        read_all(tmp_path, "looks_grey.png", "grey.png", "colour.png")
    assert read_all(tmp_path, "grey.png", "looks_grey.png")[0].shape == (2, 6, 5)
    both = read_all(tmp_path, "looks_grey.png", "colour.png")[0]
    assert np.array_equal(both, np.stack([np.repeat(GREY[..., None], 3, axis=2), RGB]))
    one = read_all(tmp_path, "grey.png", "colour.png", channels=1)[0]
    weights = RGB.astype(int) @ [299, 587, 114]
    assert np.array_equal(one, np.stack([GREY, (weights + 500) // 1000]))
    three = read_all(tmp_path, "grey.png", "colour.png", channels=3)[0]
    assert np.array_equal(three, both)


def test_range_image_and_size_are_applied_as_matching_does(tmp_path):
    for i, pixels in enumerate((RGB // 2, RGB[::-1] // 3)):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    whole = ImageSet(read_all(tmp_path, "0.png", "1.png")[0], [0, 1], ("a", "b"))
    for options in (
        {"channels": 1, "pixel_range": "image"},
        {"pixel_range": "image", "size": 4},
        {"channels": 1, "size": 9},
    ):
        expected = match(whole, **options).images
        assert np.array_equal(read_all(tmp_path, "0.png", "1.png", **options)[0], expected)


CT = NOISE.integers(-1024, 3072, (6, 5)).astype(np.int16)


def test_a_dicom_file_is_shown_in_its_own_window_after_rescale(tmp_path):
    dicom(tmp_path / "ct.dcm", CT, bits=16, RescaleSlope=2, RescaleIntercept=-100, WindowCenter=[40, 50],
          WindowWidth=[400, 5])  # fmt: skip
    units = CT.astype(int) * 2 - 100
    image = read_all(tmp_path, "ct.dcm")[0][0]
    doubled = mapped(2 * units, 2 * 40 - 400, 2 * 40 - 400 + 2 * 399)  # low = 40 - .5 - 399/2, width 399
    assert np.array_equal(image, doubled)
    data = pydicom.dcmread(tmp_path / "ct.dcm")
    theirs = apply_voi_lut(apply_modality_lut(pixel_array(data), data), data)
    low, high = -(2**15) * 2 - 100, (2**15 - 1) * 2 - 100
    assert np.array_equal(image, np.floor((theirs - low) / (high - low) * 255 + 0.5))
    assert np.array_equal(read_all(tmp_path, "ct.dcm", levels="window")[0][0], image)
    assert np.array_equal(read_all(tmp_path, "ct.dcm", levels="range:-200,300")[0][0], mapped(units, -200, 300))
    assert np.array_equal(read_all(tmp_path, "ct.dcm", levels="full")[0][0], mapped(units, low, high))


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_other_windows_follow_the_standard(tmp_path, function):
    dicom(tmp_path / "x.dcm", CT, bits=16, WindowCenter=500, WindowWidth=1000, VOILUTFunction=function)
    data = pydicom.dcmread(tmp_path / "x.dcm")
    theirs = (apply_voi_lut(pixel_array(data), data) + 2**15) / (2**16 - 1) * 255
    assert np.abs(read_all(tmp_path, "x.dcm")[0][0] - theirs).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(("function", "width"), [("LINEAR", 0), ("LINEAR", -5), ("LINEAR", 0.5), (None, 0),
                                                   ("LINEAR_EXACT", 0), ("SIGMOID", 0), ("SIGMOID", -1)])  # fmt: skip
def test_a_window_without_width_is_refused_with_its_file_unless_levels_are_chosen(tmp_path, function, width):
    dicom(tmp_path / "good.dcm", CT, bits=16, WindowCenter=500, WindowWidth=1)
    tags = {"VOILUTFunction": function} if function else {}
    dicom(tmp_path / "x.dcm", CT, bits=16, WindowCenter=500, WindowWidth=width, **tags)
    with pytest.raises(BadImageFile, match=r"x\.dcm .*1 of 2"):
        read_all(tmp_path, "good.dcm", "x.dcm")
    assert read_all(tmp_path, "good.dcm", "x.dcm", skip=True)[1].tolist() == [True, False]
    assert len(read_all(tmp_path, "good.dcm", "x.dcm", levels="full")[0]) == 2


def test_monochrome1_is_inverted(tmp_path):
    for name, kind in (("1.dcm", "MONOCHROME1"), ("2.dcm", "MONOCHROME2")):
        dicom(tmp_path / name, CT, bits=16, WindowCenter=500, WindowWidth=1000, PhotometricInterpretation=kind)
    one, two = read_all(tmp_path, "1.dcm", "2.dcm")[0]
    assert np.array_equal(one, 255 - two)
    assert len(np.unique(one)) > 5


def test_a_dicom_file_without_window_is_as_stored_in_eight_bits_and_refused_in_more(tmp_path):
    dicom(tmp_path / "8.dcm", GREY)
    assert np.array_equal(read_all(tmp_path, "8.dcm")[0][0], GREY)
    twelve = DEEP // 16
    dicom(tmp_path / "12.dcm", twelve, bits=12)
    with pytest.raises(Undecided, match=rf"12\.dcm .*{twelve.min()} to {twelve.max()}"):
        read_all(tmp_path, "12.dcm")
    with pytest.raises(Undecided, match="window"):
        read_all(tmp_path, "12.dcm", levels="window")
    assert np.array_equal(read_all(tmp_path, "12.dcm", levels="full")[0][0], mapped(twelve.astype(int), 0, 4095))
    Image.fromarray(GREY).save(tmp_path / "x.png")
    assert len(read_all(tmp_path, "8.dcm", "x.png")[0]) == 2  # both as stored
    with pytest.raises(BadSource, match=r"x\.png.*12\.dcm"):
        read_all(tmp_path, "12.dcm", "x.png")
    with pytest.warns(UserWarning, match=r"x\.png.*12\.dcm"):  # whoever says the levels knows what 255 is
        deep, plain = read_all(tmp_path, "12.dcm", "x.png", levels="full")[0]
    assert np.array_equal(deep, mapped(twelve.astype(int), 0, 4095))
    assert np.array_equal(plain, GREY)


def lookup(entries, first, bits):
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.LUTData = np.asarray(entries).astype("<u2").tobytes()
    return [item]


def test_lookup_tables_replace_rescale_and_window(tmp_path):
    values = NOISE.integers(0, 64, (6, 5)).astype(np.uint16)
    modality = np.arange(60)[::-1] * 3
    voi = NOISE.integers(0, 256, 200)  # more entries than its 8 bits could count
    dicom(tmp_path / "x.dcm", values, bits=12, ModalityLUTSequence=lookup(modality, 2, 16),
          VOILUTSequence=lookup(voi, 0, 8))  # fmt: skip
    units = modality[np.clip(values.astype(int) - 2, 0, 59)]
    assert np.array_equal(read_all(tmp_path, "x.dcm")[0][0], voi[units])
    assert np.array_equal(read_all(tmp_path, "x.dcm", levels="range:0,177")[0][0], mapped(units, 0, 177))
    assert np.array_equal(read_all(tmp_path, "x.dcm", levels="full")[0][0], mapped(units, 0, 2**16 - 1))


def test_colour_dicom_gives_rgb(tmp_path):
    dicom(tmp_path / "rgb.dcm", RGB, SamplesPerPixel=3)
    assert np.array_equal(read_all(tmp_path, "rgb.dcm")[0][0], RGB)
    dicom(tmp_path / "ybr.dcm", RGB, SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL")
    y, b, r = (RGB[..., i].astype(float) for i in range(3))
    red, green, blue = y + 1.402 * (r - 128), y - 0.344136 * (b - 128) - 0.714136 * (r - 128), y + 1.772 * (b - 128)
    expected = np.clip(np.dstack([red, green, blue]), 0, 255)
    assert np.abs(read_all(tmp_path, "ybr.dcm")[0][0] - expected).max() <= 1
    deep = NOISE.integers(0, 2**16, (6, 5, 3)).astype(np.uint16)
    dicom(tmp_path / "deep.dcm", deep, SamplesPerPixel=3)
    assert np.array_equal(read_all(tmp_path, "deep.dcm")[0][0], mapped(deep.astype(int), 0, 65535))


def test_a_palette_becomes_rgb(tmp_path):
    palette = NOISE.integers(0, 2**16, (3, 16)).astype("<u2")
    index = NOISE.integers(0, 20, (6, 5)).astype(np.uint16)  # some past the end: the last entry
    tags = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, entries in zip(("Red", "Green", "Blue"), palette, strict=True):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [16, 0, 16]
        tags[f"{name}PaletteColorLookupTableData"] = entries.tobytes()
    dicom(tmp_path / "x.dcm", index, **tags)
    expected = mapped(palette.T[np.minimum(index, 15)].astype(int), 0, 65535)
    assert np.array_equal(read_all(tmp_path, "x.dcm")[0][0], expected)


def test_frames_are_images_by_number_with_percentiles_of_the_whole_file(tmp_path):
    stack = NOISE.integers(0, 4096, (4, 6, 5)).astype(np.uint16) * np.array([1, 2, 3, 4], np.uint16)[:, None, None]
    dicom(tmp_path / "x.dcm", stack)
    with pytest.raises(BadImageFile, match=r"x\.dcm holds 4 frames.*`frame`"):
        read_all(tmp_path, "x.dcm", levels="full")
    with pytest.raises(BadImageFile, match="no frame 4, only 4"):
        read_all(tmp_path, "x.dcm", frames=[4], levels="full")
    images = read_all(tmp_path, "x.dcm", "x.dcm", frames=[3, 1], levels="full")[0]
    assert np.array_equal(images, mapped(stack[[3, 1]].astype(int), 0, 65535))
    low, high = np.percentile(stack, (5, 95))
    images = read_all(tmp_path, "x.dcm", frames=[1], levels="percentile:5,95")[0]
    assert np.array_equal(images[0], np.floor(np.clip((stack[1] - low) / (high - low), 0, 1) * 255 + 0.5))


def test_rescale_and_window_of_a_frame_stand_in_its_functional_group(tmp_path):
    def group(name, **tags):
        outer, inner = Dataset(), Dataset()
        for key, value in tags.items():
            setattr(inner, key, value)
        setattr(outer, name, [inner])
        return outer

    stack = NOISE.integers(0, 100, (2, 6, 5)).astype(np.uint16)
    frames = [
        group("PixelValueTransformationSequence", RescaleSlope=s, RescaleIntercept=i) for s, i in ((1, 5), (3, 0))
    ]
    shared = [group("FrameVOILUTSequence", WindowCenter=100.5, WindowWidth=201)]  # 0 to 200
    dicom(tmp_path / "x.dcm", stack, PerFrameFunctionalGroupsSequence=frames, SharedFunctionalGroupsSequence=shared)
    images = read_all(tmp_path, "x.dcm", "x.dcm", frames=[0, 1])[0]
    assert np.array_equal(images, mapped(np.stack([stack[0].astype(int) + 5, stack[1].astype(int) * 3]), 0, 200))


@pytest.mark.parametrize(
    "name", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_bigendian.dcm"]
)
def test_compressed_files_give_the_pixels_of_the_plain_one(name):
    root = Path(get_testdata_file("MR_small.dcm", download=False)).parent
    plain, packed = read_all(root, "MR_small.dcm", name)[0]
    assert np.array_equal(packed, plain)
    assert len(np.unique(plain)) > 100


def test_what_holds_no_image_or_half_of_one_is_named():
    root = Path(get_testdata_file("rtplan.dcm", download=False)).parent
    with pytest.raises(BadImageFile, match=r"rtplan\.dcm is no DICOM image"):
        read_all(root, "rtplan.dcm")
    with pytest.raises(BadImageFile, match=r"MR_truncated\.dcm cannot be read as a DICOM image \(.*8130") as raised:
        read_all(root, "MR_truncated.dcm")
    assert "\n" not in str(raised.value)


def test_dicom_is_known_by_its_content(tmp_path):
    dicom(tmp_path / "IM0001", GREY)
    dicom(tmp_path / "1.2.840.113", GREY)
    dicom(tmp_path / "x.png", GREY)
    (tmp_path / "notes").write_text("DIC?" * 40)
    assert [files.kind_of(tmp_path / n) for n in ("IM0001", "1.2.840.113", "notes")] == ["DICOM", "DICOM", None]
    for name in ("IM0001", "1.2.840.113", "x.png"):
        assert np.array_equal(read_all(tmp_path, name)[0][0], GREY)


LPS = np.diag([-2.0, -2.0, 3.0, 1.0])


VOLUME = NOISE.integers(-50, 1000, (4, 5, 6)).astype(np.int16)


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_slices_of_a_volume_lie_in_canonical_axes(tmp_path, name, kind):
    nifti(tmp_path / name, VOLUME, LPS, kind=kind)
    right_anterior_superior = VOLUME[::-1, ::-1, :].astype(int)
    assert scans.slices(tmp_path / name) == (4, 5, 6)
    for axis in range(3):
        n = VOLUME.shape[axis]
        images = read_all(tmp_path, *[name] * n, frames=range(n), axes=[axis] * n, levels="range:0,900")[0]
        for i, image in enumerate(images):
            assert np.array_equal(image, mapped(right_anterior_superior.take(i, axis=axis).T[::-1], 0, 900))


def test_axes_stored_in_another_order_give_the_same_slices(tmp_path):
    nifti(tmp_path / "a.nii", VOLUME, np.eye(4))
    turned = np.eye(4)[[2, 0, 1, 3]]  # stored (z, x, y)
    nifti(tmp_path / "b.nii", VOLUME.transpose(2, 0, 1), np.linalg.inv(turned))
    assert scans.slices(tmp_path / "b.nii") == scans.slices(tmp_path / "a.nii") == (4, 5, 6)
    a, b = read_all(tmp_path, "a.nii", "b.nii", frames=[2, 2], levels="full")[0]
    assert np.array_equal(a, b)


def test_a_volume_is_scaled_and_mapped_by_percentiles_of_all_of_it(tmp_path):
    nifti(tmp_path / "v.nii", VOLUME, np.eye(4), slope=0.5, inter=-10)
    units = VOLUME * 0.5 - 10
    low, high = np.percentile(units, (0.1, 99.9))
    image = read_all(tmp_path, "v.nii", frames=[3])[0][0]
    expected = np.floor(np.clip((units[:, :, 3].T[::-1] - low) / (high - low), 0, 1) * 255 + 0.5)
    assert np.array_equal(image, expected)
    full = read_all(tmp_path, "v.nii", frames=[3], levels="full")[0][0]
    assert np.array_equal(full, mapped(VOLUME[:, :, 3].astype(int).T[::-1], -(2**15), 2**15 - 1))
    with pytest.raises(Undecided, match="window"):
        read_all(tmp_path, "v.nii", frames=[3], levels="window")


def test_a_volume_of_unsigned_bytes_is_as_stored(tmp_path):
    values = NOISE.integers(3, 200, (4, 5, 6)).astype(np.uint8)
    nifti(tmp_path / "v.nii", values, np.eye(4))
    assert np.array_equal(read_all(tmp_path, "v.nii", frames=[5])[0][0], values[:, :, 5].T[::-1])
    Image.fromarray(values[:, :, 0].T.copy()).save(tmp_path / "x.png")
    assert len(read_all(tmp_path, "v.nii", "x.png", frames=[5, None])[0]) == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((2, 2, 2), np.nan, np.float32), "8 values that are not finite"),
        (np.zeros((2, 2, 2, 3), np.int16), r"2 x 2 x 2 x 3 values.*three dimensions"),
        (np.zeros((2, 2, 2), np.complex64), "complex64"),
    ],
)
def test_a_volume_without_grey_levels_is_refused(tmp_path, values, message):
    nifti(tmp_path / "v.nii", values)
    with pytest.raises(BadImageFile, match=rf"v\.nii .*{message}"):
        read_all(tmp_path, "v.nii", frames=[0])


def test_a_volume_that_is_cut_short_or_claims_too_much_is_named(tmp_path):
    nifti(tmp_path / "v.nii.gz", np.zeros((40, 40, 40), np.int16))
    whole = (tmp_path / "v.nii.gz").read_bytes()
    (tmp_path / "v.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadImageFile, match=r"v\.nii\.gz"):
        read_all(tmp_path, "v.nii.gz", frames=[0])
    header = bytearray(gzip.decompress(whole)[:352])
    header[40:48] = struct.pack("<4h", 3, 32000, 32000, 32000)
    (tmp_path / "v.nii.gz").write_bytes(gzip.compress(bytes(header)))
    with pytest.raises(BadImageFile, match="32,768,000,000,000 voxels, more than is safe"):
        read_all(tmp_path, "v.nii.gz", frames=[0])
    (tmp_path / "v.nii.gz").write_bytes(b"")
    with pytest.raises(BadImageFile, match=r"v\.nii\.gz"):
        read_all(tmp_path, "v.nii.gz", frames=[0])


def many(root, n=60):
    names = [f"{i}.png" for i in range(n)]
    for i, name in enumerate(names):
        Image.fromarray(np.roll(RGB, i, axis=0) if i % 3 else GREY[..., None].repeat(3, axis=2)).save(root / name)
    return names


def test_the_result_does_not_depend_on_threads(tmp_path, monkeypatch):
    names = many(tmp_path)
    stack = NOISE.integers(0, 255, (4, 6, 5)).astype(np.uint8)
    nifti(tmp_path / "v.nii", stack)
    rows = [*names, "v.nii", "3.png", "v.nii"]
    frames = [None] * 60 + [1, None, 0]
    runs = []
    for cores in (1, 2, 7):
        monkeypatch.setattr(files.os, "cpu_count", lambda n=cores: n)
        runs.append(read_all(tmp_path, *rows, frames=frames, channels=3, size=7))
    for images, good, _ in runs:
        assert good.all()
        assert np.array_equal(images, runs[0][0])
    assert np.array_equal(runs[0][0][61], runs[0][0][3])


def test_pixels_are_held_once_while_files_are_read(tmp_path, monkeypatch):
    names = [f"{i}.png" for i in range(96)]
    for i, name in enumerate(names):
        Image.fromarray(np.full((512, 512), i, np.uint8)).save(tmp_path / name)
    monkeypatch.setattr(files.os, "cpu_count", lambda: 1)
    tracemalloc.start()
    images = read_all(tmp_path, *names)[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert images.nbytes == 96 * 512**2
    assert peak < 1.5 * images.nbytes
    assert (images == np.arange(96)[:, None, None]).all()


@pytest.mark.parametrize("cores", [1, 5])
def test_the_first_bad_file_in_order_is_named_with_their_number(tmp_path, monkeypatch, cores):
    monkeypatch.setattr(files.os, "cpu_count", lambda: cores)
    names = many(tmp_path)
    (tmp_path / "41.png").write_bytes(b"")
    (tmp_path / "17.png").write_bytes((tmp_path / "16.png").read_bytes()[:90])
    (tmp_path / "50.png").unlink()
    with pytest.raises(
        BadImageFile, match=r"17\.png cannot be read as a picture.*; 3 of 60 files.*skip-unreadable"
    ) as e:
        read_all(tmp_path, *names)
    assert "\n" not in str(e.value)
    images, good, unreadable = read_all(tmp_path, *names, skip=True)
    assert np.flatnonzero(~good).tolist() == [17, 41, 50]
    assert [name for name, _ in unreadable] == ["17.png", "41.png", "50.png"]
    assert unreadable[2] == ("50.png", "does not exist")
    assert len(images) == 57
    assert np.array_equal(images[17], GREY[..., None].repeat(3, axis=2))  # row 18


def test_all_files_unreadable_is_an_error_even_when_they_may_be_skipped(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").mkdir()
    with pytest.raises(BadImageFile, match=r"a\.png cannot be read.*2 of 2 files"):
        read_all(tmp_path, "a.png", "b.png", skip=True)
    with pytest.raises(BadImageFile, match=r"b\.png"):
        read_all(tmp_path, "b.png")


@pytest.mark.parametrize("name", ["x.dcm", "x.nii", "x.tif"])
def test_a_frame_that_is_not_there_costs_no_other_row_of_its_file(tmp_path, name):
    stack = NOISE.integers(0, 256, (3, 6, 5)).astype(np.uint8)
    if name == "x.dcm":
        dicom(tmp_path / name, stack)
    elif name == "x.nii":
        nifti(tmp_path / name, stack[:, ::-1].transpose(2, 1, 0), np.eye(4))
    else:
        pages = [Image.fromarray(page) for page in stack]
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    images, good, unreadable = read_all(tmp_path, *[name] * 3, frames=[2, 9, 0], skip=True)
    assert good.tolist() == [True, False, True]
    assert np.array_equal(images, stack[[2, 0]])
    ((path, why),) = unreadable
    assert path == name
    assert "9, only 3 counted from 0" in why


def test_sizes_colors_and_depths_that_do_not_fit_are_told_at_once_and_before_pixels_are_read(tmp_path, monkeypatch):
    for name, pixels in (("a.png", GREY), ("b.png", GREY), ("c.png", RGB[:4]), ("d.png", DEEP)):
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "e.png").write_bytes(b"no picture")
    decoded = []
    decode = files._decode
    monkeypatch.setattr(files, "_decode", lambda file, reading: decoded.append(file.name) or decode(file, reading))
    with pytest.raises(
        Undecided, match=r"c\.png, 5 x 4.*8 bits.*a\.png is grey and c\.png.*d\.png.*--size 64 --channels 1"
    ) as raised:
        read_all(tmp_path, *(f"{name}.png" for name in "abcde"))
    assert "\n" not in str(raised.value)
    assert set(decoded) == {"c.png", "d.png"}  # one for each question that a header leaves open
    with pytest.raises(BadSource, match=r"1 of 3.*--size 64,"):
        read_all(tmp_path, "a.png", "b.png", "c.png", channels=1)
    assert read_all(tmp_path, "a.png", "b.png", "c.png", channels=1, size=3)[0].shape == (3, 3, 3)


def test_a_lookup_table_of_bytes_is_read(tmp_path):
    table = lookup(np.arange(256)[::-1], 0, 8)
    table[0].LUTData = bytes(range(255, -1, -1))
    dicom(tmp_path / "x.dcm", GREY, VOILUTSequence=table)
    assert np.array_equal(read_all(tmp_path, "x.dcm")[0][0], 255 - GREY)


def test_what_is_decoded_once_is_kept_by_content_until_it_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "WORTH_CACHING", (2, 2**22))
    names = many(tmp_path, 4)
    first = read_all(tmp_path, *names)[0]
    decode = files._decode
    monkeypatch.setattr(files, "_decode", None)
    (tmp_path / "0.png").rename(tmp_path / "other.png")
    assert np.array_equal(read_all(tmp_path, "other.png", *names[1:])[0], first)
    monkeypatch.setattr(files, "_decode", decode)
    assert read_all(tmp_path, *names[1:], size=3)[0].shape == (3, 3, 3, 3)
    for file in (tmp_path / "cache").rglob("output.pkl"):
        file.write_bytes(file.read_bytes()[:100])
    assert np.array_equal(read_all(tmp_path, "other.png", *names[1:])[0], first)
    monkeypatch.setenv("INTRINSIC_CACHE_GIB", "much")
    with pytest.raises(ValueError, match="much"):
        read_all(tmp_path, *names[1:])
