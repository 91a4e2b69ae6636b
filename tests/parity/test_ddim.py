"""monai-generative's ``DDIMScheduler`` and our samplers over explicit timestep pairs.

Its timesteps are 0, r, 2 r, … with r = T // steps, all shifted by ``steps_offset``, and a step goes from t to t - r (or
t + r): our ``leading`` grid, and with ``steps_offset = r - 1`` our ``trailing`` grid, uniform down to the clean image.
"""

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

from .library import monai_generative

BETAS = [(1e-4, 2e-2), (5e-4, 1.95e-2)]
STEPS = [10, 50, 125]
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
"""Relative to the largest value. Its noise levels are float32, ours float64; with these in it, no rounding is left."""


def scheduler(betas=BETAS[0], steps=50, spacing="leading", levels="float32", **options):
    offset = 0 if spacing == "leading" else 1000 // steps - 1
    theirs = monai_generative().DDIMScheduler(
        1000, "linear_beta", beta_start=betas[0], beta_end=betas[1], steps_offset=offset, **options
    )
    theirs.set_timesteps(steps)
    if levels == "float64":
        theirs.alphas_cumprod = torch.cumprod(1 - torch.linspace(*betas, 1000, dtype=torch.float64), 0)
    return theirs


def noise_prediction(x, timesteps):
    """Some function of image and timestep that is no constant, and does not amplify rounding as a steeper one would."""
    return torch.tanh(x) * (0.5 + timesteps.view(-1, 1, 1, 1) / 2000)


def images(batch=3):
    return torch.randn(batch, 1, 8, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def difference(a, b):
    return float((a - b).abs().max() / b.abs().max())


def walk(step, timesteps, x):
    for t in timesteps:
        x = step(noise_prediction(x, torch.full((len(x),), int(t))), int(t), x)[0]
    return x


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("timesteps", [200, 1000])
def test_linear_schedule(betas, timesteps):
    theirs = monai_generative().DDIMScheduler(timesteps, "linear_beta", beta_start=betas[0], beta_end=betas[1])
    ours = NoiseSchedule("linear", timesteps, *betas)
    torch.testing.assert_close(
        ours.alpha_bar(torch.arange(timesteps)).float(), theirs.alphas_cumprod, rtol=1e-5, atol=0
    )


def test_cosine_schedule_lags_ours_by_one_timestep():
    """Its first timestep has no noise at all, ours the noise of the first step: hence no import of such networks."""
    theirs = monai_generative().DDIMScheduler(1000, "cosine").alphas_cumprod
    ours = NoiseSchedule("cosine", 1000).alpha_bar(torch.arange(-1, 999)).float()
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-7)
    assert theirs[0] == 1


def each_grid(test):
    for name, values in {
        "betas": BETAS,
        "steps": STEPS,
        "spacing": ["leading", "trailing"],
        "clamp": [False, True],
        "levels": list(TOLERANCE),
    }.items():
        test = pytest.mark.parametrize(name, values)(test)
    return test


@each_grid
def test_generation(betas, steps, spacing, clamp, levels):
    theirs = scheduler(betas, steps, spacing, levels, clip_sample=clamp)
    grid = timestep_grid(1000, steps, spacing)
    assert theirs.timesteps.tolist() == grid[:0:-1]
    expected = walk(theirs.step, theirs.timesteps, images())
    ours = generate(noise_prediction, images(), NoiseSchedule("linear", 1000, *betas), generation_pairs(grid), clamp)
    assert difference(ours, expected) < TOLERANCE[levels]
    assert difference(ours, images()) > 0.1


@each_grid
def test_inversion(betas, steps, spacing, clamp, levels):
    """From the lowest timestep on: its ``reversed_step`` knows no step from the clean image, ours begins with that."""
    theirs = scheduler(betas, steps, spacing, levels, clip_sample=clamp)
    grid = timestep_grid(1000, steps, spacing)[1:]
    expected = walk(theirs.reversed_step, grid[:-1], images())
    ours = invert(noise_prediction, images(), NoiseSchedule("linear", 1000, *betas), inversion_pairs(grid), clamp)
    assert difference(ours, expected) < TOLERANCE[levels]
    assert difference(ours, images()) > 0.1


@pytest.mark.parametrize("steps", STEPS)
def test_ancestral_sampling(steps):
    """DDIM with eta = 1 is eq. 2; one image, so that both draw the same noise."""
    theirs, draws = scheduler(steps=steps, clip_sample=False), torch.Generator().manual_seed(4)
    expected = walk(
        lambda noise, t, x: theirs.step(noise, t, x, eta=1.0, generator=draws), theirs.timesteps, images(batch=1)
    )
    pairs = generation_pairs(timestep_grid(1000, steps, "leading"))
    generators = [torch.Generator().manual_seed(4)]
    ours = sample_ancestral(noise_prediction, images(batch=1), NoiseSchedule(), pairs, generators)
    assert difference(ours, expected) < TOLERANCE["float32"]


def test_another_prediction_type_is_another_sampler():
    """What an imported network predicts cannot be seen in its weights; only with the noise do both agree."""
    theirs = scheduler(clip_sample=False, prediction_type="v_prediction")
    expected = walk(theirs.step, theirs.timesteps, images())
    ours = generate(noise_prediction, images(), NoiseSchedule(), generation_pairs(timestep_grid(1000, 50, "leading")))
    assert difference(ours, expected) > 0.1
