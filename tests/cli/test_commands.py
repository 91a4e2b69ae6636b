import logging
import subprocess
import sys
from pathlib import Path

import pytest

import monai_vessel_uda
from monai_vessel_uda import demo, preparation
from monai_vessel_uda.data.manifest import FORMAT, VERSION
from monai_vessel_uda.files import save_json
from monai_vessel_uda.settings import preset_overrides

from .commands import run


def test_demo_runs_consecutive_seeds_and_prints_the_table(calls):
    result = run("demo", "there", "--seeds", 2, "--seed", 5, "--jobs", 1)
    assert result.exit_code == 0
    assert "| Dice |" in result.stdout
    ((_, (folder, seeds, jobs), _),) = calls
    assert (folder, list(seeds), jobs) == (Path("there"), [5, 6], 1)


def test_prepare_passes_folders_and_options(calls, tmp_path):
    folders = ["--source", "a", "--source", "b", "--target", "c", "--evaluation", "d", "--upper-bound", "e"]
    assert run("prepare", tmp_path, *folders, "--seed", 3).exit_code == 0
    ((name, args, kwargs),) = calls
    assert name == "prepare"
    assert args == (tmp_path, [Path("a"), Path("b")], Path("c"), Path("d"), Path("e"))
    assert kwargs == {
        "seed": 3,
        "grey": "auto",
        "source_polarity": "auto",
        "target_polarity": "auto",
        "source_scale": "auto",
        "target_scale": 1.0,
        "flatten": True,
        "match": True,
    }


def test_prepare_options_are_passed_as_numbers_and_words(calls, tmp_path):
    options = ["--target-scale", 0.7, "--source-scale", 0.25, "--no-flatten", "--no-match", "--target-polarity", "dark"]
    assert run("prepare", tmp_path, "--source", "a", "--target", "c", "--grey", "green", *options).exit_code == 0
    kwargs = calls[0][2]
    assert (kwargs["target_scale"], kwargs["source_scale"]) == (0.7, 0.25)
    assert (kwargs["flatten"], kwargs["match"]) == (False, False)
    assert (kwargs["grey"], kwargs["target_polarity"]) == ("green", "dark")


def test_prepare_options_are_those_of_the_estimation():
    import inspect

    from monai_vessel_uda.transforms.preprocessing import estimate_preprocessing

    known = inspect.signature(estimate_preprocessing).parameters
    expected = {"grey", "source_polarity", "target_polarity", "source_scale", "target_scale", "flatten", "match"}
    assert expected <= set(known)


def test_adapt_prepares_first_where_nothing_was_prepared(calls, tmp_path):
    result = run("adapt", tmp_path / "w", "--source", "a", "--target", "c", "--preset", "small", "--seed", 4)
    assert result.exit_code == 0
    assert [name for name, _, _ in calls] == ["prepare", "adapt"]
    assert calls[0][2] == {"seed": 4}
    assert calls[1][1] == (tmp_path / "w", "small", {}, None, None, None)


def prepared(workspace, seed=3, **lists):
    """Write the manifest of a workspace with these images."""
    names = ("source", "target", "evaluation", "supervised")
    known = {
        name: [
            {"image": f"{path}/1.png", "label": "1.png", "id": "1", "stat": {}, "sha256": ""} for path in lists[name]
        ]
        if name in lists
        else []
        for name in names
    }
    known["target"] = [{key: entry[key] for key in entry if key != "label"} for entry in known["target"]]
    save_json(
        {"format": FORMAT, "version": VERSION, "seed": seed, "preprocessing": {}, **known}, workspace / "manifest.json"
    )


@pytest.fixture
def one_image_in_each_folder(monkeypatch):
    def found(source, target, *masked):
        folders = {"source": source, "target": [target], "evaluation": [masked[0]], "supervised": [masked[1]]}
        return {name: [{"image": f"{path}/1.png"} for path in paths if path] for name, paths in folders.items()}

    monkeypatch.setattr(preparation, "find_images", found)


@pytest.mark.usefixtures("one_image_in_each_folder")
def test_adapt_goes_on_with_the_images_that_it_was_prepared_with(calls, tmp_path):
    folders = {
        "source": tmp_path / "a",
        "target": tmp_path / "c",
        "evaluation": tmp_path / "e",
        "supervised": tmp_path / "u",
    }
    prepared(tmp_path, **{name: [folder] for name, folder in folders.items()})
    options = [part for name, folder in folders.items() for part in (f"--{name}", folder)]
    result = run("adapt", tmp_path, *[{"--supervised": "--upper-bound"}.get(option, option) for option in options])
    assert [name for name, _, _ in calls] == ["adapt"], result.stderr
    assert run("adapt", tmp_path).exit_code == 0, "no folder need be given again"


@pytest.mark.usefixtures("one_image_in_each_folder")
@pytest.mark.parametrize("option", ["--source", "--target", "--evaluation", "--upper-bound"])
def test_adapt_refuses_other_images_than_the_workspace_was_prepared_with(calls, tmp_path, option):
    prepared(tmp_path, source=["/there/a"], target=["/there/c"], evaluation=["/there/e"])
    result = run("adapt", tmp_path, option, "/there/other")
    assert result.exit_code == 2 and not calls
    what = "without" if option == "--upper-bound" else "with other images"
    name = option.strip("-").replace("-", " ")
    assert result.stderr.startswith(f"error: {name}: {tmp_path} was prepared {what} (such as /there/")


def test_adapt_passes_overrides(calls, tmp_path):
    prepared(tmp_path)
    settings = ["t0=9", "decoder=ancestral", "segmenter_def#channels=[8, 16]", "amp=true", "pairs_dir=a=b"]
    options = [part for setting in settings for part in ("--set", setting)]
    fixed = ["--rounds", 2, "--no-baselines", "--device", "cpu", "--registered-model", "clinic"]
    result = run("adapt", tmp_path, *fixed, *options)
    assert result.exit_code == 0, result.stderr
    expected = {"t0": 9, "decoder": "ancestral", "segmenter_def#channels": [8, 16], "amp": True, "pairs_dir": "a=b"}
    assert calls[0][1] == (tmp_path, "small", {**expected, "rounds": 2}, False, "cpu", "clinic")


def test_adapt_goes_on_with_the_preset_and_the_settings_that_it_was_begun_with(calls, tmp_path):
    prepared(tmp_path)
    save_json({"preset": "demo", "settings": {**preset_overrides("demo"), "t0": 5}}, tmp_path / "settings.json")
    assert run("adapt", tmp_path, "--rounds", 3).exit_code == 0
    assert run("adapt", tmp_path, "--preset", "demo").exit_code == 0
    assert [args[1:3] for _, args, _ in calls] == [("demo", {"t0": 5, "rounds": 3}), ("demo", {})]


def test_adapt_refuses_zero_rounds(calls, tmp_path):
    prepared(tmp_path)
    result = run("adapt", tmp_path, "--rounds", 0)
    assert (result.exit_code, calls) == (2, [])
    assert "rounds: expected a whole number of at least 1, got 0" in result.stderr


@pytest.mark.parametrize(("asked", "code"), [([], 0), (["--seed", 3], 0), (["--seed", 0], 2)])
def test_adapt_refuses_a_seed_that_it_was_not_prepared_with(calls, tmp_path, asked, code):
    prepared(tmp_path, seed=3)
    result = run("adapt", tmp_path, *asked)
    assert result.exit_code == code
    assert ("prepared with 3; take a new workspace" in result.stderr) == bool(code)


def test_adapt_refuses_settings_before_it_looks_at_images(calls, tmp_path):
    for options, message in (
        (["--set", "itterations=4"], "did you mean 'iterations'"),
        (["--set", "seed=4"], "give --seed"),
        (["--set", "device=cuda"], "give --device"),
        (["--set", "training_set=raw"], "an adaptation has its own for each stage"),
        (["--set", "output_dir=there"], "an adaptation has its own for each stage"),
        (["--set", "track=no"], "track: expected true or false"),
        (["--upper-bound", "u", "--no-baselines"], "it would not be trained"),
    ):
        result = run("adapt", tmp_path / "w", "--source", "a", "--target", "c", *options)
        assert (result.exit_code, calls) == (2, [])
        assert message in result.stderr


def test_adapt_prints_the_scores(calls, tmp_path):
    prepared(tmp_path)
    (tmp_path / "scores.md").write_text("| source-only | 3.1 |")
    assert "| source-only | 3.1 |" in run("adapt", tmp_path).stdout


def test_segment_passes_everything(calls):
    options = ["--probability", "--overlay", "--scale", 2, "--threshold", 0.4, "--suffix", ".png", "--device", "cpu"]
    options += ["--views", 4, "--runtime", "onnx", "--measurements"]
    assert run("segment", "in", "out", "--bundle", "b", *options).exit_code == 0
    expected = {"probability": True, "overlay": True, "scale": 2.0, "threshold": 0.4, "suffix": ".png"}
    expected |= {"views": 4, "runtime": "onnx", "device": "cpu", "measurements": True}
    assert calls == [("segment", (Path("in"), Path("out"), Path("b")), expected)]


def test_segment_defaults(calls):
    run("segment", "in", "out", "--bundle", "b")
    unset = {"scale": None, "threshold": None, "suffix": None, "device": None}
    unset |= dict.fromkeys(("probability", "overlay", "measurements"), False)
    assert calls[0][2] == {"views": 1, "runtime": "torch", **unset}


def test_a_zip_is_not_changed(calls, tmp_path):
    (tmp_path / "b.zip").write_text("")
    for arguments in (["evaluate", tmp_path / "b.zip", "images"], ["package", tmp_path / "b.zip"]):
        result = run(*arguments)
        assert (result.exit_code, calls) == (2, [])
        assert "b.zip: " in result.stderr


def test_evaluate_prints_scores_with_intervals(calls):
    given = ["--views", 8, "--device", "cpu", "--threshold", 0.4, "--scale", 2, "--runtime", "onnx"]
    result = run("evaluate", "b", "images", "--output", "o.json", *given)
    options = {"split": None, "scale": 2.0, "threshold": 0.4, "views": 8, "runtime": "onnx", "device": "cpu"}
    assert calls == [("evaluate", (Path("b"), Path("images"), Path("o.json")), options)]
    lines = dict(line.split("  ", 1) for line in result.stdout.splitlines() if "  " in line)
    assert lines["Dice %"].strip() == "53.12 [50.00, 56.00]"
    assert lines["ROC-AUC %"].strip() == "–"
    assert "2 images" in result.stdout


def test_report_writes_the_page(monkeypatch, tmp_path):
    from monai_vessel_uda.report import html

    monkeypatch.setattr(html, "write_report", lambda workspace: workspace / "report.html")
    assert run("report", tmp_path).stdout.strip() == str(tmp_path / "report.html")


def test_version():
    assert run("--version").stdout.strip() == f"vessel-uda {monai_vessel_uda.__version__}"


def test_log_goes_to_stderr_once_and_without_other_libraries(monkeypatch):
    def talk(*args):
        logging.getLogger("monai_vessel_uda").info("stage 1")
        logging.getLogger("ignite.engine").error("terminating")
        logging.getLogger("monai.bundle.workflows").warning("skipping")
        return "table"

    monkeypatch.setattr(demo, "run_demo", talk)
    run("demo")
    result = run("demo")
    assert result.stdout == "table\n"
    assert result.stderr.count("stage 1") == 1
    assert "terminating" not in result.stderr and "skipping" not in result.stderr


def test_help_needs_no_heavy_package():
    program = """
import sys
from monai_vessel_uda.cli import app
names = "demo prepare adapt segment evaluate package convert import-generator label report".split()
for command in ([], *([name] for name in names)):
    try:
        app([*command, "--help"])
    except SystemExit as stopped:
        assert not stopped.code, command
heavy = {"torch", "monai", "ignite", "mlflow", "numpy", "matplotlib", "itk", "skimage"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "adapt" in done.stdout
