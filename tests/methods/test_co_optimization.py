"""The rounds of sec. 2.3 over networks whose every training is known."""

import math
from itertools import groupby

import pytest
import torch

from monai_vessel_uda.data.patches import ShardedPairs
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.files import load_json, load_tensors
from monai_vessel_uda.methods.co_optimization import CoOptimization
from monai_vessel_uda.methods.latent_mining import LatentMining
from monai_vessel_uda.metrics.label_free import mask_faithfulness

from .generators import SCHEDULE
from .rounds import (
    AVERAGED,
    EMPTY,
    FINE_TUNED,
    NOISY,
    REFINEMENTS,
    RIGHT,
    UNTRAINED,
    Rounds,
    level_of,
    mean_of,
)


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


@pytest.mark.parametrize("ensemble", [1, 2])
def test_no_segmenter_looks_twice_at_the_same_target_image(tmp_path, ensemble):
    rounds = Rounds(tmp_path, ensemble=ensemble)
    rounds.run()
    whole = [details for details in rounds.of("segment") if details["side"] == 24]
    upright, flipped = len(rounds.target), 3 * len(rounds.target)
    start, pseudo_masks_of_the_start = upright + flipped, upright
    assert len(whole) == start + pseudo_masks_of_the_start + 2 * (upright + flipped)


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


def test_the_segmenter_learns_the_same_pairs_in_another_order_each_round(finished):
    first, second = ([patch["label"] for patch in details["patches"]] for details in finished.of("refine"))
    assert not all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_generated_images_are_brought_into_the_targets_intensities(finished):
    """Those from the latents of a brighter source would otherwise leave them."""
    every_patch = torch.stack([item["image"].unfold(1, 16, 1).unfold(2, 16, 1) for item in finished.target])
    brightest = every_patch.mean(dim=(-1, -2)).max()
    shards = [load_tensors(path) for path in sorted((finished.folder / "rounds").glob("round_*/pairs/*.pt"))]
    assert any(shard["corrected"].any() for shard in shards)
    assert all((shard["image"].flatten(1).mean(1) <= brightest + 1e-4).all() for shard in shards)


def test_faithfulness_is_how_far_the_segmenter_before_sees_the_masks_in_what_was_drawn_for_them(finished):
    for k in (1, 2):
        folder = finished.folder / "rounds" / f"round_{k:02d}"
        pairs = ShardedPairs(str(folder / "pairs"))[:4]
        level = level_of(finished.folder / "rounds" / f"round_{k - 1:02d}" / "segmenter" / "weights.pt")
        seen = torch.stack([torch.sigmoid(40 * (pair["image"] - level)) for pair in pairs])
        masks = torch.stack([pair["label"] for pair in pairs])
        found = load_json(folder / "measures.json")["measures"]["faithfulness"]
        assert found == pytest.approx(mask_faithfulness(seen, masks), abs=1e-4)


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds: expected K of at least 1, got 0"),
        ({"ensemble": 0}, "pseudo_mask_ensemble: expected at least 1 segmenter, got 0"),
        ({"threshold": "half"}, "threshold: expected 'auto', a number or null, got 'half'"),
        ({"start": "nowhere"}, "round_start: expected one of latents, noise, both, got 'nowhere'"),
        (
            {"start": "latents", "mining": LatentMining(SCHEDULE, steps=6, t0=2, generation_timesteps=300)},
            "generation_timesteps: expected at least 333, where the latents lie, got 300",
        ),
    ],
)
def test_bad_settings_are_refused(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        Rounds(tmp_path, **options).run()


def test_images_of_both_starts_are_judged(tmp_path):
    """Though those from latents are the first, and few are looked at."""
    rounds = Rounds(tmp_path, start="both", rounds=1, measured_patches=6)
    judged = []
    rounds.rounds._measure_generated = lambda judge, pairs: judged.append(pairs) or {"faithfulness": 1.0}
    rounds.run()
    (pairs,) = judged
    looked_at = []

    class Pairs:
        def __len__(self):
            return len(pairs)

        def __getitem__(self, number):
            looked_at.append(number)
            return pairs[number]

    CoOptimization._measure_generated(rounds.rounds, rounds.rounds.segmenter, Pairs())
    assert (len(pairs), looked_at) == (10, [0, 1, 3, 5, 6, 8])


@pytest.mark.parametrize(("level", "warned"), [(RIGHT, False), (EMPTY, True)])
def test_warns_where_masks_are_not_found_in_the_images_drawn_for_them(tmp_path, caplog, level, warned):
    Rounds(tmp_path, {"start": level}, rounds=1).run()
    measures = load_json(tmp_path / "rounds" / "round_01" / "measures.json")["measures"]
    assert (measures["faithfulness"] < 0.3) == warned
    assert ("masks are hardly found" in caplog.text) == warned
    assert (str(tmp_path / "rounds" / "round_01" / "preview.png") in caplog.text) == warned


@pytest.mark.parametrize(("level", "warned"), [(RIGHT, False), (EMPTY, True)])
def test_warns_where_what_is_exported_is_no_better_than_an_empty_mask(tmp_path, caplog, level, warned):
    summary = Rounds(tmp_path, {"start": level}, rounds=1).run()
    exported = summary["rounds"][summary["exported_round"]]
    assert (exported["measures"]["boundary_contrast"] <= 0) == warned
    assert ("no better on the target images' edges than an empty mask" in caplog.text) == warned
