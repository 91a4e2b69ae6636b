import numpy as np
import pytest

from monai_vessel_uda.errors import InputError
from monai_vessel_uda.transforms.field_of_view import detect_field_of_view, field_of_view_diameter, patch_centres


def disc(shape, radius, centre=None):
    centre = centre or (shape[0] / 2, shape[1] / 2)
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    return (rows - centre[0]) ** 2 + (cols - centre[1]) ** 2 < radius**2


def photograph(shape, radius, seed=0):
    rng = np.random.default_rng(seed)
    fov = disc(shape, radius)
    rgb = np.where(fov[..., None], (150, 80, 30), (4, 3, 5)) + rng.normal(0, 3, (*shape, 3))
    return np.clip(rgb, 0, 255).astype(np.uint8), fov


@pytest.mark.parametrize("shape, radius", [((600, 600), 280), ((480, 720), 330), ((120, 130), 50)])
def test_round_field_of_view_is_found_even_if_cut(shape, radius):
    image, fov = photograph(shape, radius)
    found = detect_field_of_view(image)
    assert (found & fov).sum() / (found | fov).sum() > 0.94
    expected = min(2 * radius, max(shape))
    assert field_of_view_diameter(found) == pytest.approx(expected, rel=0.05)
    assert not (found & ~fov).any()  # never beyond the retina


def test_label_in_a_corner_reflection_and_dark_rim_do_not_matter():
    image, fov = photograph((600, 600), 280)
    image[5:30, 5:40] = 255  # label in the corner
    image[disc((600, 600), 60, (300, 40)) & fov] = (20, 12, 6)  # dark lesion that reaches the rim
    image[290:300, 570:600] = 90  # reflection outside
    found = detect_field_of_view(image)
    assert (found & fov).sum() / (found | fov).sum() > 0.93


def test_images_without_surround_are_kept_whole():
    rng = np.random.default_rng(0)
    octa = rng.gamma(1.0, 30, (320, 320)).clip(0, 255).astype(np.uint8)
    assert detect_field_of_view(octa).all()
    octa[:80, :80] = 0  # one black corner is an artefact, not a surround
    assert detect_field_of_view(octa).all()
    assert detect_field_of_view(np.zeros((50, 50), np.uint8)).all()


@pytest.mark.parametrize("size", [24, 17])
def test_every_patch_has_its_share_in_the_field_of_view(size):
    fov = disc((90, 100), 44)
    centres = patch_centres(fov, size, 0.9)
    assert centres.any()
    before, after = size // 2, size - size // 2
    for r, c in np.argwhere(centres):
        patch = fov[r - before : r + after, c - before : c + after]
        assert patch.shape == (size, size) and patch.mean() >= 0.9 - 1e-9
    # and none is forgotten
    for r in range(before, 90 - after + 1):
        for c in range(before, 100 - after + 1):
            if fov[r - before : r + after, c - before : c + after].mean() >= 0.9:
                assert centres[r, c]


def test_whole_image_patch_has_one_centre_and_larger_is_refused():
    fov = np.ones((16, 16), bool)
    assert np.argwhere(patch_centres(fov, 16)).tolist() == [[8, 8]]
    with pytest.raises(InputError, match="exceeds"):
        patch_centres(np.ones((16, 20), bool), 17)


def test_unreachable_share_falls_back_to_the_best_there_is():
    fov = disc((64, 64), 20)
    centres = patch_centres(fov, 60, 0.9)
    assert centres.any() and not centres[0, 0]
