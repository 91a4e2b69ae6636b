"""The benchmark of speed runs, at toy size."""

import csv
import subprocess
from functools import partial

import pytest

from ..conftest import TINY
from .speed import __main__ as program
from .speed import measure, networks, sampling, step
from .speed.measure import Options, interleaved, read_rows
from .speed.stages import generator_definition

OPTIONS = Options(threads=1, preset="demo", repeats=2, compiled=False, overrides=TINY)


def needs_diffusers():
    pytest.importorskip("diffusers", reason="needs the extra 'benchmark' (diffusers)")


def test_functions_are_measured_in_turn():
    calls = []
    times = interleaved({"a": partial(calls.append, "a"), "b": partial(calls.append, "b")}, 3, at_least=0)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


@pytest.mark.parametrize("fold", [1, 2])
def test_the_network_of_diffusers_is_ours(fold):
    needs_diffusers()
    definition = {**generator_definition(OPTIONS), "space_to_depth": fold, "attention_levels": [False, True]}
    batch = networks.noise_batch(2, 16, "cpu")
    theirs, ours = networks.DiffusersUNet(definition), networks.ours(definition)()
    assert networks.parameters(theirs) == networks.parameters(ours)
    assert step.largest_difference(definition, batch, "cpu") < step.TOLERANCE


def test_every_variant_of_the_generator_runs():
    needs_diffusers()
    definition = generator_definition(OPTIONS)
    shipped = {"training": {"fused": True}, "sampling": {"attention": True}}
    found = step.variants(definition, OPTIONS, shipped, compiled=False)
    assert {"diffusers", "ours", "ours, fused AdamW", "ours, SDPA", "plain MONAI, full resolution"} <= set(found)
    batch = networks.noise_batch(2, 16, "cpu")
    for make in (networks.NoisePrediction, networks.TrainingStep):
        functions, failed = step.prepared(found, partial(make, batch=batch, device="cpu"), "cpu")
        assert set(found) == {*functions, *failed}
        assert all("bfloat16" in name for name in failed)  # where it is too slow


def test_a_variant_that_cannot_run_is_skipped_with_its_reason():
    def broken():
        raise RuntimeError("no compiler\nand more")

    functions, failed = step.prepared({"broken": None}, lambda variant: broken, "cpu")
    assert not functions
    assert failed == {"broken": "RuntimeError: no compiler"}


def test_a_finished_section_is_not_measured_again_and_the_page_shows_it(tmp_path, capsys):
    program.run_section("sampling", OPTIONS, tmp_path)
    before = (tmp_path / "speed_cpu.csv").read_text()
    program.run_section("sampling", OPTIONS, tmp_path)
    assert (tmp_path / "speed_cpu.csv").read_text() == before
    assert "there already" in capsys.readouterr().out
    program.write_report(tmp_path)
    page = (tmp_path / "speed.md").read_text()
    assert "| published | 12 933 120 | 1 |" in page
    goals, *sections = page.split("\n## ")[1:]
    (fewer,) = {line for line in goals.splitlines() if "2048 masks, K = 6, as preset demo is set" in line}
    assert "to reach ≥ 19: reached" in fewer
    assert fewer in "".join(sections)
    assert "| generated: 50 DDIM | 50 |" in page
    assert "| generated from noise as preset demo is set | 3 |" in page  # as OPTIONS have it
    assert "reached" in page
    rows = read_rows(tmp_path / "speed_cpu.csv")
    assert {row.preset for row in rows} == {"demo"}
    with (tmp_path / "speed_cpu.csv").open() as file:
        assert len(rows) == len(list(csv.reader(file))) - 1


def test_machines_are_shown_one_after_the_other(tmp_path):
    program.run_section("sampling", OPTIONS, tmp_path)
    program.run_section("sampling", OPTIONS, tmp_path, name="other")
    program.write_report(tmp_path)
    headings = [line for line in (tmp_path / "speed.md").read_text().splitlines() if line.startswith("## ")]
    assert headings == [
        "## Goals",
        "## CPU (speed_cpu.csv), preset `demo`",
        "## CPU (speed_cpu_other.csv), preset `demo`",
    ]


def test_evaluations_are_counted_from_the_stages_own_settings():
    rows = [row for row in sampling.adaptation_rows(OPTIONS) if row.variant.startswith("as preset")]
    mined, generated = TINY["t0"] * 2, TINY["t0"] + TINY["generation_steps"]
    expected = TINY["pairs"] * (mined + TINY["rounds"] * generated)
    assert expected in [row.value for row in rows]


def test_results_name_the_commit_that_was_measured(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.invalid"]
        subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True)

    monkeypatch.setattr(measure, "ROOT", tmp_path)
    assert measure.commit() == "unknown"
    git("init")
    (tmp_path / "docs").mkdir()
    for file in ("code", "docs/results"):
        (tmp_path / file).write_text("1")
    git("add", ".")
    git("commit", "-m", "code")
    clean = measure.commit()
    assert len(clean) >= 7
    (tmp_path / "docs" / "results").write_text("2")
    assert measure.commit() == clean
    (tmp_path / "code").write_text("2")
    assert measure.commit() == f"{clean}-dirty"
    monkeypatch.setattr(measure.shutil, "which", lambda name: None)
    assert measure.commit() == "unknown"
