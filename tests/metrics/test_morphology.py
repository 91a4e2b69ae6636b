"""Measurements on shapes whose values are known."""

import math

import numpy as np
import pytest

from monai_vessel_uda.metrics.morphology import vessel_morphology

VAD, VSD, VSD_MM, VDI, VDI_UM = (
    "vessel_area_density",
    "vessel_skeleton_density_per_px",
    "vessel_skeleton_density_mm_per_mm2",
    "vessel_diameter_index_px",
    "vessel_diameter_index_um",
)


def bars(width, length=400, period=40, count=3):
    """Horizontal bars of one width, from edge to edge."""
    mask = np.zeros((period * count, length), bool)
    for start in range(10, period * count, period):
        mask[start : start + width] = True
    return mask


@pytest.mark.parametrize("width", [1, 3, 4, 7, 12])
def test_straight_bars(width):
    """The skeleton may end half a width before the bar does."""
    found = vessel_morphology(bars(width), pixel_mm=(0.006, 0.006))
    assert found[VAD] == width / 40
    assert found[VSD] == pytest.approx(1 / 40, rel=(width + 2) / 400)
    assert found[VDI] == pytest.approx(width, rel=(width + 3) / 400)
    assert found[VSD_MM] == pytest.approx(found[VSD] / 0.006)
    assert found[VDI_UM] == pytest.approx(6 * found[VDI])


def test_a_disc_and_a_ring():
    y, x = np.mgrid[:201, :201] - 100
    disc, ring = np.hypot(x, y) <= 60, np.abs(np.hypot(x, y) - 60) <= 2.5
    assert vessel_morphology(disc)[VAD] == pytest.approx(math.pi * 60**2 / 201**2, rel=0.01)
    assert vessel_morphology(disc)[VSD] < 10 / 201**2, "a disc has no length to speak of"
    found = vessel_morphology(ring)
    # the centre line of a circle in pixels has one for each of the longer of its two steps: 4 sqrt 2 r of them
    assert found[VSD] == pytest.approx(4 * math.sqrt(2) * 60 / 201**2, rel=0.05)
    assert 5 < found[VDI] < 5 * math.sqrt(2)


def test_physical_values_do_not_depend_on_the_sampling():
    """Twice the pixels for one millimetre: shares stay, lengths in px do not, lengths in mm do."""
    coarse = bars(5)
    fine = np.kron(coarse, np.ones((2, 2), bool)).astype(bool)
    one, two = vessel_morphology(coarse, pixel_mm=(0.02, 0.02)), vessel_morphology(fine, pixel_mm=(0.01, 0.01))
    assert two[VAD] == one[VAD]
    assert two[VSD] == pytest.approx(one[VSD] / 2, rel=0.02) and two[VDI] == pytest.approx(2 * one[VDI], rel=0.02)
    assert two[VSD_MM] == pytest.approx(one[VSD_MM], rel=0.02) and two[VDI_UM] == pytest.approx(one[VDI_UM], rel=0.02)


def test_only_the_field_of_view_counts():
    mask = bars(4)
    fov = np.zeros_like(mask)
    fov[:40, :200] = True
    found, alone = vessel_morphology(mask, fov), vessel_morphology(mask[:40, :200])
    assert found == pytest.approx(alone, nan_ok=True) and found[VAD] == 0.1
    assert all(map(math.isnan, vessel_morphology(mask, np.zeros_like(fov)).values()))


def test_no_vessel_has_no_calibre_and_no_spacing_no_millimetres():
    nothing = vessel_morphology(np.zeros((9, 9), bool), pixel_mm=(0.1, 0.1))
    assert (nothing[VAD], nothing[VSD], nothing[VSD_MM]) == (0, 0, 0)
    assert math.isnan(nothing[VDI]) and math.isnan(nothing[VDI_UM])
    unknown = vessel_morphology(bars(3))
    assert math.isnan(unknown[VSD_MM]) and math.isnan(unknown[VDI_UM]) and unknown[VDI] > 0
