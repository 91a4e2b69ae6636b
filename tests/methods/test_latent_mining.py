"""From source images to target images and masks that stay, for one batch."""

import pytest
import torch

from monai_vessel_uda.errors import InputError
from monai_vessel_uda.methods.latent_mining import IntensityRange, LatentMining

from .generators import SCHEDULE, GaussianGenerator


def test_mining_moves_images_to_the_target_and_keeps_what_the_mask_does_not_explain(batch):
    x, y = batch
    mining = LatentMining(SCHEDULE, steps=50, t0=25)
    latents = mining.latents(GaussianGenerator(0.5, shift=0.4), x, y)
    mined = mining.decode(GaussianGenerator(-0.3, shift=0.4), latents, y, range(4))
    assert abs((mined - y * 0.4).mean() - -0.3) < 0.35  # low frequencies survive in part (design, trap 9)
    assert mined.mean() < x.mean() - 0.3


def test_decoding_with_the_source_generator_gives_the_source_back(batch):
    x, y = batch
    mining, eps_a = LatentMining(SCHEDULE, steps=50, t0=25, refinements=10), GaussianGenerator(0.5, shift=0.4)
    assert (mining.decode(eps_a, mining.latents(eps_a, x, y), y, range(4)) - x).abs().max() < 1e-3


def test_rounds_draw_other_noise():
    mining = LatentMining(SCHEDULE, generation_steps=5)
    masks = torch.zeros(2, 1, 8, 8)
    first, second = (mining.from_noise(GaussianGenerator(0.0), masks, numbers) for numbers in ([0, 1], [2, 3]))
    assert not torch.equal(first, second)
    assert torch.equal(first[1:], mining.from_noise(GaussianGenerator(0.0), masks[1:], [1]))


def test_intensity_correction_touches_only_what_left_the_range():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(200, 1, 8, 8, generator=generator) * 0.2
    limits = IntensityRange.of(real)
    inside = real[real.flatten(1).mean(1).abs() < 0.01][:1]
    corrected, flags = limits.correct(torch.cat([inside, real[1:2] + 0.8]))
    assert flags.tolist() == [False, True]
    assert torch.allclose(corrected[:1], inside.clamp(-1, 1), atol=1e-6)
    assert abs(corrected[1].mean() - limits.mean[1]) < 1e-3


def test_patches_of_too_much_contrast_are_brought_back_to_the_range():
    real = 0.2 * torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    limits = IntensityRange.of(real)
    deviations = real.flatten(1).std(1)
    assert limits.deviation == tuple(deviations.quantile(torch.tensor([0.01, 0.99])).tolist())
    (corrected,), flags = limits.correct(3 * real[:1])
    assert flags.tolist() == [True]
    assert float(corrected.std()) == pytest.approx(limits.deviation[1], rel=1e-4)
    assert torch.allclose(corrected - corrected.mean(), (real[0] - real[0].mean()) * corrected.std() / real[0].std())


def test_an_error_at_the_noisiest_timesteps_does_not_leave_the_range_of_images():
    """Where alpha-bar is nearly zero eq. 5 would make a hundredfold of it."""

    def wrong(x_t, timesteps, mask):
        return x_t + 0.5

    drawn = LatentMining(SCHEDULE, generation_steps=5).from_noise(wrong, torch.zeros(2, 1, 8, 8), range(2))
    assert drawn.abs().max() <= 1


def test_pure_noise_depends_on_the_seed():
    masks = torch.zeros(1, 1, 8, 8)
    first, second = (
        LatentMining(SCHEDULE, generation_steps=3, seed=seed).from_noise(GaussianGenerator(0.0), masks, [0])
        for seed in (0, 1)
    )
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"t0": 50}, "t0: expected 1 to steps - 1 = 49, got 50"),
        ({"t0": 0}, "t0: expected 1 to steps - 1 = 49, got 0"),
        ({"decoder": "euler"}, "decoder: expected one of ddim, dpm-solver, ancestral, got 'euler'"),
        ({"decoding_spacing": "leading"}, "decoding_spacing: expected 'trailing' or 'quadratic', got 'leading'"),
        ({"generation_timesteps": 0}, "generation_timesteps: expected 1 to 1000, got 0"),
        ({"generation_timesteps": 1001}, "generation_timesteps: expected 1 to 1000, got 1001"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        LatentMining(SCHEDULE, **arguments)


def test_the_second_order_decoder_is_nearer_to_the_flow_than_ddim_with_three_times_its_steps(batch):
    x, y = batch
    eps_a, eps_b = GaussianGenerator(0.5, shift=0.4), GaussianGenerator(-0.3, shift=0.4)
    fine = LatentMining(SCHEDULE, steps=1000, t0=300)
    latents = fine.latents(eps_a, x, y)
    exact = fine.decode(eps_b, latents, y, range(4))
    ddim = LatentMining(SCHEDULE, steps=50, t0=15)
    second = LatentMining(SCHEDULE, decoder="dpm-solver", decoding_steps=5, decoding_spacing="quadratic")
    errors = [float((m.decode(eps_b, latents, y, range(4)) - exact).abs().mean()) for m in (ddim, second)]
    assert errors[1] < errors[0] / 3, errors


def test_eight_bit_latents_are_clipped_to_256_levels(batch):
    x, y = batch
    eps_a = GaussianGenerator(0.5, shift=0.4)
    floats = LatentMining(SCHEDULE).latents(eps_a, x, y)
    stored = LatentMining(SCHEDULE, eight_bit_latents=True).latents(eps_a, x, y)
    assert floats.abs().max() > 1
    levels = (stored + 1) * 127.5
    assert torch.allclose(levels, levels.round(), atol=1e-3)
    assert torch.allclose(stored, floats.clamp(-1, 1), atol=1 / 255 + 1e-6)


def test_images_from_below_the_noisiest_timesteps_keep_the_brightness_asked_for():
    masks, level = torch.zeros(4, 1, 16, 16), torch.tensor([-0.8, -0.4, 0.0, 0.4])
    # a generator that knows every brightness: the exact denoiser of a wide distribution
    eps = GaussianGenerator(0.0, deviation=1.0)
    drawn = LatentMining(SCHEDULE, generation_timesteps=400).from_noise(eps, masks, range(4), level.view(4, 1, 1, 1))
    noise = LatentMining(SCHEDULE, generation_timesteps=400).from_noise(eps, masks, range(4))
    raised = (drawn - noise).mean(dim=(1, 2, 3))
    assert torch.all(raised.diff() > 0.1)
    assert abs(float(raised[2])) < 1e-6


def test_brightness_of_a_number_is_a_real_patchs_and_always_the_same():
    patches = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    intensity = IntensityRange.of(patches)
    drawn = intensity.brightness(range(100))
    assert torch.equal(drawn, intensity.brightness(range(100)))
    assert set(drawn.tolist()) <= set(patches.mean(dim=(1, 2, 3)).tolist())
    assert len(set(drawn.tolist())) > 10
