"""The accuracy benchmark's own parts: who is in which list, what is run again, what the tables say."""

import argparse
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from monai_vessel_uda import pipeline
from monai_vessel_uda.data.patches import ShardedPairs
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.files import load_tensors, save_json
from monai_vessel_uda.settings import resolve_settings

from ..methods.rounds import Rounds
from .accuracy import __main__ as benchmark
from .accuracy.__main__ import is_done, prepare, seconds, target_folders
from .accuracy.configurations import CONFIGURATIONS, fingerprint
from .accuracy.report import (
    NEGATED,
    Results,
    by_seed,
    default_table,
    differences,
    factor_table,
    goals,
    interval,
    ranking,
    regret,
    todays,
)
from .accuracy.results import append, read
from .accuracy.self_training import SelfTraining, SelfTrainingBesideSource


def row(configuration, seed, segmenter, dice, exported=0, scale="whole", **measures):
    settings = fingerprint(configuration, "small", scale)
    common = {"configuration": configuration, "settings": settings, "seed": seed, "split": "test", "preset": "small"}
    return {**common, "scale": scale, "segmenter": segmenter, "dice": dice, "exported": exported, **measures}


@pytest.fixture
def results(tmp_path):
    path = tmp_path / "results.csv"
    for seed, gain in ((0, 0.0), (1, 0.02)):
        rows = [row("default", seed, NEGATED, 0.70), row("default", seed, "aligned, no diffusion", 0.75 + gain)]
        rows += [row("default", seed, "round 1", 0.82, boundary_contrast=0.1)]
        rows.append(row("default", seed, "round 2", 0.80, exported=1, boundary_contrast=0.2))
        append(path, [*rows, row("default", seed, "upper bound (target masks)", 0.90)])
        append(path, [row("soft", seed, "round 1", 0.81 + gain, exported=1)])
    return path


@pytest.mark.parametrize("name", list(CONFIGURATIONS))
def test_every_configuration_is_possible_and_differs_from_the_one_beside_it(name):
    configuration = CONFIGURATIONS[name]
    for scale in configuration.scales:
        settings = configuration.settings_at(scale)
        assert resolve_settings("small", settings).items() >= settings.items()
        assert scale in CONFIGURATIONS[configuration.beside].scales
        beside = fingerprint(configuration.beside, "small", scale)
        assert (fingerprint(name, "small", scale) == beside) == (name == "default")


def test_development_images_are_scored_or_trained_on_but_never_both(tmp_path):
    for kind in ("image", "label"):
        folder = tmp_path / "images" / "ROSSA" / "train_manual" / kind
        folder.mkdir(parents=True)
        for i in range(7):
            (folder / f"{i}.png").touch()
    folders = target_folders(tmp_path / "images", "development", tmp_path / "work")
    scored, unlabelled = (
        {path.name for path in (folders[name] / "image").iterdir()} for name in ("evaluation", "target")
    )
    assert scored == {"0.png", "3.png", "6.png"}
    assert len(unlabelled) == 4 and not scored & unlabelled
    assert target_folders(tmp_path / "images", "test", tmp_path / "work")["evaluation"].name == "test"


def test_what_is_in_the_results_is_not_run_again(results):
    def done(name, seed, split="test", scale="whole"):
        return is_done(results, name, scale, argparse.Namespace(seed=seed, split=split, preset="small"))

    assert done("default", 0)
    assert not done("default", 0, scale="round")
    assert not done("default", 2)
    assert not done("default", 0, "development")
    assert not done("six-rounds", 0)


@pytest.mark.parametrize("scales", [["round"], ["round", "segmenter"], ["segmenter"]])
def test_results_without_their_workspace_get_what_others_need(results, tmp_path, monkeypatch, scales):
    made, prepared = [], []
    monkeypatch.setattr(pipeline, "run_step", lambda workspace, step, settings: made.append(step))
    monkeypatch.setattr(benchmark, "prepare", lambda workspace, *rest: prepared.append(workspace))
    monkeypatch.setattr(benchmark, "run", lambda name, scale, arguments: made.append((name, scale)))
    options = {"seed": 0, "split": "test", "preset": "small", "work": tmp_path, "scales": scales, "results": results}
    benchmark.make_default(argparse.Namespace(**options))
    assert prepared == [tmp_path / "test" / "small" / "seed_0" / "default"]
    assert made == ([] if scales == ["segmenter"] else list(pipeline.stages(False, False))[:-1])


def test_results_of_other_settings_are_run_again_and_left_out_of_the_tables(results):
    rows = [{**row, "settings": "0" * 8} if row["configuration"] == "soft" else row for row in read(results)]
    results.unlink()
    append(results, rows)
    assert not is_done(results, "soft", "whole", argparse.Namespace(seed=0, split="test", preset="small"))
    kept, others = todays(rows)
    assert others == ["soft"]
    assert {row["configuration"] for row in kept} == {"default"}


def test_another_configuration_may_take_the_default_s_place(results):
    base = "space-to-depth"
    before = [{**row(base, 0, "round 1", 0.80), "exported": "1"}]
    assert before[0]["settings"] == fingerprint("default", "small", "whole", base)
    before.append({**row("soft", 0, "round 1", 0.81), "settings": fingerprint("soft", "small", "whole", base)})
    kept, others = todays([*read(results), *before], base)
    assert [(found["configuration"], found["dice"]) for found in kept] == [("default", 0.80), ("soft", 0.81)]
    assert others == ["default", "soft"], "rows of today"
    assert len(todays([*read(results), *before])[0]) == len(read(results)) + 1


def test_fingerprints_change_with_whatever_a_stage_computes_and_with_the_preparation():
    names = ("default", "soft", "t0-5", "flatten-off", "calibre-1.2", "warm-start", "plain")
    found = {fingerprint(name, preset, "whole") for name in names for preset in ("small", "demo")}
    assert len(found) == 2 * len(names)
    assert fingerprint("default", "small", "round") not in found


def test_the_aligned_segmenter_alone_does_not_depend_on_generators():
    assert fingerprint("soft", "small", "segmenter") == fingerprint("default", "small", "segmenter")
    assert fingerprint("noise-off", "small", "segmenter") != fingerprint("default", "small", "segmenter")


def test_the_control_learns_target_images_under_its_own_pseudo_masks_and_generates_nothing(tmp_path):
    rounds = Rounds(tmp_path, kind=SelfTraining, refinements=(0.25, 0.0), threshold=0.5)
    summary = rounds.run()
    assert [details["from"] for details in rounds.of("refine")] == [0.0, 0.25]
    for details, level in zip(rounds.of("refine"), (0.0, 0.25), strict=True):
        for patch in details["patches"]:
            assert torch.equal(patch["label"], (patch["image"] >= level).float())
    assert not rounds.of("fine-tune") and not rounds.of("generate")
    assert [record["round"] for record in summary["rounds"]] == [0, 1, 2]


def test_the_control_beside_the_source_learns_as_many_source_patches_under_their_own_masks(tmp_path):
    rounds = Rounds(tmp_path, kind=SelfTrainingBesideSource, refinements=(0.25, 0.0), threshold=0.5)
    rounds.run()
    mined = [load_tensors(path) for path in sorted(rounds.mined.glob("*.pt"))]
    for k in (1, 2):
        pairs = ShardedPairs(str(tmp_path / "rounds" / f"round_{k:02d}" / "pairs"))
        images, masks = (torch.stack([pair[key] for pair in pairs]) for key in ("image", "label"))
        assert len(images) == 10
        assert torch.equal(images[5:], torch.cat([shard["source"] for shard in mined]))
        assert torch.equal(masks[5:], torch.cat([shard["label"] for shard in mined]).float())
    assert not rounds.of("generate")


def test_benchmarks_that_write_at_once_lose_no_row(tmp_path):
    path = tmp_path / "results.csv"
    rows = [[row("default", number, f"round {i}", 0.5)] for number in range(2) for i in range(20)]
    with ThreadPoolExecutor(8) as writers:
        list(writers.map(lambda found: append(path, found), rows))
    assert len(read(path)) == 40


def test_tables_pair_seeds_and_give_intervals(results):
    found = Results(read(results))
    assert regret(found, "default", 0) == pytest.approx(2.0)
    assert "| 0 | 10.00 | 5.00 | 50.00 | 2.00 |" in goals(found)
    assert "| 1 | 10.00 | 3.00 | 50.00 | 2.00 |" in goals(found)
    assert f"| {NEGATED} | 70.00 ± 0.00 |" in default_table(found)
    soft = next(line for line in factor_table(found, "pseudo-masks").splitlines() if line.startswith("| soft"))
    # 81 and 83 against 80 and 80: 2 with Student's t of one degree of freedom
    assert soft.startswith("| soft | 2 | 82.00 ± 12.71 | 2.00 ± 12.71 |")


def test_configurations_are_compared_with_the_one_they_differ_from_in_one_thing(tmp_path):
    path = tmp_path / "results.csv"
    found = {"default": 0.80, "rounds-from-latents": 0.78, "t0-5": 0.79}
    append(path, [row(name, 0, "round 1", dice, exported=1, scale="round") for name, dice in found.items()])
    table = factor_table(Results(read(path)), "t0 of 50").splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in table[2:]] == ["rounds-from-latents", "t0-5"]
    assert table[3].startswith("| t0-5 | 1 | 79.00 | 1.00 |")


def test_segmenters_alone_have_no_rounds_in_their_table(tmp_path):
    path = tmp_path / "results.csv"
    aligned = "aligned, no diffusion"
    append(path, [row(name, 0, aligned, 0.8, exported=1, scale="segmenter") for name in ("default", "flatten-off")])
    table = factor_table(Results(read(path)), "preprocessing")
    assert "regret" not in table and "first generation" not in table
    assert "| flatten-off | 1 | 80.00 | 0.00 |" in table


def test_measures_are_judged_by_how_they_rank_and_what_choosing_by_them_loses(tmp_path):
    path = tmp_path / "results.csv"
    measured = [
        ("aligned, no diffusion", 0.80, 0.01, 0.9),
        ("round 1", 0.84, 0.03, 0.5),
        ("round 2", 0.86, 0.02, 0.3),
        ("round 3", 0.85, 0.04, 0.4),
    ]
    for name, dice, contrast, entropy in measured:
        append(path, [row("default", 0, name, dice, boundary_contrast=contrast, prediction_entropy=entropy)])
    table = ranking(Results(read(path)), ["default"])
    assert "| boundary_contrast | 0.40 (0.40 to 0.40) | -0.50 (-0.50 to -0.50) | 1.00 (1.00 to 1.00) |" in table
    assert "| prediction_entropy | 1.00 (1.00 to 1.00) | 1.00 (1.00 to 1.00) | 0.00 (0.00 to 0.00) |" in table
    assert "| faithfulness | – | – | – |" in table
    assert "| all together: exported | | | – |" in table  # no round was
    assert "| the last round | | | 1.00 (1.00 to 1.00) |" in table


def test_rankings_are_over_the_runs_of_the_configurations_named(tmp_path):
    path = tmp_path / "results.csv"
    for name, seed, better in (("default", 0, 0.04), ("soft", 0, 0.03), ("default", 1, 0.01)):
        append(path, [row(name, seed, "round 1", 0.80, boundary_contrast=0.02)])
        append(path, [row(name, seed, "round 2", 0.84, boundary_contrast=better, exported=1)])
    found = Results(read(path))
    assert "| boundary_contrast | – | – | 2.00 (0.00 to 4.00) |" in ranking(found, ["default"])
    assert "| boundary_contrast | – | – | 1.33 (0.00 to 4.00) |" in ranking(found, ["default", "soft"])
    assert "| all together: exported | | | 0.00 (0.00 to 0.00) |" in ranking(found, ["default"])


def test_the_exported_segmenter_is_compared_seed_by_seed_in_every_score(results):
    found = Results(read(results))
    line = next(line for line in differences(found).splitlines() if "aligned" in line)
    assert line.startswith("| aligned, no diffusion | 4.00 ± 12.71 | – |")  # 5 and 3; nothing else was scored
    assert "| round 2 | 80.00 [nan, nan] | 80.00 [nan, nan] |" in by_seed(found)


def test_a_seed_that_is_missing_is_not_invented(results):
    found = Results(read(results))
    assert found.dice("default", 7, "exported") != found.dice("default", 7, "exported")  # nan
    assert found.rounds("default", 7) == []
    assert found.seeds() == [0, 1]


def test_seconds_of_an_adaptation_are_those_of_all_its_stages(tmp_path):
    path = tmp_path / "results.csv"
    times = {"stage ddpm_target": 10, "stage co_optimization": 5, "aligned, no diffusion": 2, "source-only": 1}
    append(path, [row("default", 0, name, "", seconds=time) for name, time in times.items()])
    append(path, [row("default", 1, name, "", seconds="") for name in times])
    found = Results(read(path))
    assert found.seconds("default", 0) == 17  # nothing starts from the source-only segmenter
    assert found.seconds("default", 1) != found.seconds("default", 1)  # nan: not timed


def test_interrupted_stages_have_no_time(tmp_path):
    save_json({"seconds": 3.0, "continued": False}, tmp_path / "whole.json")
    save_json({"seconds": 3.0, "continued": True}, tmp_path / "part.json")
    assert (seconds(tmp_path / "whole.json"), seconds(tmp_path / "part.json")) == (3.0, "")


def test_a_workspace_that_was_prepared_otherwise_is_not_used(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    save_json({"preparing": {"flatten": False}}, tmp_path / "made_with.json")
    with pytest.raises(InputError, match="another preparation or criterion; delete the folder"):
        prepare(tmp_path, tmp_path / "default", CONFIGURATIONS["polarity-off"], argparse.Namespace())


def test_interval_is_students():
    assert interval([1.0, 3.0]) == "2.00 ± 12.71"
    assert interval([1.5]) == "1.50"
    assert interval([]) == "–"
