"""Mined and generated pairs in shards; shared out between processes: tests/distributed/test_shards.py."""

import pytest
import torch
from torch import nn

from monai_vessel_uda.data.patches import PatchDataset, RandSymmetryd, ShardedPairs
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.methods import latent_mining
from monai_vessel_uda.methods import pairs as pairs_module
from monai_vessel_uda.methods.latent_mining import IntensityRange, LatentMining
from monai_vessel_uda.methods.pairs import check_mined, measure_mined, mine_pairs, regenerate_pairs, write_shards

from .generators import ANY, SCHEDULE, GaussianGenerator

MINING = LatentMining(SCHEDULE, steps=10, t0=3, generation_steps=3)


@pytest.fixture
def mined(source, tmp_path):
    """Shards of 2, 2 and 1 pairs."""
    return mine(MINING, source, tmp_path / "mined" / "pairs", pairs=5)


def mine(mining, source, folder, pairs):
    """Shards of two pairs from one Gaussian to another."""
    generators = GaussianGenerator(0.5), GaussianGenerator(0.0)
    return mine_pairs(mining, *generators, source, ANY, output_dir=folder, pairs=pairs, batch_size=2)


@pytest.fixture
def regenerate(mined, tmp_path):
    """Round 1 from those shards, into a folder beside them."""

    def regenerated(mining=MINING, start="both", **options):
        folder = tmp_path / "round" / "pairs"
        options = {"round_number": 1, **options}
        return regenerate_pairs(mining, GaussianGenerator(0.0), mined, ANY, start=start, output_dir=folder, **options)

    return regenerated


def test_the_source_generator_sees_the_mask_and_the_first_generation_does_not(source, tmp_path):
    eps_a, eps_b = GaussianGenerator(0.5), GaussianGenerator(0.0)
    mining = LatentMining(SCHEDULE, steps=10, t0=3)
    mine_pairs(mining, eps_a, eps_b, source, ANY, output_dir=tmp_path / "pairs", pairs=4, batch_size=2)
    assert all(mask is not None and mask.any() for mask in eps_a.masks)
    assert all(mask is None for mask in eps_b.masks)


def test_finished_shards_are_kept_and_missing_ones_come_out_the_same(source, tmp_path):
    mining = LatentMining(SCHEDULE, steps=10, t0=3, decoder="ancestral", decoding_steps=20)

    shards = sorted(mine(mining, source, tmp_path / "pairs", pairs=5).glob("*.pt"))
    assert [len(torch.load(shard)["image"]) for shard in shards] == [2, 2, 1]
    before = [shard.read_bytes() for shard in shards]
    shards[1].unlink()
    kept = shards[0].stat().st_mtime_ns
    mine(mining, source, tmp_path / "pairs", pairs=5)
    assert [shard.read_bytes() for shard in shards] == before
    assert shards[0].stat().st_mtime_ns == kept


@pytest.mark.parametrize("start", ["noise", "latents", "both"])
def test_rounds_generate_under_the_mined_masks(source, tmp_path, start):
    mining = LatentMining(SCHEDULE, steps=10, t0=3, generation_steps=20)
    mined = mine(mining, source, tmp_path / "0" / "pairs", pairs=4)
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


def test_latents_are_decoded_from_the_timestep_that_they_were_mined_at(mined):
    check_mined(mined, MINING, "latents")
    other = LatentMining(SCHEDULE, steps=10, t0=5, generation_steps=3)
    check_mined(mined, other, "noise")
    for start in ("latents", "both"):
        with pytest.raises(InputError, match="mined at timestep 299, and the rounds would decode them from 499"):
            check_mined(mined, other, start)


def test_images_from_noise_begin_at_the_brightness_of_a_real_patch(mined, tmp_path):
    """Each of another patch; the exact denoiser of a wide distribution keeps it."""
    intensity = IntensityRange((-9.0, 9.0), (0.0, 9.0), means=(-0.8, 0.8))
    mining = LatentMining(SCHEDULE, generation_steps=3, generation_timesteps=300)
    generator = GaussianGenerator(0.0, deviation=1.0)
    folder = regenerate_pairs(
        mining, generator, mined, intensity, start="noise", output_dir=tmp_path / "pairs", round_number=1
    )
    drawn = [pair["image"].mean() for pair in ShardedPairs(str(folder))]
    wanted = intensity.brightness(range(5, 10))  # round 1 of five masks
    assert len(set(wanted.tolist())) == 2
    assert torch.equal(torch.stack(drawn).sign(), wanted.sign())


def test_images_of_a_round_are_brought_into_the_range(mined, tmp_path):
    folder = regenerate_pairs(
        MINING,
        GaussianGenerator(0.0),
        mined,
        IntensityRange((0.5, 0.6), (0.0, 9.0)),
        start="latents",
        output_dir=tmp_path / "pairs",
        round_number=1,
    )
    for pair in ShardedPairs(str(folder)):
        assert 0.4 < pair["image"].mean() < 0.6


def test_unknown_start(tmp_path):
    with pytest.raises(InputError, match="start"):
        regenerate_pairs(
            LatentMining(SCHEDULE), nn.Identity(), tmp_path, ANY, start="x", output_dir=tmp_path, round_number=1
        )


@pytest.mark.parametrize(("start", "pairs"), [("noise", 0), ("noise", -1), ("both", 6), ("latents", 6)])
def test_as_many_pairs_as_latents_at_most(regenerate, start, pairs):
    most = "or more" if start == "noise" else "to 5, the number of mined latents"
    with pytest.raises(InputError, match=f"round_pairs: expected 1 {most}, got {pairs}"):
        regenerate(start=start, pairs=pairs)


def test_from_noise_the_masks_come_again_with_other_noise(mined, regenerate):
    shards = [torch.load(shard) for shard in sorted(regenerate(start="noise", pairs=12).glob("*.pt"))]
    image, label = (torch.cat([shard[key] for shard in shards]) for key in ("image", "label"))
    masks = torch.cat([torch.load(shard)["label"] for shard in sorted(mined.glob("*.pt"))])
    assert torch.equal(label, torch.cat([masks, masks, masks[:2]]))
    assert len({tuple(image.flatten().tolist()) for image in image}) == 12


@pytest.mark.parametrize(("pairs", "batch_size"), [(0, 2), (2, 0)])
def test_no_pairs_are_refused(source, tmp_path, pairs, batch_size):
    networks = GaussianGenerator(0.5), GaussianGenerator(0.0)
    with pytest.raises(InputError, match=f"mining: expected at least 1 .* got {pairs} and {batch_size}$"):
        mine_pairs(MINING, *networks, source, ANY, output_dir=tmp_path, pairs=pairs, batch_size=batch_size)


@pytest.mark.parametrize(("options", "images"), [({"start": "both"}, 10), ({"start": "noise", "pairs": 12}, 12)])
def test_no_two_images_get_the_same_noise(regenerate, monkeypatch, options, images):
    """Neither in one round, from the latent and from noise of one mask, nor in two rounds."""
    seeds = []

    def record(eps, x_t, schedule, pairs, generators, clamp):
        seeds.extend(generator.initial_seed() for generator in generators)
        return x_t

    monkeypatch.setattr(latent_mining, "sample_ancestral", record)
    ancestral = LatentMining(SCHEDULE, steps=10, t0=3, generation_steps=3, decoder="ancestral")
    for k in (1, 2):
        folder = regenerate(ancestral, round_number=k, **options)
        for shard in folder.glob("*.pt"):
            shard.unlink()
    assert len(set(seeds)) == len(seeds) == 2 * images


class TestDamagedFolders:
    """What the rounds and the measures say of mined pairs that are not as the mining left them."""

    @pytest.fixture(params=["rounds", "measures"])
    def use(self, request, mined, regenerate, source, tmp_path):
        return {"rounds": regenerate, "measures": lambda: measure_mined(mined, source, 4, tmp_path / "m.json")}[
            request.param
        ]

    def test_none(self, mined, use):
        for shard in mined.glob("*.pt"):
            shard.unlink()
        with pytest.raises(InputError, match=r"pairs: expected shards of mined pairs \(\*.pt\), found none"):
            use()

    def test_truncated(self, mined, use):
        shard = mined / "00001.pt"
        shard.write_bytes(shard.read_bytes()[:2000])
        with pytest.raises(InputError, match=r"00001.pt: expected a file of tensors"):
            use()

    def test_a_gap(self, mined, use):
        (mined / "00001.pt").unlink()
        with pytest.raises(InputError, match=r"00001.pt: missing"):
            use()

    def test_a_round_instead_of_mined_pairs(self, mined, use):
        content = torch.load(mined / "00001.pt")
        torch.save({key: content[key] for key in ("image", "label", "corrected")}, mined / "00001.pt")
        with pytest.raises(InputError, match=r"00001.pt: expected a shard of mined pairs, with .*latent"):
            use()

    def test_another_size(self, mined, use):
        torch.save(torch.load(mined / "00002.pt"), mined / "00001.pt")
        with pytest.raises(InputError, match=r"00001.pt: expected 2 pairs as in the first shard, got 1"):
            use()


def test_measuring_reads_only_what_it_compares(mined, source, tmp_path, monkeypatch):
    taken = set()

    class Shard(dict):
        """Notes which tensors are taken out of which file."""

        def __init__(self, path):
            super().__init__(torch.load(path))
            self.name = path.name

        def __getitem__(self, key):
            taken.add((self.name, key))
            return super().__getitem__(key)

    def load_mapped(path, *, mmap):
        assert mmap, "a tensor that is not taken must not be read either"
        return Shard(path)

    monkeypatch.setattr(pairs_module, "load_tensors", load_mapped)
    measure_mined(mined, source, 4, tmp_path / "m.json")
    images = {(name, key) for name, key in taken if key in ("source", "image", "latent")}
    assert images == {(name, key) for name in ("00000.pt", "00001.pt") for key in ("source", "image")}


def test_the_share_of_corrected_patches_is_that_of_all(mined, source, tmp_path):
    last = torch.load(mined / "00002.pt")
    torch.save({**last, "corrected": torch.tensor([True])}, mined / "00002.pt")
    assert measure_mined(mined, source, 2, tmp_path / "m.json")["corrected"] == pytest.approx(1 / 5)


def test_a_preview_that_is_missing_is_written_from_its_shard(mined, regenerate):
    folder = regenerate()
    previews = [mined.parent / "preview.png", *(folder.parent / name for name in ("preview.png", "preview_noise.png"))]
    before = [preview.read_bytes() for preview in previews]
    kept = [preview.stat().st_mtime_ns for preview in previews]

    def no_shard(numbers):
        raise AssertionError("nothing is computed again")

    write_shards(no_shard, mined, 5, 2, "mining")
    assert previews[0].stat().st_mtime_ns == kept[0], "one that is there is left alone"
    for preview in previews:
        preview.unlink()
    write_shards(no_shard, mined, 5, 2, "mining")
    regenerate()
    assert [preview.read_bytes() for preview in previews] == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_generator_is_one_error_and_leaves_no_shard(source, tmp_path, value):
    message = "got NaN or infinity in 2 of 2; the generator has diverged, train it again with a lower learning_rate"
    networks = GaussianGenerator(0.5), GaussianGenerator(value)
    with pytest.raises(InputError, match=message):
        mine_pairs(MINING, *networks, source, ANY, output_dir=tmp_path / "pairs", pairs=4, batch_size=2)
    assert not list(tmp_path.rglob("*.pt"))
