"""Writing masks and probabilities: formats, geometry, and what happens if it fails."""

import resource

import nibabel
import numpy as np
import pytest

from monai_vessel_uda.data.images import (
    IMAGE_SUFFIXES,
    read_image,
    read_mask,
    write_like,
)
from monai_vessel_uda.errors import InputError

from .pictures import AFFINE, HEIGHT, WIDTH, mask, picture, pil_like, save

LOSSLESS = [s for s in IMAGE_SUFFIXES if not s.startswith((".jp", ".dcm"))]


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
