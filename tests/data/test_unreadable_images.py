"""Every way in which an image file can be wrong."""

import nibabel
import numpy as np
import pytest
from PIL import Image, ImageFile

from monai_vessel_uda.data.images import (
    IMAGE_SUFFIXES,
    check_image,
    check_mask,
    image_size,
    read_image,
    read_mask,
)
from monai_vessel_uda.errors import InputError

from .pictures import AFFINE, HEIGHT, WIDTH, mask, picture, save


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
