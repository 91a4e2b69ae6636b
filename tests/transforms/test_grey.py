import numpy as np
import pytest

from monai_vessel_uda.errors import InputError
from monai_vessel_uda.transforms.grey import best_contrast_grey, has_colour, to_grey, vessel_contrast


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64])
def test_channels_and_luma_keep_the_units(dtype):
    rgb = np.stack([np.full((3, 4), v) for v in (10, 20, 40)], axis=-1).astype(dtype)
    for grey, expected in (("red", 10), ("green", 20), ("blue", 40), ("luma", 0.299 * 10 + 0.587 * 20 + 0.114 * 40)):
        result = to_grey(rgb, grey)
        assert result.dtype == np.float32 and result.shape == (3, 4)
        np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_alpha_is_ignored_and_grey_passes_through():
    rng = np.random.default_rng(0)
    plain = rng.integers(0, 255, (5, 6), dtype=np.uint8)
    np.testing.assert_array_equal(to_grey(np.dstack([plain, 255 - plain]), "red"), plain)
    rgba = rng.integers(0, 255, (5, 6, 4), dtype=np.uint8)
    np.testing.assert_array_equal(to_grey(rgba, "luma"), to_grey(rgba[..., :3], "luma"))
    assert not has_colour(np.dstack([plain] * 3)) and has_colour(rgba)


def test_marks_and_rounding_do_not_make_an_image_coloured():
    rng = np.random.default_rng(0)
    image = np.dstack([rng.integers(0, 250, (100, 100), dtype=np.uint8)] * 3)
    image[..., 2] += rng.integers(0, 4, (100, 100), dtype=np.uint8)  # of a colour space
    image[:9, :9] = (255, 0, 0)  # a mark
    assert not has_colour(image)
    image[:9, :20] = (255, 0, 0)
    assert has_colour(image)


@pytest.mark.parametrize("shape", [(4, 4, 5), (4,), (2, 4, 4, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(InputError, match="shape"):
        to_grey(np.zeros(shape), "green")


def test_contrast_equals_cohens_d_of_known_gaussians():
    rng = np.random.default_rng(0)
    mask = np.zeros((200, 200), bool)
    mask[:, 80:120] = True
    image = rng.normal(0, 2.0, mask.shape) + 3.0 * mask
    assert vessel_contrast(image, mask, ring=30) == pytest.approx(1.5, abs=0.03)
    assert vessel_contrast(-image, mask, ring=30) == pytest.approx(-1.5, abs=0.03)


def test_best_channel_is_the_one_where_vessels_show():
    rng = np.random.default_rng(1)
    mask = np.zeros((60, 60), bool)
    mask[20:26] = True
    rgb = rng.normal(100, 5, (60, 60, 3))
    rgb[..., 2] -= 20 * mask  # dark vessels in blue alone
    grey, evidence = best_contrast_grey([rgb], [mask])
    assert grey == "blue" and evidence["blue"] < -3 and abs(evidence["red"]) < 0.3


def test_mask_without_vessel_is_refused():
    with pytest.raises(InputError, match="vessel"):
        vessel_contrast(np.zeros((8, 8)), np.zeros((8, 8), bool))
