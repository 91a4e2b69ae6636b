import numpy as np
import pytest

from monai_vessel_uda.transforms.background import blur_within, flatten_background


def test_blur_ignores_what_lies_outside():
    fov = np.zeros((40, 40), bool)
    fov[10:30, 10:30] = True
    image = np.where(fov, 7.0, -1e6)
    np.testing.assert_allclose(blur_within(image, fov, 3)[fov], 7.0, rtol=1e-5)


def test_flattening_is_blind_to_gain_and_offset():
    rng = np.random.default_rng(0)
    image = rng.normal(0, 1, (64, 64))
    fov = np.ones(image.shape, bool)
    np.testing.assert_allclose(
        flatten_background(5 * image + 100, fov, 6), flatten_background(image, fov, 6), atol=1e-3
    )


def test_slow_shading_goes_and_fine_detail_stays():
    rows, cols = np.mgrid[:128, :128]
    detail = np.random.default_rng(0).normal(0, 1, (128, 128))
    shading = 0.5 * (rows + cols)
    fov = np.ones(detail.shape, bool)
    inner = (slice(24, -24),) * 2
    flat = flatten_background(detail + shading, fov, 6)[inner]
    assert abs(np.corrcoef(flat.ravel(), shading[inner].ravel())[0, 1]) < 0.05
    assert np.corrcoef(flat.ravel(), detail[inner].ravel())[0, 1] > 0.95


@pytest.mark.parametrize("value", [0.0, 255.0])
def test_constant_image_gives_zero(value):
    fov = np.ones((32, 32), bool)
    np.testing.assert_array_equal(flatten_background(np.full((32, 32), value), fov, 4), 0)
