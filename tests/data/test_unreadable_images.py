"""Every way in which an image file can be wrong."""

import struct

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
from monai_vessel_uda.data.phantoms import fundus_phantom
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


def test_masks_that_mark_most_of_the_image_or_number_classes_are_refused(tmp_path):
    inverted = save(tmp_path / "inverted.png", np.where(mask(), 0, 255).astype(np.uint8))
    with pytest.raises(InputError, match=r"inverted.png: the mask marks 9\d% of the image as vessel.* is it inverted"):
        check_mask(read_mask(inverted), inverted)
    classes = np.zeros((8, 9), np.uint8)
    classes[:, 2], classes[:, 5] = 1, 2
    with pytest.raises(InputError, match="arteries.png: expected two values, .* got the classes 0, 1, 2"):
        read_mask(save(tmp_path / "arteries.png", classes))
    assert read_mask(save(tmp_path / "one.png", np.minimum(classes, 1))).sum() == 16
    assert read_mask(save(tmp_path / "smooth.png", classes * 127)).sum() == 8, "grey levels of a smoothed outline"


def arteries_and_veins(artery, vein):
    """Vessels of which those in the left half are arteries."""
    vessels = fundus_phantom(np.random.default_rng(0), 160)[1] > 0
    return np.where(vessels, np.where(np.arange(160) < 80, artery, vein), 0).astype(np.uint8)


@pytest.mark.parametrize(("artery", "vein"), [(100, 200), (127, 255), (255, 64)])
@pytest.mark.parametrize("name", ["mask.png", "mask.tif", "mask.nii.gz"])
def test_masks_of_arteries_and_veins_in_grey_are_refused(tmp_path, name, artery, vein):
    path = save(tmp_path / name, arteries_and_veins(artery, vein))
    with pytest.raises(
        InputError, match=f"{name}: .* classes 0, {min(artery, vein)}, {max(artery, vein)}; write those"
    ):
        read_mask(path)


@pytest.mark.parametrize("levels", [2, 3, 8])
def test_smoothed_outlines_are_no_classes(tmp_path, levels):
    """A larger mask made small, with the means of 2 x 2, 3 x 3 or 8 x 8 pixels as grey values."""
    drawn = fundus_phantom(np.random.default_rng(0), 240 * levels)[1] > 0
    share = drawn.reshape(240, levels, 240, levels).mean(axis=(1, 3))
    smooth = np.round(255 * share).astype(np.uint8)
    assert np.array_equal(read_mask(save(tmp_path / "mask.png", smooth)), smooth > 127)
    read_mask(save(tmp_path / "mask.jpg", arteries_and_veins(127, 255)))  # of which every value occurs


def test_a_darker_region_is_no_class_of_vessels(tmp_path):
    """OCTA-500 marks the avascular zone by 100 and vessels by 255."""
    grey = arteries_and_veins(255, 255)
    rows, columns = np.ogrid[:160, :160]
    zone = ((rows - 80) ** 2 + (columns - 60) ** 2 < 15**2) & (grey == 0)
    assert np.array_equal(read_mask(save(tmp_path / "mask.bmp", np.where(zone, 100, grey).astype(np.uint8))), grey > 0)


@pytest.mark.parametrize("kind", ["MET_USHORT", "MET_FLOAT"])
def test_metaimages_whose_colours_itk_would_change_are_refused(tmp_path, kind):
    """ITK keeps the last eight bits of each."""
    values = np.arange(24, dtype={"MET_USHORT": np.uint16, "MET_FLOAT": np.float32}[kind])
    lines = ("ObjectType = Image", "NDims = 2", "DimSize = 4 2", "ElementNumberOfChannels = 3", f"ElementType = {kind}")
    header = "\n".join([*lines, "ElementByteOrderMSB = False", "ElementDataFile = LOCAL", ""])
    (tmp_path / "colour.mha").write_bytes(header.encode() + values.tobytes())
    with pytest.raises(InputError, match="colour.mha: colours of type .*; export it again with 8 bits"):
        read_image(tmp_path / "colour.mha")


def write_tiff(path, array, sample_format=1, photometric=1):
    """Uncompressed and in one strip, with pixel types that Pillow does not write."""
    (height, width), data = array.shape, array.tobytes()
    tags = {256: width, 257: height, 258: 8 * array.itemsize, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    tags |= {279: len(data), 339: sample_format}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + directory)
    return path


def test_tiffs_whose_values_pillow_would_change_are_refused(tmp_path):
    grey = picture()
    for kind in (np.uint8, np.uint16):
        values = grey.astype(kind)
        assert np.array_equal(read_image(write_tiff(tmp_path / "eye.tif", values)).array, values)
    white_is_zero = write_tiff(tmp_path / "white.tif", 255 - grey, photometric=0)
    assert np.array_equal(read_image(white_is_zero).array, grey), "of 8 bits it is read as it is shown"
    for array, tags, message in (
        (grey.astype(np.uint16), {"photometric": 0}, "a TIFF of 16 bits in which 0 is white"),
        (grey.view(np.int8), {"sample_format": 2}, "signed 8-bit pixels"),
        (grey.astype(np.uint32), {}, "unsigned 32-bit pixels"),
    ):
        with pytest.raises(InputError, match=f"odd.tif: {message}"):
            read_image(write_tiff(tmp_path / "odd.tif", array, **tags))


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
