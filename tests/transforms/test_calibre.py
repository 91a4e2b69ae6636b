import numpy as np
import pytest

from monai_vessel_uda.errors import InputError
from monai_vessel_uda.transforms.calibre import calibre_from_mask, calibre_from_vesselness, matching_scale


def bars(widths, size=400):
    mask = np.zeros((size, size), bool)
    for k, width in enumerate(widths):
        start = 20 + k * size // len(widths)
        mask[:, start : start + width] = True
    return mask


@pytest.mark.parametrize("width", [3, 6, 11, 20])
def test_mask_calibre_is_the_width_of_bars(width):
    assert calibre_from_mask(bars([width] * 4)) == pytest.approx(width, abs=0.6)


def test_mask_calibre_weighs_by_area():
    # one bar of 20 has more area than six bars of 2: the median vessel pixel lies in the wide one
    assert calibre_from_mask(bars([20, 2, 2, 2, 2, 2, 2])) == pytest.approx(20, abs=0.6)


def test_empty_mask_is_refused():
    with pytest.raises(InputError, match="vessel"):
        calibre_from_mask(np.zeros((9, 9), bool))


def test_calibre_scales_with_the_image():
    """Twice the image, twice the calibre: also across the size at which a reduced copy is read."""
    period, width = 48, 6
    columns = np.abs((np.arange(360) + period / 2) % period - period / 2)
    small = np.repeat((columns < width / 2).astype(np.float32)[None], 360, axis=0)
    large = np.kron(small, np.ones((3, 3), np.float32))
    ratio = calibre_from_vesselness(-large, "dark") / calibre_from_vesselness(-small, "dark")
    assert ratio == pytest.approx(3, rel=0.08)


def test_matching_scale_solves_for_the_factor():
    factor, reading = matching_scale(lambda f: 0.4 + 18 * f, 4.0, first=0.5, rounds=20, tolerance=1e-4)
    assert factor == pytest.approx(0.2, rel=1e-3) and reading == pytest.approx(4.0, rel=1e-3)


@pytest.mark.parametrize("target, reading", [(float("nan"), 3.0), (3.0, float("nan")), (0.0, 3.0)])
def test_missing_vessels_are_reported(target, reading):
    with pytest.raises(InputError, match="calibre of the (target|source)"):
        matching_scale(lambda f: reading, target, first=1.0)
