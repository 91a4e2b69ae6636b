"""The second-order solver against closed forms and against DDIM."""

import math

import pytest
import torch

from monai_vessel_uda.diffusion import NoiseSchedule, generate, generate_2m, generation_pairs, timestep_grid


@pytest.fixture
def images():
    return torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1


def gaussian_denoiser(schedule, mean=0.3, deviation=0.4):
    """Exact E[noise | x_t] where every pixel of a clean image is normal."""

    def noise(x, timesteps):
        alpha_bar = schedule.alpha_bar(timesteps).view(-1, 1, 1, 1)
        variance = alpha_bar * deviation**2 + 1 - alpha_bar
        return (1 - alpha_bar).sqrt() * (x - alpha_bar.sqrt() * mean) / variance

    return noise


def exact(x, schedule, t, s, mean=0.3, deviation=0.4):
    """The probability flow of a Gaussian keeps the standardised value."""
    moments = [
        (a.sqrt() * mean, (a * deviation**2 + 1 - a).sqrt()) for a in (schedule.alpha_bar(t), schedule.alpha_bar(s))
    ]
    (mean_t, deviation_t), (mean_s, deviation_s) = moments
    return mean_s + deviation_s * (x - mean_t) / deviation_t


def test_error_falls_with_the_square_of_the_number_of_steps(images):
    # A fine base schedule, so that the number of steps is the only source of error.
    schedule = NoiseSchedule("linear", 16384, 1e-4 / 16, 0.02 / 16)
    errors = []
    for steps in (64, 128, 256, 512):
        # between two fixed times: near the clean image the half log-SNR of a step does not shrink with the step
        grid = [1024 + t for t in timestep_grid(7168, steps)]
        result = generate_2m(gaussian_denoiser(schedule), images, schedule, generation_pairs(grid))
        errors.append(float((result - exact(images, schedule, grid[-1], grid[0])).abs().max()))
    orders = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert all(1.8 < order < 2.2 for order in orders), (errors, orders)


@pytest.mark.parametrize("steps", [10, 20])
def test_nearer_to_the_flow_than_ddim_with_as_many_steps(images, steps):
    schedule, start = NoiseSchedule(), 299  # t0 = 15 of 50
    pairs = generation_pairs(timestep_grid(start + 1, steps))
    noise = gaussian_denoiser(schedule)
    second, first = (
        (solve(noise, images, schedule, pairs) - exact(images, schedule, start, -1)).abs().max()
        for solve in (generate_2m, generate)
    )
    assert second < first / 2


def test_one_step_and_the_step_to_the_clean_image_are_ddims(images):
    schedule = NoiseSchedule()
    noise = gaussian_denoiser(schedule)
    for pairs in ([(500, 300)], [(99, -1)]):
        ours, ddim = (solve(noise, images, schedule, pairs) for solve in (generate_2m, generate))
        assert torch.allclose(ours, ddim, atol=1e-12)


def test_agrees_with_the_published_update_written_out(images):
    """Three steps by algorithm 2 of the paper, in its own symbols."""
    schedule, times = NoiseSchedule(), [799, 599, 399, 199]
    noise = gaussian_denoiser(schedule)
    alpha = [schedule.alpha_bar(t).sqrt() for t in times]
    sigma = [(1 - schedule.alpha_bar(t)).sqrt() for t in times]
    lam = [torch.log(a / b) for a, b in zip(alpha, sigma, strict=True)]

    def clean(x, i):
        return (x - sigma[i] * noise(x, torch.full((2,), times[i]))) / alpha[i]

    h = [None, *(lam[i] - lam[i - 1] for i in (1, 2, 3))]
    x, q = images, [clean(images, 0)]
    x = sigma[1] / sigma[0] * x - alpha[1] * (torch.exp(-h[1]) - 1) * q[0]
    for i in (2, 3):
        q.append(clean(x, i - 1))
        r = h[i - 1] / h[i]
        d = (1 + 1 / (2 * r)) * q[-1] - 1 / (2 * r) * q[-2]
        x = sigma[i] / sigma[i - 1] * x - alpha[i] * (torch.exp(-h[i]) - 1) * d
    ours = generate_2m(noise, images, schedule, list(zip(times, times[1:], strict=False)))
    assert torch.allclose(ours, x, atol=1e-12)


def test_clamping_limits_the_implied_clean_image():
    schedule, x = NoiseSchedule(), torch.full((1, 1, 2, 2), 3.0)
    assert generate_2m(lambda x, t: torch.zeros_like(x), x, schedule, [(999, -1)], clamp=True).max() == 1
    assert generate_2m(lambda x, t: torch.zeros_like(x), x, schedule, [(999, -1)]).max() > 100


def test_each_step_costs_one_network_evaluation(images):
    asked = []

    def noise(x, timesteps):
        asked.append(int(timesteps[0]))
        return torch.zeros_like(x)

    generate_2m(noise, images, NoiseSchedule(), generation_pairs(timestep_grid(1000, 4)))
    assert asked == [999, 749, 499, 249]
