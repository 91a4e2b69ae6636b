"""Reading images and masks: one picture in every format."""

import nibabel
import numpy as np
import pytest
from PIL import Image

from monai_vessel_uda.data.images import (
    IMAGE_SUFFIXES,
    image_size,
    read_image,
    read_mask,
    write_like,
)

from ..deploy.en_face import SPACING, write_en_face
from .pictures import AFFINE, HEIGHT, WIDTH, mask, picture, save


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_same_picture_in_every_format(tmp_path, suffix):
    path = save(tmp_path / f"eye{suffix}")
    image = read_image(path)
    assert image.array.shape[:2] == image_size(path) == (HEIGHT, WIDTH)
    grey = image.array if image.array.ndim == 2 else image.array[..., 0]
    tolerance = 4 if ".jp" in suffix else 0
    np.testing.assert_allclose(grey.astype(int), picture().astype(int), atol=tolerance)
    assert np.array_equal(read_mask(path), picture() > picture().max() / 2) or tolerance


def test_upper_case_suffix(tmp_path):
    save(tmp_path / "eye.png").rename(tmp_path / "EYE.PNG")
    assert np.array_equal(read_image(tmp_path / "EYE.PNG").array, picture())


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".ppm", ".ppm.gz"])
def test_colour(tmp_path, suffix):
    array = read_image(save(tmp_path / f"eye{suffix}", picture(channels=3))).array
    assert array.shape == (HEIGHT, WIDTH, 3)
    if suffix != ".jpg":
        assert np.array_equal(array, picture(channels=3))


def test_colour_nifti_and_mha(tmp_path):
    import itk

    records = np.zeros((WIDTH, HEIGHT, 1), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    for channel, name in enumerate("RGB"):
        records[name][..., 0] = picture(channels=3)[..., channel].T
    nibabel.save(nibabel.Nifti1Image(records, AFFINE), tmp_path / "eye.nii.gz")
    fifth = picture(channels=3).swapaxes(0, 1)[:, :, None, None, :]
    nibabel.save(nibabel.Nifti1Image(fifth, AFFINE), tmp_path / "fifth.nii")
    itk.imwrite(itk.image_from_array(picture(channels=3), is_vector=True), str(tmp_path / "eye.mha"))
    for name in ("eye.nii.gz", "fifth.nii", "eye.mha"):
        assert np.array_equal(read_image(tmp_path / name).array, picture(channels=3)), name
        assert image_size(tmp_path / name) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("mode", ["1", "LA", "RGBA", "P", "I;16", "F", "CMYK"])
def test_pixel_kinds(tmp_path, mode):
    grey, colour = picture(), picture(channels=3)
    alpha = np.full((HEIGHT, WIDTH), 7, np.uint8)
    pictures = {
        "1": (Image.fromarray(mask()), mask() * np.uint8(255)),
        "LA": (Image.fromarray(np.dstack([grey, alpha]), "LA"), grey),
        "RGBA": (Image.fromarray(np.dstack([colour, alpha])), colour),
        "I;16": (Image.fromarray(grey.astype(np.uint16) * 257), grey.astype(np.uint16) * 257),
        "F": (Image.fromarray(grey / np.float32(255)), grey / np.float32(255)),
        "P": (Image.fromarray(mask().astype(np.uint8), "P"), mask()[..., None] * np.uint8([200, 0, 0])),
        "CMYK": (Image.fromarray(colour).convert("CMYK"), colour),
    }
    image, expected = pictures[mode]
    if mode == "P":
        image.putpalette([0, 0, 0, 200, 0, 0])
    path = tmp_path / ("eye.tif" if mode in ("F", "CMYK") else "eye.png")
    image.save(path)
    array = read_image(path).array
    assert array.dtype == expected.dtype
    assert np.array_equal(array, expected)


def test_sixteen_bit_big_endian_becomes_native(tmp_path):
    wide = picture().astype(">u2") * 200
    nibabel.save(nibabel.Nifti1Image(wide.T, AFFINE, nibabel.Nifti1Header(endianness=">")), tmp_path / "eye.nii")
    array = read_image(tmp_path / "eye.nii").array
    assert array.dtype.isnative
    assert np.array_equal(array, wide)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to display
    for name in ("eye.png", "eye.tif"):
        Image.fromarray(np.rot90(picture())).save(tmp_path / name, exif=exif)
        assert np.array_equal(read_image(tmp_path / name).array, picture())
        assert image_size(tmp_path / name) == (HEIGHT, WIDTH)


def test_en_face_dicom_that_itk_does_not_know(tmp_path):
    """The standard's own kind for en-face OCTA images, with unequal pixel sides."""
    path = write_en_face(tmp_path / "eye.dcm", picture())
    image = read_image(path)
    assert np.array_equal(image.array, picture())
    assert image.spacing == pytest.approx(SPACING)
    assert image_size(path) == picture().shape
    write_like(picture() > 100, tmp_path / "mask.mha", image)
    assert np.array_equal(read_mask(tmp_path / "mask.mha"), picture() > 100)
    write_en_face(tmp_path / "inverse.dcm", picture(), PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(read_image(tmp_path / "inverse.dcm").array, picture().max() - picture())


@pytest.mark.parametrize("bits", [8, 16])
def test_dicom_palettes_are_applied(tmp_path, bits):
    """To the standard's own kind for en-face images, which ITK does not know."""
    colours = np.stack([np.arange(256), 255 - np.arange(256), np.roll(np.arange(256), 50)], axis=-1).astype(np.uint8)
    entries = colours if bits == 8 else colours.astype("<u2") * 257
    palette = {"PhotometricInterpretation": "PALETTE COLOR"}
    for channel, name in enumerate(("Red", "Green", "Blue")):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        palette[f"{name}PaletteColorLookupTableData"] = entries[:, channel].tobytes()
    path = write_en_face(tmp_path / "eye.dcm", picture(), **palette)
    assert np.array_equal(read_image(path).array, colours[picture()])
    assert image_size(path) == picture().shape


def test_dicom_monochrome1_is_shown_as_a_viewer_does(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    save(tmp_path / "eye.dcm")
    data = pydicom.dcmread(tmp_path / "eye.dcm")
    data.PhotometricInterpretation = "MONOCHROME1"
    data.save_as(tmp_path / "eye.dcm")
    assert np.array_equal(read_image(tmp_path / "eye.dcm").array, 255 - picture())


@pytest.mark.parametrize("kind", ["rgba", "palette", "one", "small", "gif", "negative"])
def test_mask_is_above_half_of_its_maximum(tmp_path, kind):
    vessels, path = mask(), tmp_path / "mask.png"
    if kind == "rgba":  # alpha is full everywhere, colour only on vessels
        rgba = np.dstack([vessels * np.uint8(255), np.zeros((*vessels.shape, 2), np.uint8)])
        Image.fromarray(np.dstack([rgba, np.full(vessels.shape, 255, np.uint8)])).save(path)
    elif kind == "palette":
        image = Image.fromarray(vessels.astype(np.uint8), "P")
        image.putpalette([0, 0, 0, 128, 0, 0])
        image.save(path)
    elif kind == "one":
        Image.fromarray(vessels).save(path)
    elif kind == "small":  # 1 = vessel, as annotation tools write it
        Image.fromarray(vessels.astype(np.uint8)).save(path)
    elif kind == "gif":
        path = tmp_path / "mask.gif"
        Image.fromarray(vessels * np.uint8(255)).save(path)
    else:
        path = tmp_path / "mask.tif"
        Image.fromarray(np.where(vessels, 3.0, -5.0).astype(np.float32)).save(path)
    assert np.array_equal(read_mask(path), vessels)


@pytest.mark.parametrize(("unit", "factor"), [("unknown", 1), ("mm", 1), ("micron", 1e-3), ("meter", 1e3)])
def test_the_size_of_a_pixel_is_in_mm(tmp_path, unit, factor):
    image = nibabel.Nifti1Image(np.zeros((4, 5), np.float32), np.diag([-0.25, 0.5, 1, 1]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    assert read_image(tmp_path / "a.nii").pixel_mm == pytest.approx((0.5 * factor, 0.25 * factor))


def test_the_size_of_a_pixel_is_not_known_where_the_file_does_not_say(tmp_path):
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "a.png")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5), np.float32), np.eye(4)), tmp_path / "b.nii")
    assert read_image(tmp_path / "a.png").pixel_mm is read_image(tmp_path / "b.nii").pixel_mm is None
