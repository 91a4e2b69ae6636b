"""The samplers against closed forms."""

import math

import pytest
import torch

from monai_vessel_uda.diffusion import (
    NoiseSchedule,
    generate,
    generation_pairs,
    inversion_pairs,
    invert,
    sample_ancestral,
    timestep_grid,
)
from monai_vessel_uda.diffusion.ddim import seeded_noise
from monai_vessel_uda.errors import InputError


def generators(count, seed=0):
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


@pytest.fixture
def images():
    return torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("steps", [7, 10, 50, 1000])
@pytest.mark.parametrize("spacing", ["trailing", "leading", "quadratic"])
@pytest.mark.parametrize("refinements", [0, 2])
def test_inverse_after_forward_is_identity_for_constant_noise(images, steps, spacing, refinements):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    schedule, grid = NoiseSchedule(), timestep_grid(1000, steps, spacing)
    latents = invert(lambda x, t: noise, images, schedule, inversion_pairs(grid), refinements=refinements)
    assert (latents - images).abs().max() > 0.5  # it did something
    back = generate(lambda x, t: noise, latents, schedule, generation_pairs(grid))
    assert (back - images).abs().max() < 1e-10


def gaussian_denoiser(schedule, mean, deviation):
    """Exact E[noise | x_t] where every pixel of a clean image is normal."""

    def noise(x, timesteps):
        alpha_bar = schedule.alpha_bar(timesteps).view(-1, 1, 1, 1)
        variance = alpha_bar * deviation**2 + 1 - alpha_bar
        return (1 - alpha_bar).sqrt() * (x - alpha_bar.sqrt() * mean) / variance

    return noise


def closed_form(x, alpha_bar_t, alpha_bar_s, mean, deviation):
    """The probability flow of a Gaussian keeps the standardised value."""

    def moments(alpha_bar):
        return alpha_bar.sqrt() * mean, (alpha_bar * deviation**2 + 1 - alpha_bar).sqrt()

    mean_t, deviation_t = moments(alpha_bar_t)
    mean_s, deviation_s = moments(alpha_bar_s)
    return mean_s + deviation_s * (x - mean_t) / deviation_t


@pytest.mark.parametrize("direction", ["generate", "invert"])
def test_exact_gaussian_denoiser_converges_at_first_order(images, direction):
    # A fine base schedule, so that the number of steps is the only source of error.
    schedule, mean, deviation = NoiseSchedule("linear", 16384, 1e-4 / 16, 0.02 / 16), 0.3, 0.4
    noise, top = gaussian_denoiser(schedule, mean, deviation), 8191
    errors = []
    for steps in (64, 128, 256, 512):
        grid = timestep_grid(top + 1, steps)[1:]  # from a timestep on, where the noise prediction is defined
        low, high = grid[0], grid[-1]
        if direction == "generate":
            result = generate(noise, images, schedule, generation_pairs(grid))
            exact = closed_form(images, schedule.alpha_bar(high), schedule.alpha_bar(low), mean, deviation)
        else:
            result = invert(noise, images, schedule, inversion_pairs(grid))
            exact = closed_form(images, schedule.alpha_bar(low), schedule.alpha_bar(high), mean, deviation)
        errors.append(float((result - exact).abs().max()))
    orders = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert all(0.9 < order < 1.1 for order in orders), (errors, orders)


def test_fixed_point_refinement_makes_the_inversion_exact(images):
    schedule = NoiseSchedule()
    noise, grid = gaussian_denoiser(schedule, 0.3, 0.4), timestep_grid(1000, 50)

    def round_trip(refinements):
        latents = invert(noise, images, schedule, inversion_pairs(grid, 15), refinements=refinements)
        return (generate(noise, latents, schedule, generation_pairs(grid, 15)) - images).abs().max()

    plain, refined = round_trip(0), round_trip(8)
    assert plain > 1e-3
    assert refined < plain / 100


def test_ancestral_sampling_of_a_gaussian_has_its_mean_and_deviation():
    schedule = NoiseSchedule()
    noise, grid = gaussian_denoiser(schedule, 0.3, 0.4), timestep_grid(1000, 250)
    start = seeded_noise(torch.empty(4, 1, 64, 64, dtype=torch.float64), generators(4))
    samples = sample_ancestral(noise, start, schedule, generation_pairs(grid), generators(4, 10))
    assert abs(samples.mean() - 0.3) < 0.02
    assert abs(samples.std() - 0.4) < 0.02


def test_ancestral_step_equals_equation_two_for_adjacent_timesteps(images):
    schedule, t = NoiseSchedule(), 400
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    result = sample_ancestral(lambda x, _: noise, images, schedule, [(t, t - 1)], generators(2))
    alpha_bar, before = schedule.alpha_bar(t), schedule.alpha_bar(t - 1)
    beta = 1 - alpha_bar / before
    mean = (images - beta / (1 - alpha_bar).sqrt() * noise) / (1 - beta).sqrt()
    deviation = (beta * (1 - before) / (1 - alpha_bar)).sqrt()
    expected = mean + deviation * seeded_noise(images, generators(2))
    assert torch.allclose(result, expected, atol=1e-12)


def test_ancestral_noise_of_an_image_does_not_depend_on_its_batch(images):
    schedule, pairs = NoiseSchedule(), generation_pairs(timestep_grid(1000, 5))
    noise = gaussian_denoiser(schedule, 0.0, 1.0)
    together = sample_ancestral(noise, images, schedule, pairs, generators(2))
    alone = sample_ancestral(noise, images[1:], schedule, pairs, generators(1, 1))
    assert torch.equal(together[1:], alone)


def test_clamping_limits_the_implied_clean_image():
    schedule, pairs = NoiseSchedule(), [(999, -1)]
    x = torch.full((1, 1, 2, 2), 3.0)
    assert generate(lambda x, t: torch.zeros_like(x), x, schedule, pairs, clamp=True).max() == 1
    assert generate(lambda x, t: torch.zeros_like(x), x, schedule, pairs).max() > 100


def test_agrees_with_monai_scheduler_on_the_uniform_grid(images):
    from monai.networks.schedulers import DDIMScheduler

    scheduler = DDIMScheduler(num_train_timesteps=1000, schedule="linear_beta", clip_sample=False)
    scheduler.set_timesteps(50)
    schedule = NoiseSchedule("linear", 1000, 1e-4, 2e-2)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(4)).double()
    # MONAI's step strides by T // steps whatever its timesteps are; where the two agree, so must the result.
    theirs, _ = scheduler.step(noise, 400, images)
    ours = generate(lambda x, t: noise, images, schedule, [(400, 380)])
    assert torch.allclose(theirs.double(), ours, atol=1e-5)


def test_the_network_is_asked_for_the_steps_own_timestep(images):
    asked = []

    def noise(x, timesteps):
        asked.append(timesteps.tolist())
        return torch.zeros_like(x)

    invert(noise, images, NoiseSchedule(), inversion_pairs(timestep_grid(1000, 50), 3))
    assert asked == [[0, 0], [19, 19], [39, 39]]


@pytest.mark.parametrize(("steps", "t0"), [(10, 0), (10, 11), (10, -1)])
def test_start_outside_the_grid_is_refused(steps, t0):
    with pytest.raises(InputError, match="t0"):
        inversion_pairs(timestep_grid(1000, steps), t0)


@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_number_of_steps_is_refused(steps):
    with pytest.raises(InputError, match="steps"):
        timestep_grid(1000, steps)


def test_grid_of_all_timesteps_visits_each_once():
    assert timestep_grid(1000, 1000) == list(range(-1, 1000))


@pytest.mark.parametrize("steps", [1, 2, 5, 50, 300, 999, 1000])
def test_quadratic_grid_rises_strictly_to_the_last_timestep(steps):
    grid = timestep_grid(1000, steps, "quadratic")
    assert (grid[0], grid[-1], len(grid)) == (-1, 999, steps + 1)
    assert all(a < b for a, b in zip(grid, grid[1:], strict=False))
