"""The page on several processes names configs that exist, and its batch script is one that a shell can read."""

import re
import subprocess
from pathlib import Path

from monai_vessel_uda.settings import bundles_folder

PAGE = Path(__file__).parents[2] / "docs" / "several_processes.md"


def test_configs_exist_and_each_overlay_is_explained():
    named = set(re.findall(r"(?<![$\w])(\w+/configs/\w+\.json)", PAGE.read_text()))
    assert not [name for name in named if not (bundles_folder() / name).exists()]
    overlays = {path.relative_to(bundles_folder()) for path in bundles_folder().glob("[!v]*/configs/multi_gpu_*.json")}
    assert len(overlays) == 4
    assert {str(path) for path in overlays} <= named
    assert "$V/configs/multi_gpu_inference.json" in PAGE.read_text()


def test_the_batch_script_is_shell():
    (script,) = re.findall(r"```\n(#!/bin/bash\n.*?)```", PAGE.read_text(), re.DOTALL)
    result = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_batch_script_runs_what_is_not_finished(tmp_path):
    """With Slurm's programs replaced by ones that print what they were asked for."""
    (script,) = re.findall(r"```\n(#!/bin/bash\n.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "stages" / "ddpm_source").mkdir(parents=True)
    (tmp_path / "stages" / "ddpm_source" / "stage.json").touch()
    stubs = 'srun() { echo "$@"; }; scontrol() { printf "node1\\nnode2\\n"; }; source() { :; }\n'
    environment = {"PATH": "/usr/bin:/bin", "WORKSPACE": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2"}
    result = subprocess.run(["bash"], input=stubs + script, text=True, capture_output=True, env=environment)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 7, "two generators less the finished one, the mining, four segmenters, the rounds"
    assert all("--nnodes 2" in line and "--rdzv_endpoint node1:29500" in line for line in lines)
    assert lines[0].endswith(f"--workspace {tmp_path} --domain target")
    assert lines[2].endswith("--training_set mined")
