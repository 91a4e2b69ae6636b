"""The batched changes of appearance against MONAI's transforms of single images."""

import pytest
import torch
from monai.transforms import AdjustContrast, GaussianSmooth

from monai_vessel_uda.transforms.augmentation import RandAppearance

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


def test_three_dimensions():
    image = torch.rand(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    changed = RandAppearance(prob=1.0)(image, SEEDS[:2])
    assert changed.shape == image.shape
    assert torch.isfinite(changed).all()
