"""Mined and generated pairs in shards; shared out between processes: tests/distributed/test_shards.py."""

import pytest
import torch
from torch import nn

from monai_vessel_uda.data.patches import PatchDataset, RandSymmetryd
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.methods.latent_mining import LatentMining
from monai_vessel_uda.methods.pairs import measure_mined, mine_pairs, regenerate_pairs

from .conftest import ANY, SCHEDULE, GaussianGenerator


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


def test_unknown_start(tmp_path):
    with pytest.raises(InputError, match="start"):
        regenerate_pairs(
            LatentMining(SCHEDULE), nn.Identity(), tmp_path, ANY, start="x", output_dir=tmp_path, round_number=1
        )
