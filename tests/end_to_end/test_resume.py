"""A run that was killed in any stage and started again ends with the same bits as one that was not."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from monai_vessel_uda.files import load_json, sha256

from ..conftest import TINY

SCRIPT = Path(__file__).with_name("killed_adapt.py")
KILLED_AFTER = [
    "ddpm_source/checkpoint.pt",
    "ddpm_target/checkpoint.pt",
    "latent_mining/pairs/00000.pt",
    "segmenters/mined/checkpoint.pt",
    "round_01/pseudo_masks.pt",
    "round_01/generator/checkpoint.pt",
    "round_01/pairs/00000.pt",
    "round_01/pairs/noise_00000.pt",
    "round_01/segmenter/checkpoint.pt",
    "round_02/generator/weights.pt",
]


def run(workspace, *ending):
    command = [sys.executable, str(SCRIPT), str(workspace), json.dumps(TINY), *ending]
    return subprocess.run(command, capture_output=True, text=True)


def results(workspace):
    paths = [*workspace.rglob("weights.pt"), *workspace.rglob("pairs/*.pt"), *workspace.rglob("pseudo_masks.pt")]
    return {str(path.relative_to(workspace)): sha256(path) for path in paths}


@pytest.mark.slow
def test_killed_in_every_stage(workspace, tmp_path):
    whole = Path(shutil.copytree(workspace, tmp_path / "whole"))
    finished = run(whole)
    assert finished.returncode == 0, finished.stderr[-2000:]
    for ending in KILLED_AFTER:
        killed = run(workspace, ending)
        assert killed.returncode == -signal.SIGKILL, (ending, killed.stderr[-2000:])
        assert any(str(path).endswith(ending) for path in workspace.rglob("*.pt")), ending
    finished = run(workspace)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert len(results(whole)) > 15
    assert results(workspace) == results(whole)
    rounds = [load_json(w / "stages" / "co_optimization" / "rounds.json") for w in (workspace, whole)]
    assert rounds[0] == rounds[1]
