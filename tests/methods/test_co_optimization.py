"""The rounds of sec. 2.3 over networks whose every training is known: a threshold as segmenter, an exact denoiser."""

import math
import shutil
from itertools import groupby
from types import SimpleNamespace

import pytest
import torch
from monai.transforms import Compose
from torch import nn

from monai_vessel_uda.data.patches import PatchDataset, RandPatchd, RandSymmetryd, ShardedPairs
from monai_vessel_uda.engines.weights import load_weights, save_weights
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.files import load_json, load_tensors
from monai_vessel_uda.methods.co_optimization import CoOptimization
from monai_vessel_uda.methods.latent_mining import LatentMining
from monai_vessel_uda.methods.pairs import mine_pairs

from .conftest import ANY, SCHEDULE, GaussianGenerator

RIGHT, NOISY, EMPTY = 0.0, -0.55, 5.0
"""Levels of a segmenter: between vessels and background of the target, within its background, above everything."""
UNTRAINED = 3.0
FINE_TUNED = 0.0625
"""What a fine-tuning adds to the generator's mean."""
AVERAGED = 0.5
"""Share of it that the moving average takes over."""
REFINEMENTS = (0.125, 0.25)
"""What the trainings of the rounds that most tests look at add to the segmenter's level."""
POISON = -7.0
"""What the target items have as labels; no step may see it."""
CONCLUSION = {"rounds.json", "weights.json", "weights.pt"}
"""Files beside the rounds' folders, which compare all rounds."""
MINING = LatentMining(SCHEDULE, steps=6, t0=2, generation_steps=3)


class Threshold(nn.Module):
    """Segmenter with the vessel probability sigmoid(2 · gain · (x − level))."""

    def __init__(self, level, gain=20.0):
        super().__init__()
        self.level, self.gain = nn.Parameter(torch.tensor(float(level))), gain

    def forward(self, x):
        logit = self.gain * (x - self.level)
        return torch.cat([-logit, logit], dim=1)


class Rounds:
    """A :class:`CoOptimization` in a folder, and a log of what its steps were given.

    Args:
        folder: of everything.
        candidates: levels of the segmenters to start from, by name.
        refinements: what each training adds to the level of the segmenter that it is given, in the order of rounds.
        gain: steepness of the segmenters.
        options: of :class:`CoOptimization`.
    """

    def __init__(self, folder, candidates=None, refinements=(0.0, 0.0), gain=20.0, **options):
        self.folder, self.log, self.told = folder, [], []
        self.refinements = refinements
        self.target, self.source = bars(3, 24, seed=0), bars(6, 16, seed=1)
        paths = {}
        for name, level in (candidates or {"right": RIGHT}).items():
            paths[name] = save_weights(Threshold(level), folder / "candidates" / f"{name}.pt")
        self.mined = mine_pairs(
            MINING,
            GaussianGenerator(-0.4),
            GaussianGenerator(-0.4),
            PatchDataset(self.source, RandSymmetryd(["image", "label"]), 0),
            ANY,
            output_dir=folder / "mined" / "pairs",
            pairs=5,
            batch_size=2,
        )
        generator = GaussianGenerator(nn.Parameter(torch.tensor(-0.5)), shift=0.8)
        generator.register_forward_hook(lambda network, inputs, output: self._note("generate", network.mean))
        flips = RandSymmetryd(["image", "label"], allow_missing_keys=True)
        self.rounds = CoOptimization(
            segmenter=Threshold(UNTRAINED, gain),
            generator=generator,
            candidates=paths,
            generator_weights=save_weights(generator, folder / "generator.pt"),
            mined=self.mined,
            target=[
                {"image": x["image"], "fov": x["fov"], "label": torch.full_like(x["label"], POISON)}
                for x in self.target
            ],
            inferer=self._infer,
            mining=MINING,
            patch_transform=Compose([RandPatchd(["image", "label"], (16, 16), allow_missing_keys=True), flips]),
            pair_transform=flips,
            train_generator=self._train_generator,
            train_segmenter=self._train_segmenter,
            save_weights=save_weights,
            load_weights=load_weights,
            output_dir=folder / "rounds",
            description={"preprocessing": "none"},
            measured_patches=4,
            on_round=lambda k, measures, folder: self.told.append(k),
            **{"rounds": 2, **options},
        )

    def run(self):
        """Run all rounds; returns their summary."""
        return self.rounds.run()

    def of(self, step):
        """What the log has of one step, in its order."""
        return [details for name, details in self.log if name == step]

    def _note(self, step, parameter, **details):
        self.log.append((step, {"from": float(parameter.detach()), **details}))

    def _infer(self, inputs, network):
        self._note("segment", network.level)
        return network(inputs)

    def _train_generator(self, *, network, dataset, ema, output_dir, label):
        def run():
            self._note("fine-tune", network.mean, average=ema.ema_model.mean.item(), patches=take(dataset), label=label)
            with torch.no_grad():
                network.mean += FINE_TUNED
                ema.ema_model.mean += AVERAGED * FINE_TUNED
            save_weights(network, output_dir / "checkpoint.pt")

        return SimpleNamespace(run=run)

    def _train_segmenter(self, *, network, dataset, output_dir, label):
        def run():
            k = int(output_dir.parent.name[-2:])
            self._note("refine", network.level, patches=take(dataset), label=label)
            with torch.no_grad():
                network.level += self.refinements[k - 1]
            save_weights(network, output_dir / "checkpoint.pt")

        return SimpleNamespace(run=run)


def take(dataset):
    return [dataset[i] for i in range(8)]


def bars(count, size, seed):
    """Bright crosses over noise, with masks."""
    generator = torch.Generator().manual_seed(seed)
    items = []
    for _ in range(count):
        mask = torch.zeros(1, size, size)
        place, across = (int(v) for v in torch.randint(2, size - 4, (2,), generator=generator))
        mask[:, place : place + 3] = 1
        mask[:, :, across : across + 3] = 1
        image = (-0.6 + 1.2 * mask + 0.1 * torch.randn(1, size, size, generator=generator)).clamp(-1, 1)
        items.append({"image": image, "label": mask, "fov": torch.ones_like(image)})
    return items


def level_of(path):
    return float(load_tensors(path)["level"])


def mean_of(path):
    return float(load_tensors(path)["mean"])


def modified(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two rounds from the segmenter that is right, each making it a little worse; do not change the folder."""
    rounds = Rounds(tmp_path_factory.mktemp("finished"), refinements=REFINEMENTS)
    rounds.run()
    return rounds


def continued(finished, folder, *removed):
    """The same rounds over a copy of their folder in which something is missing."""
    shutil.copytree(finished.folder / "rounds", folder / "rounds")
    for name in removed:
        path = folder / "rounds" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return Rounds(folder, refinements=REFINEMENTS)


def test_steps_of_every_round_in_their_order(finished):
    steps = [step for step, _ in groupby(step for step, _ in finished.log)]
    # the generated images are judged by the segmenter of the round before, and the refined one is measured
    one_round = ["segment", "fine-tune", "generate", "segment", "refine"]
    assert steps == [*one_round, *one_round, "segment"]
    labels = [details["label"] for _, details in finished.log if "label" in details]
    assert [label.split(":")[0] for label in labels] == ["round 1", "round 1", "round 2", "round 2"]
    assert finished.told == [1, 2]


def test_a_round_starts_from_the_networks_of_the_round_before(finished):
    means = [-0.5 + k * AVERAGED * FINE_TUNED for k in range(3)]
    fine_tunings = finished.of("fine-tune")
    assert [details["from"] for details in fine_tunings] == means[:2], "the average, not the network that was trained"
    assert [details["average"] for details in fine_tunings] == means[:2]
    assert [mean for mean, _ in groupby(details["from"] for details in finished.of("generate"))] == means[1:]
    levels = [RIGHT, RIGHT + REFINEMENTS[0], RIGHT + sum(REFINEMENTS)]
    assert [details["from"] for details in finished.of("refine")] == levels[:2]
    assert [level for level, _ in groupby(details["from"] for details in finished.of("segment"))] == levels
    folders = [finished.folder / "rounds" / f"round_{k:02d}" for k in range(3)]
    assert [level_of(folder / "segmenter" / "weights.pt") for folder in folders] == levels
    assert [mean_of(folder / "generator" / "weights.pt") for folder in folders[1:]] == means[1:]
    assert not list((finished.folder / "rounds").rglob("checkpoint.pt")), "a finished training needs none"


def test_the_segmenter_trained_from_scratch_in_each_round(tmp_path):
    rounds = Rounds(tmp_path, refinements=(RIGHT - UNTRAINED, RIGHT - UNTRAINED), reinitialise=True)
    rounds.run()
    assert [details["from"] for details in rounds.of("refine")] == [UNTRAINED, UNTRAINED]


def test_the_generator_learns_pseudo_masks_and_never_a_label_of_the_target(tmp_path):
    """The pseudo-masks of round k are what the segmenter of round k - 1 marks, here pixels from its level on."""
    rounds = Rounds(tmp_path, refinements=(0.25, 0.0), threshold=0.5)
    rounds.run()
    for details, level in zip(rounds.of("fine-tune"), (0.0, 0.25), strict=True):
        for patch in details["patches"]:
            assert torch.equal(patch["label"], (patch["image"] >= level).float())
        assert any(0 < patch["label"].mean() < 1 for patch in details["patches"])


def test_the_segmenter_learns_generated_images_of_source_masks(finished):
    known = {tuple(item["label"].flatten().tolist()) for item in finished.source}
    for details in finished.of("refine"):
        for patch in details["patches"]:
            turned = [torch.rot90(patch["label"], turns, (1, 2)) for turns in range(4)]
            views = {tuple(view.flatten().tolist()) for mask in turned for view in (mask, mask.flip(1))}
            assert views & known
            image, vessel = patch["image"], patch["label"] > 0
            assert image[vessel].mean() > image[~vessel].mean() + 0.3, "it shows its mask"
            assert not any(torch.equal(image, item["image"]) for item in finished.source)


class TestThreshold:
    """Of the pseudo-masks, for a segmenter that calls most of the background rather vessel than not."""

    GAIN, LEVEL = 2.0, -0.9

    def labels(self, folder, threshold):
        """Patches of the one fine-tuning with the probabilities in them."""
        rounds = Rounds(folder, {"loose": self.LEVEL}, (0.0,), self.GAIN, threshold=threshold, rounds=1)
        rounds.run()
        patches = rounds.of("fine-tune")[0]["patches"]
        probabilities = [torch.sigmoid(2 * self.GAIN * (patch["image"] - self.LEVEL)) for patch in patches]
        saved = load_tensors(folder / "rounds" / "round_01" / "pseudo_masks.pt")
        return torch.stack([patch["label"] for patch in patches]), torch.stack(probabilities), saved

    @pytest.mark.parametrize("threshold", [0.5, 0.8])
    def test_a_number(self, tmp_path, threshold):
        labels, probabilities, saved = self.labels(tmp_path, threshold)
        assert torch.equal(labels, (probabilities >= threshold).float())
        assert saved[0].dtype == torch.uint8

    def test_auto_is_the_segmenters_own(self, tmp_path):
        labels, probabilities, _ = self.labels(tmp_path, "auto")
        own = load_json(tmp_path / "rounds" / "round_00" / "segmenter" / "weights.json")["threshold"]
        assert own > 0.8, "at 0.5 nearly everything would be vessel"
        assert (probabilities >= 0.5).float().mean() > 0.9
        assert torch.equal(labels, (probabilities >= own).float())

    def test_none_keeps_the_probabilities(self, tmp_path):
        labels, probabilities, saved = self.labels(tmp_path, None)
        torch.testing.assert_close(labels, probabilities, atol=1e-6, rtol=0)
        assert saved[0].is_floating_point()
        assert ((labels > 0.1) & (labels < 0.9)).any()


def test_pseudo_masks_by_the_last_segmenters_together(tmp_path):
    """The mean of their probabilities, from the mean of their thresholds on."""
    rounds = Rounds(tmp_path, refinements=(0.5, 0.0), gain=2.0, ensemble=2)
    rounds.run()
    folders = [tmp_path / "rounds" / f"round_{k:02d}" / "segmenter" for k in range(2)]
    levels = [level_of(folder / "weights.pt") for folder in folders]
    own = [load_json(folder / "weights.json")["threshold"] for folder in folders]
    assert own[0] != own[1], "thresholds that cannot show it"
    for details, last in zip(rounds.of("fine-tune"), ([0], [0, 1]), strict=True):
        for patch in details["patches"]:
            together = sum(torch.sigmoid(4 * (patch["image"] - levels[j])) for j in last) / len(last)
            assert torch.equal(patch["label"], (together >= sum(own[j] for j in last) / len(last)).float())


def test_the_generator_learns_sure_patches_alone(tmp_path):
    asked = []

    def lowest(probability, mask, admissible):
        asked.append((probability, mask))
        assert torch.equal(admissible, torch.ones_like(mask)), "this target has no surround"
        return torch.nn.functional.pad(torch.ones(1, 1, 1), (8, 15, 16, 7))  # patches of 16 x 16 of the lower left

    rounds = Rounds(tmp_path, refinements=(0.0,), rounds=1, threshold=0.5, confident=lowest)
    rounds.run()
    assert len(asked) == 3
    assert all(torch.equal(mask, (probability >= 0.5).float()) for probability, mask in asked)
    corners = [item["image"][:, 8:, :16].flatten().sort().values for item in rounds.target]
    for patch in rounds.of("fine-tune")[0]["patches"]:
        assert any(torch.equal(patch["image"].flatten().sort().values, corner) for corner in corners)


def test_the_segmenter_learns_mined_pairs_too(tmp_path):
    rounds = Rounds(tmp_path, refinements=(0.0,), rounds=1, with_mined=True)
    rounds.run()
    folders = {"mined": rounds.mined, "generated": tmp_path / "rounds" / "round_01" / "pairs"}
    sums = {
        name: [float(pair["image"].sum()) for pair in ShardedPairs(str(folder))] for name, folder in folders.items()
    }
    patches = rounds.of("refine")[0]["patches"]
    nearest = [
        min(sums, key=lambda name: min(abs(float(patch["image"].sum()) - s) for s in sums[name])) for patch in patches
    ]
    assert set(nearest) == {"mined", "generated"}


def test_the_best_candidate_by_measures_without_labels_starts(tmp_path):
    summary = Rounds(tmp_path, {"empty": EMPTY, "noisy": NOISY, "right": RIGHT}, (0.0,), rounds=1).run()
    start = summary["rounds"][0]
    assert summary["started_from"] == "right"
    assert start["candidates"].keys() == start["scores"].keys() == {"empty", "noisy", "right"}
    assert max(start["scores"], key=start["scores"].get) == "right"
    folder = tmp_path / "rounds" / "round_00"
    assert level_of(folder / "segmenter" / "weights.pt") == RIGHT
    described = load_json(folder / "segmenter" / "weights.json")
    assert (described["started_from"], described["preprocessing"]) == ("right", "none")
    assert described["threshold"] == start["candidates"]["right"]["threshold"]


@pytest.mark.parametrize(
    ("levels", "best"), [((RIGHT, NOISY, EMPTY), 0), ((NOISY, RIGHT, EMPTY), 1), ((EMPTY, NOISY, RIGHT), 2)]
)
def test_the_exported_round_is_the_best_by_measures_without_labels(tmp_path, levels, best):
    refinements = [after - before for before, after in zip(levels, levels[1:], strict=False)]
    summary = Rounds(tmp_path, {"start": levels[0]}, refinements).run()
    assert summary["exported_round"] == best
    assert [record["chosen"] for record in summary["rounds"]] == [k == best for k in range(3)]
    assert summary["rounds"][1]["worse_than_before"] is (best == 0)
    assert max(record["score"] for record in summary["rounds"]) == summary["rounds"][best]["score"]
    assert level_of(tmp_path / "rounds" / "weights.pt") == pytest.approx(levels[best], abs=1e-6)
    described = load_json(tmp_path / "rounds" / "weights.json")
    assert (described["round"], described["preprocessing"]) == (best, "none")
    assert described["threshold"] == summary["rounds"][best]["measures"]["threshold"]


def test_a_round_that_made_it_worse_is_named(tmp_path, caplog):
    summary = Rounds(tmp_path, refinements=(EMPTY,), rounds=1).run()
    assert summary["rounds"][1]["worse_than_before"]
    assert "round 1 made the label-free measures worse" in caplog.text
    # of an empty segmenter the doubt per outline is infinite, which JSON has no number for
    assert summary["rounds"][1]["measures"]["uncertain_band_px"] is None
    assert all(math.isfinite(record["score"]) for record in summary["rounds"])


def test_finished_rounds_are_skipped_and_nothing_is_written_again(finished, tmp_path):
    again = continued(finished, tmp_path)
    before = modified(tmp_path / "rounds")
    again.run()
    assert (again.log, again.told) == ([], []), "no network is asked"
    after = modified(tmp_path / "rounds")
    assert {path.name for path in before if before[path] != after[path]} <= CONCLUSION
    assert contents(tmp_path / "rounds") == contents(finished.folder / "rounds")


def test_a_further_round_continues_where_the_last_ended(finished, tmp_path):
    more = continued(finished, tmp_path, "round_02", *CONCLUSION)
    before = modified(tmp_path / "rounds")
    more.run()
    assert more.told == [2]
    after = modified(tmp_path / "rounds")
    assert {path: after[path] for path in before} == before
    assert contents(tmp_path / "rounds") == contents(finished.folder / "rounds")


@pytest.mark.parametrize(
    ("step", "fine_tunings"), [("train_generator", 1), ("train_segmenter", 0)], ids=["fine-tuning", "refining"]
)
def test_an_interrupted_round_continues_after_its_last_step(finished, tmp_path, monkeypatch, step, fine_tunings):
    def killed(**arguments):
        raise KeyboardInterrupt

    part = continued(finished, tmp_path / "part", "round_02", *CONCLUSION)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(part.rounds, step, killed)
        part.run()
    rest = continued(part, tmp_path / "rest")
    rest.run()
    assert len(rest.of("fine-tune")) == fine_tunings
    assert len(rest.of("refine")) == 1
    assert contents(tmp_path / "rest" / "rounds") == contents(finished.folder / "rounds")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds: expected K of at least 1, got 0"),
        ({"ensemble": 0}, "pseudo_mask_ensemble: expected at least 1 segmenter, got 0"),
        ({"threshold": "half"}, "threshold: expected 'auto', a number or null, got 'half'"),
        ({"start": "nowhere"}, "round_start: expected one of latents, noise, both, got 'nowhere'"),
    ],
)
def test_bad_settings_are_refused(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        Rounds(tmp_path, **options).run()
