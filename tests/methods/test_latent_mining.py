import pytest
import torch
from torch import nn

from monai_vessel_uda.data.patches import PatchDataset, RandSymmetryd
from monai_vessel_uda.diffusion import NoiseSchedule
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.methods.latent_mining import (
    IntensityRange,
    LatentMining,
    measure_mined,
    mine_pairs,
    pseudo_masks,
    regenerate_pairs,
    save_samples,
    with_masks,
)

SCHEDULE = NoiseSchedule()


class GaussianGenerator(nn.Module):
    """Exact denoiser of images whose pixels are normal with mean ``mean + shift * mask``."""

    def __init__(self, mean, deviation=0.2, shift=0.0):
        super().__init__()
        self.mean, self.deviation, self.shift = mean, deviation, shift
        self.masks = []

    def forward(self, x_t, timesteps, mask=None):
        self.masks.append(mask)
        mean = self.mean + (0 if mask is None else self.shift * mask)
        alpha_bar = SCHEDULE.alpha_bar(timesteps).view(-1, 1, 1, 1).to(x_t)
        return (
            (1 - alpha_bar).sqrt() * (x_t - alpha_bar.sqrt() * mean) / (alpha_bar * self.deviation**2 + 1 - alpha_bar)
        )


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(4, 1, 16, 16, generator=generator) > 0.8).float()
    return 0.5 + 0.2 * torch.randn(4, 1, 16, 16, generator=generator) + 0.4 * mask, mask


@pytest.fixture
def source(batch):
    images = [{"image": x, "label": y} for x, y in zip(*batch, strict=True)]
    return PatchDataset(images, RandSymmetryd(["image", "label"]), 0)


ANY = IntensityRange((-9.0, 9.0), (0.0, 9.0))


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


def test_the_source_generator_sees_the_mask_and_the_first_generation_does_not(source, tmp_path):
    eps_a, eps_b = GaussianGenerator(0.5), GaussianGenerator(0.0)
    mining = LatentMining(SCHEDULE, steps=10, t0=3)
    mine_pairs(mining, eps_a, eps_b, source, ANY, output_dir=tmp_path / "pairs", pairs=4, batch_size=2)
    assert all(mask is not None and mask.any() for mask in eps_a.masks)
    assert all(mask is None for mask in eps_b.masks)


def test_finished_shards_are_kept_and_missing_ones_come_out_the_same(source, tmp_path):
    mining = LatentMining(SCHEDULE, steps=10, t0=3, decoder="ancestral", decoding_steps=20)

    def mine():
        return mine_pairs(
            mining,
            GaussianGenerator(0.5),
            GaussianGenerator(0.0),
            source,
            ANY,
            output_dir=tmp_path / "pairs",
            pairs=5,
            batch_size=2,
        )

    shards = sorted(mine().glob("*.pt"))
    assert [len(torch.load(shard)["image"]) for shard in shards] == [2, 2, 1]
    before = [shard.read_bytes() for shard in shards]
    shards[1].unlink()
    kept = shards[0].stat().st_mtime_ns
    mine()
    assert [shard.read_bytes() for shard in shards] == before
    assert shards[0].stat().st_mtime_ns == kept


@pytest.mark.parametrize("start", ["noise", "latents", "both"])
def test_rounds_generate_under_the_mined_masks(source, tmp_path, start):
    mining = LatentMining(SCHEDULE, steps=10, t0=3, generation_steps=20)
    mined = mine_pairs(
        mining,
        GaussianGenerator(0.5),
        GaussianGenerator(0.0),
        source,
        ANY,
        output_dir=tmp_path / "0" / "pairs",
        pairs=4,
        batch_size=2,
    )
    conditional = GaussianGenerator(-0.5, 0.1, shift=0.8)
    result = regenerate_pairs(
        mining, conditional, mined, ANY, start=start, output_dir=tmp_path / "1" / "pairs", round_number=1, pairs=3
    )
    shards = [torch.load(shard) for shard in sorted(result.glob("*.pt"))]
    image, label = (torch.cat([shard[key] for shard in shards]) for key in ("image", "label"))
    before = torch.cat([torch.load(shard)["label"] for shard in sorted(mined.glob("*.pt"))])
    assert torch.equal(label, torch.cat([before[:3]] * (2 if start == "both" else 1)))
    if start == "both":
        from_latents, from_noise = image[:3], image[3:]
        assert not torch.allclose(from_latents, from_noise)
    assert image[label > 0].mean() > image[label == 0].mean() + 0.3


def test_rounds_draw_other_noise(source, tmp_path):
    mining = LatentMining(SCHEDULE, generation_steps=5)
    masks = torch.zeros(2, 1, 8, 8)
    first, second = (mining.from_noise(GaussianGenerator(0.0), masks, numbers) for numbers in ([0, 1], [2, 3]))
    assert not torch.equal(first, second)
    assert torch.equal(first[1:], mining.from_noise(GaussianGenerator(0.0), masks[1:], [1]))


def test_intensity_correction_touches_only_what_left_the_range():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(200, 1, 8, 8, generator=generator) * 0.2
    limits = IntensityRange.of(real)
    patches = torch.cat([real[:1], real[1:2] + 0.8])
    corrected, flags = limits.correct(patches)
    assert flags.tolist() == [bool(flags[0]), True]
    assert abs(corrected[1].mean() - limits.mean[1]) < 1e-3
    inside = real[(real.flatten(1).mean(1) - 0).abs() < 0.01][:1]
    untouched, flags = limits.correct(inside)
    assert not flags.any()
    assert torch.allclose(untouched, inside.clamp(-1, 1), atol=1e-6)


def test_measures_show_that_mining_came_closer(source, tmp_path):
    mining = LatentMining(SCHEDULE, steps=50, t0=40)
    target = PatchDataset([{"image": -0.3 + 0.2 * torch.randn(1, 16, 16)} for _ in range(8)], RandSymmetryd("image"), 0)
    folder = mine_pairs(
        mining,
        GaussianGenerator(0.5),
        GaussianGenerator(-0.3),
        source,
        ANY,
        output_dir=tmp_path / "pairs",
        pairs=8,
        batch_size=4,
    )
    measures = measure_mined(folder, target, 8, tmp_path / "measures.json")
    assert measures["mined_intensity_euclidean"] < measures["source_intensity_euclidean"]
    assert measures["corrected"] == 0
    assert (tmp_path / "measures.json").exists()


def test_samples_picture(source, tmp_path):
    from monai_vessel_uda.data.images import read_image

    path = save_samples(GaussianGenerator(0.0), SCHEDULE, source, tmp_path / "s.png", count=3, steps=3, seed=0)
    assert read_image(path).array.shape == (3 * 16 + 4 * 2, 3 * 16 + 4 * 2)


def test_pseudo_masks():
    probabilities = [torch.tensor([[[0.2, 0.5, 0.6]]])]
    assert pseudo_masks(probabilities)[0].tolist() == [[[0, 1, 1]]]
    assert torch.equal(pseudo_masks(probabilities, None)[0], probabilities[0])


def test_given_masks_replace_whatever_label_there_was():
    items = with_masks([{"image": 1, "label": torch.full((1,), float("nan"))}], [torch.zeros(1)])
    assert items[0]["label"] == 0


@pytest.mark.parametrize("arguments", [{"t0": 50}, {"t0": 0}, {"decoder": "magic"}])
def test_bad_arguments(arguments):
    with pytest.raises(InputError):
        LatentMining(SCHEDULE, **arguments)


def test_unknown_start(tmp_path):
    with pytest.raises(InputError, match="start"):
        regenerate_pairs(
            LatentMining(SCHEDULE), nn.Identity(), tmp_path, ANY, start="x", output_dir=tmp_path, round_number=1
        )
