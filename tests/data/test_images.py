"""Reading and writing images: one picture in every format, and every way a file can be wrong."""

import gzip
import resource

import nibabel
import numpy as np
import pytest
from PIL import Image, ImageFile

from monai_vessel_uda.data.images import (
    IMAGE_SUFFIXES,
    RetinalImage,
    check_image,
    check_mask,
    image_size,
    read_image,
    read_mask,
    write_like,
)
from monai_vessel_uda.errors import InputError

from ..deploy.en_face import SPACING, write_en_face

HEIGHT, WIDTH = 24, 40
AFFINE = np.array([[-0.02, 0.005, 0, 3], [0.004, -0.03, 0, -7], [0, 0, 0.5, 11], [0, 0, 0, 1.0]])
LOSSLESS = [s for s in IMAGE_SUFFIXES if not s.startswith((".jp", ".dcm"))]


def picture(channels=0):
    """Asymmetric under every flip and transposition."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    grey = (rows * 7 + columns * 2).astype(np.uint8)
    grey[2:6, 30:38] = 250
    return np.stack([grey, grey // 2, 255 - grey], axis=-1) if channels else grey


def mask():
    return picture() > 200


def pil_like(array=None):
    return RetinalImage(picture() if array is None else array, (1.0, 1.0), "like.png", {"kind": "pil"})


def save(path, array=None):
    """Write `array` with the format's own library, not with the code under test."""
    array = picture() if array is None else array
    suffix = "".join(path.suffixes)
    if suffix.startswith(".nii"):
        nibabel.save(nibabel.Nifti1Image(np.swapaxes(array, 0, 1), AFFINE), path)
    elif suffix in (".mha", ".mhd", ".dcm"):
        import itk

        itk.imwrite(itk.image_from_array(np.ascontiguousarray(array)), str(path))
    elif suffix.endswith(".gz"):
        inner = path.with_name("inner" + path.suffixes[0])
        save(inner, array)
        path.write_bytes(gzip.compress(inner.read_bytes()))
        inner.unlink()
    else:
        Image.fromarray(array).save(path, **({"quality": 100} if suffix.startswith(".jp") else {}))
    return path


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


def test_blank_masks_and_images_are_refused(tmp_path):
    path = save(tmp_path / "blank.png", np.zeros((4, 5), np.uint8))
    assert not read_mask(path).any()
    with pytest.raises(InputError, match="blank.png.*no vessel"):
        check_mask(read_mask(path), path)
    with pytest.raises(InputError, match="blank.png.*every pixel is 0"):
        check_image(read_image(path))
    check_image(read_image(save(tmp_path / "eye.png")))
    check_mask(mask(), "eye.png")


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_truncated_empty_and_missing(tmp_path, suffix):
    path = tmp_path / f"eye{suffix}"
    with pytest.raises(InputError, match="no such file"):
        read_image(path)
    noise = np.random.default_rng(0).integers(0, 256, (64, 96), dtype=np.uint8)
    save(path, noise)
    victim = next(tmp_path.glob("eye*raw"), path)
    whole = victim.read_bytes()
    victim.write_bytes(whole[: int(len(whole) * 0.6)])
    with pytest.raises(InputError, match="eye"):
        read_image(path)
    path.write_bytes(b"")
    for read in (read_image, image_size):
        with pytest.raises(InputError, match="empty"):
            read(path)


def test_truncation_is_seen_even_if_pillow_was_told_to_ignore_it(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    path = save(tmp_path / "eye.png", np.random.default_rng(0).integers(0, 256, (64, 96), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match="truncated"):
        read_image(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.parametrize("name", ["notes.txt", "eye.png", "eye.nii.gz", "eye.mha", "eye.dcm", "eye.ppm.gz"])
def test_what_is_not_an_image(tmp_path, name):
    (tmp_path / name).write_text("Not an image at all. " * 50)
    for read in (read_image, image_size):
        with pytest.raises(InputError, match=name):
            read(tmp_path / name)


def test_volumes_are_refused_and_single_slices_squeezed(tmp_path):
    import itk

    volume = np.zeros((3, HEIGHT, WIDTH), np.uint8)
    itk.imwrite(itk.image_from_array(volume), str(tmp_path / "volume.mha"))
    nibabel.save(nibabel.Nifti1Image(volume.T, AFFINE), tmp_path / "volume.nii.gz")
    pages = [Image.fromarray(volume[i]) for i in range(3)]
    pages[0].save(tmp_path / "volume.tif", save_all=True, append_images=pages[1:])
    for name in ("volume.mha", "volume.nii.gz", "volume.tif"):
        for read in (read_image, image_size):
            with pytest.raises(InputError, match=f"{name}: a 3-D volume where a 2-D image is expected"):
                read(tmp_path / name)
    itk.imwrite(itk.image_from_array(picture()[None]), str(tmp_path / "slice.mha"))
    nibabel.save(nibabel.Nifti1Image(picture().T[:, :, None], AFFINE), tmp_path / "last.nii")
    nibabel.save(nibabel.Nifti1Image(picture().T[None], AFFINE), tmp_path / "first.nii")
    for name in ("slice.mha", "last.nii", "first.nii"):
        assert np.array_equal(read_image(tmp_path / name).array, picture()), name


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_a_number(tmp_path, value):
    wrong = picture().astype(np.float32)
    wrong[3, 4] = value
    with pytest.raises(InputError, match="eye.tif: 1 pixels are NaN or infinite"):
        read_image(save(tmp_path / "eye.tif", wrong))


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("vessels", [mask(), mask() * np.uint8(255), mask().astype(np.uint8)])
def test_masks_survive_every_format(tmp_path, suffix, vessels):
    path = tmp_path / "new" / f"mask{suffix}"
    write_like(vessels, path, pil_like())
    assert np.array_equal(read_mask(path), mask())
    geometric = suffix in (".nii", ".nii.gz", ".mha", ".mhd")
    stored = read_image(path).array
    assert stored.dtype == np.uint8
    assert set(np.unique(stored)) == {0, 1 if geometric else 255}
    expected = {path.name, "mask.zraw"} if suffix == ".mhd" else {path.name}
    assert {p.name for p in path.parent.iterdir()} == expected


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".tif", ".png", ".pgm", ".ppm.gz"])
def test_probabilities(tmp_path, suffix):
    probabilities = (picture() / 255).astype(np.float32)
    write_like(probabilities, tmp_path / f"p{suffix}", pil_like())
    stored = read_image(tmp_path / f"p{suffix}").array
    if stored.dtype == np.uint16:
        np.testing.assert_allclose(stored / 65535, probabilities, atol=0.5001 / 65535)
    else:
        assert stored.dtype == np.float32
        assert np.array_equal(stored, probabilities)


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".gif", ".dcm", ".doc"])
def test_formats_that_cannot_hold_probabilities(tmp_path, suffix):
    with pytest.raises(InputError, match=f"p{suffix}.*(.png|.nii.gz)"):
        write_like(picture() / 255, tmp_path / f"p{suffix}", pil_like())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".jpeg", ".dcm", ""])
def test_formats_that_cannot_hold_masks(tmp_path, suffix):
    with pytest.raises(InputError, match=".png"):
        write_like(mask(), tmp_path / f"m{suffix}", pil_like())


def test_wrong_results_are_refused(tmp_path):
    for wrong in (mask().T, picture() / 100, picture().astype(np.int32), np.full((HEIGHT, WIDTH), np.nan)):
        with pytest.raises(ValueError, match="out.png"):
            write_like(wrong, tmp_path / "out.png", pil_like())
    write_like(picture(), tmp_path / "out.png", pil_like())  # other uint8 is kept
    assert np.array_equal(read_image(tmp_path / "out.png").array, picture())


@pytest.mark.parametrize("shape", ["plane", "last", "first"])
def test_nifti_geometry_is_exact(tmp_path, shape):
    stored = {"plane": picture().T, "last": picture().T[:, :, None], "first": picture().T[None]}[shape]
    original = nibabel.Nifti1Image(stored, AFFINE)
    original.header.set_xyzt_units("mm")
    original.header.set_slope_inter(2, 0)
    nibabel.save(original, tmp_path / "eye.nii.gz")
    image = read_image(tmp_path / "eye.nii.gz")
    write_like(mask(), tmp_path / "mask.nii.gz", image)
    result, original = nibabel.load(tmp_path / "mask.nii.gz"), nibabel.load(tmp_path / "eye.nii.gz")
    assert result.shape == original.shape == stored.shape
    assert np.array_equal(result.affine, original.affine)
    assert result.header["sform_code"] == original.header["sform_code"]
    assert result.header.get_zooms() == original.header.get_zooms()
    assert np.array_equal(np.asarray(result.dataobj).reshape(WIDTH, HEIGHT), mask().T)
    if shape == "plane":
        assert image.spacing == pytest.approx((np.hypot(0.005, 0.03), np.hypot(0.02, 0.004)))


def itk_picture(dimension):
    import itk

    image = itk.image_from_array(picture()[(None,) * (dimension - 2)])
    image.SetSpacing([0.012345678901, 0.0321, 0.5][:dimension])
    image.SetOrigin([-3.3, 7.7, 1.1][:dimension])
    turn = np.eye(dimension)
    turn[:2, :2] = [[0.6, -0.8], [0.8, 0.6]]
    image.SetDirection(itk.matrix_from_array(turn))
    return image


def geometry(image):
    import itk

    direction = itk.array_from_matrix(image.GetDirection())
    return np.concatenate([np.ravel(image.GetSpacing()), np.ravel(image.GetOrigin()), direction.ravel()])


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
def test_mha_geometry_is_exact(tmp_path, dimension, suffix):
    import itk

    itk.imwrite(itk_picture(dimension), str(tmp_path / "eye.mha"))
    image = read_image(tmp_path / "eye.mha")
    assert image.spacing == (0.0321, 0.012345678901)
    write_like(mask(), tmp_path / f"mask{suffix}", image)
    result = itk.imread(str(tmp_path / f"mask{suffix}"))
    assert np.array_equal(geometry(result), geometry(itk.imread(str(tmp_path / "eye.mha"))))
    assert np.array_equal(read_mask(tmp_path / f"mask{suffix}"), mask())


@pytest.mark.parametrize("suffix", [".mha", ".nii.gz"])
def test_dicom_geometry_goes_to_mha_and_nifti(tmp_path, suffix):
    import itk

    pydicom = pytest.importorskip("pydicom")
    save(tmp_path / "eye.dcm")
    data = pydicom.dcmread(tmp_path / "eye.dcm")
    data.PixelSpacing = [0.031, 0.017]  # row, then column
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"  # a class for which ITK honours position
    data.ImagePositionPatient, data.ImageOrientationPatient = [5.0, -6.0, 7.0], [1, 0, 0, 0, 0, -1]
    data.save_as(tmp_path / "eye.dcm")
    image = read_image(tmp_path / "eye.dcm")
    assert image.spacing == pytest.approx((0.031, 0.017))
    write_like(mask(), tmp_path / f"mask{suffix}", image)
    result = itk.imread(str(tmp_path / f"mask{suffix}"))
    if suffix == ".mha":
        assert np.array_equal(geometry(result), geometry(itk.imread(str(tmp_path / "eye.dcm"))))
    else:
        affine = nibabel.load(tmp_path / "mask.nii.gz").affine
        np.testing.assert_allclose(affine[:3, 0], [-0.017, 0, 0], atol=1e-6)
        np.testing.assert_allclose(affine[:3, 1], [0, 0, -0.031], atol=1e-6)
        np.testing.assert_allclose(affine[:3, 3], [-5, 6, 7], atol=1e-5)
    written = read_image(tmp_path / f"mask{suffix}")
    assert np.array_equal(written.array > 0, mask())
    assert written.spacing == pytest.approx(image.spacing)


def test_nifti_geometry_goes_to_mha(tmp_path):
    import itk

    rotation = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation * [0.02, 0.03, 1], [1, 2, 3]
    nibabel.save(nibabel.Nifti1Image(picture().T, affine), tmp_path / "eye.nii.gz")
    write_like(mask(), tmp_path / "mask.mha", read_image(tmp_path / "eye.nii.gz"))
    result = itk.imread(str(tmp_path / "mask.mha"))
    world = np.array(result.TransformIndexToPhysicalPoint([11, 5, 0])) * [-1, -1, 1]  # LPS to RAS
    np.testing.assert_allclose(world, (affine @ [11, 5, 0, 1])[:3], atol=1e-5)


@pytest.mark.parametrize("name", ["m.png", "m.tif", "m.nii", "m.nii.gz", "m.mha", "m.ppm.gz"])
def test_full_disk_leaves_the_old_file(tmp_path, name):
    noise = np.random.default_rng(0).random((400, 400), dtype=np.float32)
    small, big = pil_like(), pil_like(np.zeros((400, 400), np.uint8))
    write_like(mask(), tmp_path / name, small)
    before = (tmp_path / name).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # any longer write fails, as on a full disk
    try:
        with pytest.raises(InputError, match=f"{name}: cannot be written"):
            write_like(noise, tmp_path / name, big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / name).read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_output_folder_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        write_like(mask(), tmp_path / "out" / "m.png", pil_like())


def test_same_mask_same_bytes(tmp_path):
    for name in ("m.png", "m.ppm.gz", "m.nii.gz", "m.mha"):
        for folder in ("a", "b"):
            write_like(mask(), tmp_path / folder / name, pil_like())
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
