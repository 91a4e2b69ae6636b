import numpy as np
import pytest

from monai_vessel_uda.errors import InputError
from monai_vessel_uda.transforms.histogram import match_quantiles, quantiles


def test_quantiles_pool_the_fields_of_view():
    fov = np.zeros((10, 10), bool)
    fov[:, :5] = True
    a, b = np.where(fov, 0.0, 99.0), np.where(fov, 1.0, 99.0)
    assert quantiles([a, b], [fov, fov], n=5).tolist() == [0, 0, 0.5, 1, 1]
    with pytest.raises(InputError):
        quantiles([a], [np.zeros_like(fov)])


def test_result_has_the_reference_distribution_and_keeps_order():
    rng = np.random.default_rng(0)
    image, fov = rng.gamma(2, 1, (80, 80)), np.ones((80, 80), bool)
    reference = quantiles([np.tanh(rng.normal(0, 1, (80, 80)))], [fov])
    matched = match_quantiles(image, fov, reference)
    np.testing.assert_allclose(quantiles([matched], [fov]), reference, atol=0.02)
    order = np.argsort(image.ravel())
    assert (np.diff(matched.ravel()[order]) >= -1e-6).all()


def test_matching_to_itself_is_the_identity_and_gain_does_not_matter():
    image = np.random.default_rng(0).uniform(-1, 1, (64, 64))
    fov = np.ones(image.shape, bool)
    reference = quantiles([image], [fov], n=1025)
    np.testing.assert_allclose(match_quantiles(image, fov, reference), image, atol=2e-3)
    np.testing.assert_allclose(match_quantiles(3 * image + 8, fov, reference), image, atol=2e-3)


def test_tied_values_map_to_one_value_in_the_middle():
    image = np.zeros((10, 10))
    image[:5] = 1
    matched = match_quantiles(image, np.ones((10, 10), bool), np.linspace(-1, 1, 257))
    assert np.unique(matched[:5]).size == 1
    np.testing.assert_allclose([matched[9, 0], matched[0, 0]], [-0.5, 0.5], atol=0.02)
