"""The accuracy benchmark's own parts: who is in which list, what is run again, what the tables say."""

import argparse

import pytest

from monai_vessel_uda.settings import resolve_settings

from .accuracy.__main__ import is_done, target_folders
from .accuracy.configurations import CONFIGURATIONS
from .accuracy.report import NEGATED, Results, default_table, factor_table, goals, interval, regret
from .accuracy.results import append, read


def row(configuration, seed, segmenter, dice, exported=0):
    common = {"configuration": configuration, "seed": seed, "split": "test", "preset": "small"}
    return {**common, "segmenter": segmenter, "dice": dice, "exported": exported}


@pytest.fixture
def results(tmp_path):
    path = tmp_path / "results.csv"
    for seed, gain in ((0, 0.0), (1, 0.02)):
        rows = [row("default", seed, NEGATED, 0.70), row("default", seed, "aligned, no diffusion", 0.75 + gain)]
        rows += [row("default", seed, "round 1", 0.82), row("default", seed, "round 2", 0.80, exported=1)]
        append(path, [*rows, row("default", seed, "upper bound (target masks)", 0.90)])
        append(path, [row("soft", seed, "round 1", 0.81 + gain, exported=1)])
    return path


@pytest.mark.parametrize("name", list(CONFIGURATIONS))
def test_every_configuration_is_possible(name):
    settings = CONFIGURATIONS[name].settings
    assert resolve_settings("small", settings).items() >= settings.items()


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
    def done(name, seed, split="test"):
        return is_done(results, name, argparse.Namespace(seed=seed, split=split, preset="small"))

    assert done("default", 0)
    assert not done("default", 2)
    assert not done("default", 0, "development")
    assert not done("six-rounds", 0)


def test_tables_pair_seeds_and_give_intervals(results):
    found = Results(read(results))
    assert regret(found, "default", 0) == pytest.approx(2.0)
    assert "| 0 | 10.00 | 5.00 | 50.00 | 2.00 |" in goals(found)
    assert "| 1 | 10.00 | 3.00 | 50.00 | 2.00 |" in goals(found)
    assert f"| {NEGATED} | 70.00 ± 0.00 |" in default_table(found)
    soft = next(line for line in factor_table(found, "pseudo-masks").splitlines() if line.startswith("| soft"))
    # 81 and 83 against 80 and 80: 2 with Student's t of one degree of freedom
    assert soft.startswith("| soft | 2 | – | 82.00 ± 12.71 | 2.00 ± 12.71 |")


def test_interval_is_students():
    assert interval([1.0, 3.0]) == "2.00 ± 12.71"
    assert interval([1.5]) == "1.50"
    assert interval([]) == "–"
