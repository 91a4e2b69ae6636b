"""One clear line for those who run the stages by MONAI's own command."""

import json
import subprocess
import sys

import pytest

from monai_vessel_uda.engines.command_line import check, recorded
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.settings import bundles_folder
from monai_vessel_uda.workflows import bundle_workflow

NETWORK = "monai_vessel_uda.diffusion.StackedInputUNet"
MONAI = "/anywhere/site-packages/monai/bundle/__main__.py"


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(
        json.dumps({"iterations": 3, "+generator_def": {"_target_": NETWORK, "channels": [8]}, "workspace": "."})
    )
    return path


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--iteratons", "5"], "did you mean --iterations"),
        (["--iteratons=5"], "--iteratons: no config"),
        (["--nothing_like_it", "5"], "has this id$"),
        (["--generator_deff#channels", "[8]"], "did you mean --generator_def#channels"),
        (["--generator_def#chanels", "[8]"], "did you mean --generator_def#channels"),
        (["--generator_def::num_resblocks=1"], "did you mean --generator_def::num_res_blocks"),
        (["--generator_def#channels#x", "8"], "has this id$"),
        (["--workspace", "/data/patient#1"], "path with '#'"),
    ],
)
def test_refuses(config, option, message, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    with pytest.raises(InputError, match=message):
        check([MONAI, "run", "--config_file", str(config), *option])


def test_options_in_a_file_are_checked_and_recorded_too(config, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    file = tmp_path / "arguments.json"
    command = [MONAI, "run", "--args_file", str(file)]
    stage = bundles_folder() / "ddpm_pretrain" / "configs" / "train.json"
    file.write_text(json.dumps({"config_file": [str(stage)], "schedule#beta_end": 0.01, "batch_size": 2}))
    check(command)
    assert recorded({}, command) == {"overrides": {"schedule.beta_end": "0.01"}}
    assert recorded({}, [*command, "--schedule#beta_end=0.03"]) == {"overrides": {"schedule.beta_end": "0.03"}}
    file.write_text(json.dumps({"config_file": str(config), "iteratons": 5}))
    with pytest.raises(InputError, match="did you mean --iterations"):
        check(command)


@pytest.mark.parametrize(
    "options",
    [
        ["--iterations", "5", "--generator_def#channels", "[16]", "--generator_def::channels=[16]"],
        [
            "--generator_def#channels#0",
            "16",
            "--generator_def#num_train_timesteps",
            "9",
            "--generator_def#_mode_=debug",
        ],
        ["--generator_def#space_to_depth", "2"],
        ["--workspace", "$@bundle_root + '#'", "--meta_file", "x.json", "--run_id", "run"],
        [],
    ],
)
def test_accepts(config, options, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    check([MONAI, "run", "--config_file", f"['{config}']", *options])
    assert sys.excepthook is not sys.__excepthook__


def test_leaves_other_programs_alone(config):
    check(["/bin/vessel-uda", "adapt", "--iteratons", "5", "--config_file", str(config)])
    assert sys.excepthook.__module__ != "monai_vessel_uda.engines.command_line"


def test_overrides_inside_definitions_that_the_settings_do_not_show_are_recorded():
    """As the same overrides are by ``vessel-uda``, so that either may continue what the other began."""
    config = bundles_folder() / "ddpm_pretrain" / "configs" / "train.json"
    options = ["--schedule#beta_end", "0.01", "--generator_def#channels", "[8]", "--batch_size=2", "--device", "cpu"]
    given = [MONAI, "run", "--config_file", str(config), *options]
    assert recorded({"t0": 5}, given) == {"t0": 5, "overrides": {"schedule.beta_end": "0.01"}}
    assert recorded({"t0": 5}, given[:4]) == {"t0": 5}
    assert recorded({"t0": 5, "overrides": {"a": "1"}}, ["vessel-uda", *given[1:]]) == {
        "t0": 5,
        "overrides": {"a": "1"},
    }
    overrides = {"schedule#beta_end": 0.01, "generator_def#channels": [8], "batch_size": 2}
    workflow = bundle_workflow([config], config.parent.parent, overrides)
    assert workflow.parser.get("settings")["overrides"] == {"schedule.beta_end": "0.01"}


@pytest.mark.slow
def test_one_line_and_exit_code_2(tmp_path):
    """From a folder of its own, as a user meets it: misspelt, '#', and a workspace that is not there."""
    config = bundles_folder() / "ddpm_pretrain" / "configs" / "train.json"
    for options, message in (
        (["--iteratons", "5"], "error: --iteratons: no config that was given has this id; did you mean --iterations?"),
        (["--generator_def#chanels", "[8]"], "has this id; did you mean --generator_def#channels?"),
        (["--workspace", str(tmp_path / "a#1")], "a path with '#' cannot be used"),
        (["--workspace", str(tmp_path / "missing")], "missing/manifest.json: no such manifest"),
    ):
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(config), *options]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert result.returncode == 2, result.stderr[-2000:]
        assert "Traceback" not in result.stdout + result.stderr
        last = result.stderr.strip().splitlines()[-1]
        assert last.startswith("error: ") and message in last
    assert not list(tmp_path.iterdir())
