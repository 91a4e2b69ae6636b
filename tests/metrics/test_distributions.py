import math

import numpy as np
import pytest
import torch
from monai.metrics.mmd import compute_mmd
from torchmetrics.image.kid import poly_mmd

from monai_vessel_uda.errors import InputError
from monai_vessel_uda.metrics.distributions import (
    feature_distance,
    gaussian_smooth,
    intensity_distances,
    texture_features,
    unbiased_cubic_mmd2,
)


def vessels(n, width=2.0, seed=0, size=48, noise=0.1):
    """Bright lines of a given width, at random angle and place, on noise."""
    generator = torch.Generator().manual_seed(seed)
    angle, offset = torch.rand(2, n, 1, 1, 1, generator=generator)
    yy, xx = torch.meshgrid(torch.arange(size) - size / 2, torch.arange(size) - size / 2, indexing="ij")
    distance = torch.cos(math.pi * angle) * xx + torch.sin(math.pi * angle) * yy - 12 * (offset - 0.5)
    image = 1.2 * torch.exp(-0.5 * (distance / width) ** 2) - 0.6
    return image + noise * torch.randn(image.shape, generator=generator)


def test_histogram_distances_in_closed_form():
    # p = (1/2, 1/2), q = (1, 0) over two bins.
    distances = intensity_distances([[-0.5, 0.5]], [[-0.5, -0.7]], bins=2)
    assert distances["euclidean"] == pytest.approx(math.sqrt(0.5))
    assert distances["cosine"] == pytest.approx(1 - 1 / math.sqrt(2))


def test_histogram_distances_of_equal_and_disjoint_sets():
    image = np.random.default_rng(0).uniform(-1, 1, (3, 20, 20))
    same = intensity_distances(image, torch.from_numpy(image[::-1].copy()))
    assert same == {"euclidean": 0.0, "cosine": pytest.approx(0.0, abs=1e-12)}
    disjoint = intensity_distances([np.full((4, 4), -1.0)], [np.full((2, 2), 1.0)])
    assert disjoint == {"euclidean": pytest.approx(math.sqrt(2)), "cosine": 1.0}


def test_histograms_pool_images_and_clip_values():
    pooled = intensity_distances([[0.9], [0.9], [-0.9]], [[[0.9, 0.9, -0.9]]], bins=4)
    assert pooled["euclidean"] == pytest.approx(0, abs=1e-12)
    assert intensity_distances([[1.7]], [[1.0]])["euclidean"] == 0


def test_histogram_errors():
    with pytest.raises(InputError, match="images_b"):
        intensity_distances([[0.0]], [])
    with pytest.raises(InputError, match=r"images_a\[0\].*finite"):
        intensity_distances([[float("nan")]], [[0.0]])


def test_smoothing_keeps_constants_up_to_the_border():
    constant = torch.full((1, 1, 9, 7), -0.8)
    assert torch.allclose(gaussian_smooth(constant, 2.0), constant, atol=1e-6)
    with pytest.raises(InputError, match="sigma"):
        gaussian_smooth(constant, 0.0)


def test_features_are_invariant_to_flips_and_quarter_turns():
    images = vessels(4)
    expected = texture_features(images)
    assert expected.shape == (4, 26)
    for moved in (images.flip(2), images.flip(3), images.rot90(1, (2, 3))):
        assert torch.allclose(texture_features(moved), expected, atol=1e-6)


def test_constant_image_has_only_its_mean():
    features = texture_features(torch.full((2, 1, 32, 32), 0.3))
    assert features[:, 0] == pytest.approx(0.3)
    assert features[:, 1:].abs().max() < 1e-6


def test_polarity_swaps_bright_and_dark_ridges():
    features, negated = texture_features(vessels(3, noise=0)), texture_features(-vessels(3, noise=0))
    bright, dark = slice(2, None, 4), slice(3, None, 4)  # maps: image, then (gradient, bright, dark, std) per scale
    means, means_negated = features[:, :13], negated[:, :13]
    assert torch.allclose(means[:, bright], means_negated[:, dark], atol=1e-9)
    assert (means[:, bright] > means[:, dark]).all()


def test_cubic_estimator_equals_the_reference_for_equal_sizes():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 30, 5, generator=generator, dtype=torch.float64)
    assert unbiased_cubic_mmd2(x, y + 0.5) == pytest.approx(float(poly_mmd(y + 0.5, x)), rel=1e-9)


def test_cubic_kernel_sees_what_monais_linear_one_cannot():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(400, 4, generator=generator, dtype=torch.float64)
    y = 3 * torch.randn(400, 4, generator=generator, dtype=torch.float64)  # same mean, another spread
    assert abs(float(compute_mmd(x, y, None))) < 0.1
    assert unbiased_cubic_mmd2(x, y) > 5


def test_estimate_is_unbiased_for_one_distribution():
    generator = torch.Generator().manual_seed(2)
    estimates = torch.tensor(
        [
            unbiased_cubic_mmd2(*torch.randn(38, 6, generator=generator, dtype=torch.float64).split([18, 20]))
            for _ in range(300)
        ]
    )
    standard_error = estimates.std() / math.sqrt(len(estimates))
    assert estimates.mean().abs() < 3 * standard_error
    assert (estimates < 0).any()


def test_distance_grows_as_images_leave_the_real_ones():
    real = vessels(60, seed=1)
    same = feature_distance(vessels(40, seed=2), real)
    wider = feature_distance(vessels(40, width=3.0, seed=2), real)
    much_wider = feature_distance(vessels(40, width=5.0, seed=2), real)
    brighter = feature_distance(vessels(40, seed=2) + 0.3, real)
    assert abs(same) < 0.2 * min(wider, brighter)
    assert same < wider < much_wider


def test_texture_is_seen_where_histograms_are_equal():
    real = vessels(40, seed=1)
    order = torch.randperm(real.shape[-1] ** 2, generator=torch.Generator().manual_seed(0))
    shuffled = real.flatten(2)[:, :, order].reshape(real.shape)
    assert intensity_distances(shuffled, real)["euclidean"] == 0
    assert feature_distance(shuffled, real) > 10 * abs(feature_distance(vessels(40, seed=3), real))


def test_features_may_be_the_callers_and_have_no_scale():
    real, generated = vessels(20, seed=1), vessels(20, seed=2) + 0.2

    def pooled(images):
        return images.flatten(1).unflatten(1, (16, -1)).mean(dim=2)

    expected = feature_distance(generated, real, features=pooled)
    assert expected == pytest.approx(feature_distance(generated, real, features=lambda x: 100 * pooled(x)), rel=1e-6)
    assert feature_distance(generated, real) == feature_distance(generated, real)


@pytest.mark.parametrize(
    ("generated", "word"),
    [
        (torch.zeros(1, 1, 16, 16), "N >= 2"),
        (torch.zeros(3, 2, 16, 16), "generated"),
        (torch.zeros(3, 1, 16, 20), "size"),
        (torch.full((3, 1, 16, 16), math.nan), "finite"),
    ],
)
def test_bad_patches_are_named(generated, word):
    with pytest.raises(InputError, match=word):
        feature_distance(generated, torch.zeros(4, 1, 16, 16))
