import ignite.distributed as idist
import pytest
import torch

from monai_vessel_uda.diffusion import NoiseSchedule
from monai_vessel_uda.losses import VesselWeightedNoiseLoss, min_snr_weight, vessel_weighted_noise_loss
from monai_vessel_uda.losses.vessel_weighted_noise import dilate


def test_formula_on_a_single_vessel_pixel():
    mask = torch.zeros(1, 1, 9, 9)
    mask[..., 4, 4] = 1
    error = torch.zeros(1, 1, 9, 9)
    error[..., 4, 4] = 2.0  # squared error 4 at the vessel
    error[..., 0, 0] = 3.0  # squared error 9 far from it
    loss = vessel_weighted_noise_loss(error, torch.zeros_like(error), mask)
    assert torch.isclose(loss, torch.tensor(0.5 * 13 / 81 + 4 / (25 + 1)))


def test_without_vessel_weight_it_is_equation_three():
    prediction, noise = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    loss = VesselWeightedNoiseLoss(1.0, 0.0)(prediction, (noise, torch.ones(2, 1, 4, 4)))
    assert torch.isclose(loss, ((prediction - noise) ** 2).mean())


def test_empty_mask_leaves_the_overall_term():
    prediction, noise = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    loss = vessel_weighted_noise_loss(prediction, noise, torch.zeros(2, 1, 4, 4))
    assert torch.isclose(loss, 0.5 * ((prediction - noise) ** 2).mean())


def test_patches_weigh_in_both_terms():
    noise, mask = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    mask[:, :, 1, 1] = 1
    prediction = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    loss = VesselWeightedNoiseLoss(dilation=0)(prediction, (noise, mask, torch.tensor([1.0, 0.25])))
    # both patches have the same weighted error of 1: overall 0.5, near the two vessel pixels 2 / (2 + 1)
    assert torch.isclose(loss, torch.tensor(0.5 + 2 / 3))


def test_min_snr_weights_clean_images_less_and_noisy_ones_alike():
    schedule = NoiseSchedule()
    timesteps = torch.arange(1000)
    ratio = schedule.signal_to_noise(timesteps)
    weight = min_snr_weight(ratio, 5.0)
    assert torch.equal(weight == 1, ratio <= 5)
    assert torch.allclose((weight * ratio)[ratio > 5], torch.tensor(5.0, dtype=ratio.dtype))
    alpha_bar = schedule.alpha_bar(timesteps)
    assert torch.allclose(ratio, alpha_bar / (1 - alpha_bar))
    assert weight[0] < 0.001 < 0.9 < weight[150]


def test_gradient_is_larger_near_vessels():
    prediction = torch.ones(1, 1, 16, 16, requires_grad=True)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8, :] = 1
    vessel_weighted_noise_loss(prediction, torch.zeros(1, 1, 16, 16), mask).backward()
    assert (prediction.grad[..., 8, :] > 2 * prediction.grad[..., 0, :]).all()
    assert (prediction.grad[..., 0, :] > 0).all()


def test_dilation_in_one_to_three_dimensions():
    for dims in (1, 2, 3):
        mask = torch.zeros(1, 1, *[7] * dims)
        mask[(0, 0, *[3] * dims)] = 1
        assert dilate(mask, 2).sum() == 5**dims
        assert torch.equal(dilate(mask, 0), mask)


def test_losses_of_two_processes_average_to_that_of_the_whole_batch(monkeypatch):
    """Whose halves hold different numbers of vessels."""
    generator = torch.Generator().manual_seed(0)
    prediction, noise = torch.randn(2, 4, 1, 12, 12, generator=generator)
    mask = torch.zeros(4, 1, 12, 12)
    mask[0, 0, 4], mask[3, 0, 4, 4] = 1, 1
    whole = vessel_weighted_noise_loss(prediction, noise, mask, 0.0)
    near_vessels = dilate(mask, 2).sum()
    monkeypatch.setattr(idist, "all_reduce", lambda _: near_vessels)
    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    halves = [vessel_weighted_noise_loss(prediction[h], noise[h], mask[h], 0.0) for h in (slice(2), slice(2, 4))]
    assert float(sum(halves) / 2) == pytest.approx(float(whole), rel=1e-5)
