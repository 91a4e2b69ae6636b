import numpy as np
import pytest

from monai_vessel_uda.transforms.vesselness import ridge_scale, vesselness


def stripes(width, shape=(160, 160), period=40, angle=0.0):
    """Bright bars of the given width with smooth sampling (area coverage of each pixel, approximately)."""
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    across = rows * np.cos(angle) + cols * np.sin(angle)
    distance = np.abs((across + period / 2) % period - period / 2)
    return np.clip(width / 2 - distance + 0.5, 0, 1).astype(np.float32)


@pytest.mark.parametrize("sigma", [1.5, 3.0])
def test_response_to_a_gaussian_ridge_has_its_closed_form(sigma):
    # ridge exp(-r^2 / 2 s0^2): response at its crest is sigma^2 s0 / (s0^2 + sigma^2)^(3/2)
    s0, rows = 2.0, np.arange(-40, 41)
    image = np.repeat(np.exp(-(rows**2) / (2 * s0**2))[:, None], 81, axis=1).astype(np.float32)
    response, angle = vesselness(image, "bright", scales=(sigma,))
    assert response[40, 40] == pytest.approx(sigma**2 * s0 / (s0**2 + sigma**2) ** 1.5, rel=0.02)
    assert abs(np.cos(angle[40, 40])) == pytest.approx(1, abs=1e-3)  # across = along the rows
    assert vesselness(image, "dark", scales=(sigma,))[0][40, 40] == 0


@pytest.mark.parametrize("width", [3, 5, 8])
@pytest.mark.parametrize("angle", [0.0, 0.5])
def test_scale_is_half_the_width_of_a_bar(width, angle):
    image = stripes(width, angle=angle)
    assert 2 * ridge_scale(image) == pytest.approx(width, rel=0.15)
    assert ridge_scale(-image, "dark") == pytest.approx(ridge_scale(image), rel=1e-6)


def test_speckle_moves_the_scale_little():
    image = stripes(4, shape=(256, 256))
    noisy = image * np.random.default_rng(0).gamma(2, 0.5, image.shape) + np.random.default_rng(1).gamma(
        1, 0.15, image.shape
    )
    assert ridge_scale(noisy) == pytest.approx(ridge_scale(image), rel=0.15)


def test_no_line_gives_nan():
    assert np.isnan(ridge_scale(np.zeros((64, 64), np.float32)))
    assert np.isnan(ridge_scale(stripes(4), fov=np.zeros((160, 160), bool)))
