"""The batched changes of appearance against MONAI's transforms of single images."""

import pytest
import torch
from monai.transforms import AdjustContrast, GaussianSmooth

from monai_vessel_uda.transforms.augmentation import RandAppearance, RandElastic

NOTHING = {"gamma": (1.0, 1.0), "contrast": 0.0, "brightness": 0.0, "noise": 0.0, "blur": (0.0, 0.0)}


@pytest.fixture
def images():
    return torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def only(**change):
    """Always this change and no other."""
    return RandAppearance(prob=1.0, **{**NOTHING, **change})


SEEDS = torch.tensor([11, 12, 2**62])


def test_changes_of_an_image_depend_on_its_seed_and_not_on_its_batch(images):
    augment = RandAppearance()
    together = augment(images, SEEDS)
    assert torch.equal(together, augment(images, SEEDS))
    for i in range(3):
        assert torch.allclose(augment(images[i : i + 1], SEEDS[i : i + 1]), together[i : i + 1], atol=1e-6)
    other = augment(images, SEEDS + 1)
    assert not torch.allclose(other, together, atol=0.05)


def test_probability_zero_leaves_everything_as_it_is(images):
    assert torch.equal(RandAppearance(prob=0.0)(images, SEEDS), images)


def test_each_change_happens_as_often_as_asked():
    images, seeds = torch.full((400, 1, 4, 4), 0.5), torch.arange(400)
    changed = RandAppearance(prob=0.3, **{**NOTHING, "brightness": 0.3})(images, seeds)
    moved = (changed - images).flatten(1).abs().amax(1)
    assert 0.2 < (moved > 1e-4).float().mean() < 0.4
    assert moved.max() <= 0.3 + 1e-6


def test_nothing_to_change_changes_nothing(images):
    assert torch.allclose(only()(images, SEEDS), images, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.6, 1.7])
def test_gamma_is_monais(images, gamma):
    ours = only(gamma=(gamma, gamma))(images, SEEDS)
    theirs = torch.stack([torch.as_tensor(AdjustContrast(gamma)(image)) for image in images])
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.3, 1.2])
def test_blur_is_monais_away_from_the_border(images, sigma):
    ours = only(blur=(sigma, sigma))(images, SEEDS)
    theirs = torch.stack([torch.as_tensor(GaussianSmooth(sigma)(image)) for image in images])
    inside = (..., slice(6, -6), slice(6, -6))
    assert torch.allclose(ours[inside], theirs[inside], atol=2e-4)
    assert ours.std() < images.std()


def test_blur_keeps_a_flat_image_flat_up_to_the_border():
    flat = torch.full((1, 1, 16, 16), -0.7)
    assert torch.allclose(only(blur=(1.2, 1.2))(flat, SEEDS[:1]), flat, atol=1e-6)


def test_contrast_scales_and_noise_has_at_most_the_deviation_asked_for(images):
    ratio = only(contrast=0.4)(images, SEEDS) / images
    assert torch.allclose(ratio.flatten(1), ratio.flatten(1)[:, :1].expand(-1, 1024), atol=1e-3)
    assert (ratio - 1).abs().max() <= 0.4 + 1e-3
    deviations = (only(noise=0.3)(images, SEEDS) - images).flatten(1).std(1)
    assert (deviations > 1e-3).all()
    assert (deviations < 0.33).all()


def test_speckle_grows_with_the_intensity(images):
    added = (only(speckle=0.3)(images, SEEDS) - images).abs()
    bright, dark = images > 0.5, images < -0.5
    assert added[bright].mean() > 4 * added[dark].mean()
    assert ((added / (images + 1).clamp(min=0.05)).flatten(1).std(1) < 0.3).all()
    assert torch.allclose(only(speckle=0.3)(torch.full_like(images, -1.0), SEEDS), torch.tensor(-1.0))


class TestElastic:
    """A ramp shows by how much every pixel moved, a mask made from it whether the mask moved alike."""

    @pytest.fixture
    def ramp(self):
        column = torch.linspace(-1, 1, 64)
        return column.expand(200, 1, 64, 64).contiguous()

    def moved(self, ramp, **options):
        bent, _ = RandElastic(**options)(ramp, (ramp > 0).float(), torch.arange(200))
        return (bent - ramp)[:, :, :, 16:-16] * 63 / 2  # px

    def test_displacements_are_as_large_as_asked_and_smooth(self, ramp):
        moved = self.moved(ramp, magnitude=3.0, prob=1.0)
        deviations = moved.flatten(1).std(1)
        assert deviations.max() < 2 * 3.0
        assert 0.6 < deviations.mean() / 1.5 < 1.2, "uniform below the magnitude, less what interpolation smooths"
        assert moved.diff(dim=3).abs().mean() < 0.2

    def test_it_happens_as_often_as_asked(self, ramp):
        moved = self.moved(ramp, magnitude=3.0, prob=0.3).flatten(1).abs().amax(1)
        assert 0.2 < (moved > 1e-3).float().mean() < 0.4

    def test_masks_bend_with_their_images(self, ramp):
        for dtype in (torch.uint8, torch.float32):
            bent, mask = RandElastic(4.0, prob=1.0)(ramp, (ramp > 0).to(dtype), torch.arange(200))
            assert mask.dtype == dtype
            assert set(mask.unique().tolist()) == {0, 1}
            assert ((bent > 0) == (mask > 0)).float().mean() > 0.99
            assert (mask != (ramp > 0)).float().mean() > 0.01

    def test_it_depends_on_the_patchs_seed_and_not_on_its_batch(self, ramp):
        elastic = RandElastic(4.0, prob=1.0)
        together = elastic(ramp[:3], ramp[:3] > 0, SEEDS)[0]
        for i in range(3):
            alone = elastic(ramp[i : i + 1], ramp[i : i + 1] > 0, SEEDS[i : i + 1])[0]
            assert torch.allclose(alone, together[i : i + 1], atol=1e-6)
        assert not torch.allclose(together[0], together[1], atol=0.01)

    def test_magnitude_zero_changes_nothing(self, ramp):
        image, mask = RandElastic(0.0)(ramp, ramp > 0, torch.arange(200))
        assert torch.equal(image, ramp)
        assert torch.equal(mask, ramp > 0)

    @pytest.mark.parametrize("shape", [(2, 1, 24, 40), (2, 1, 8, 12, 16)])
    def test_other_shapes(self, shape):
        image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        bent, mask = RandElastic(2.0, spacing=4, prob=1.0)(image, image > 0.5, SEEDS[:2])
        assert bent.shape == mask.shape == shape
        assert not torch.allclose(bent, image, atol=0.05)


def test_three_dimensions():
    image = torch.rand(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    changed = RandAppearance(prob=1.0)(image, SEEDS[:2])
    assert changed.shape == image.shape
    assert torch.isfinite(changed).all()
