"""Starting two processes as a user does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from monai_vessel_uda.files import load_json
from monai_vessel_uda.settings import bundles_folder

from ..conftest import TINY

SECONDS = 150
"""After so long a job counts as hanging."""


def torchrun(*command, processes=2):
    """Run ``torchrun --nproc_per_node 2 command``; returns what ``subprocess.run`` does."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    # As many threads as here: sums over other numbers of threads have other last bits.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.run(
        [*launcher, *map(str, command)], capture_output=True, text=True, timeout=SECONDS, env=environment
    )


def run_bundle(bundle, config, overlay, **overrides):
    """Run a config with its overlay for several processes, at the scale of the fixture ``adapted``."""
    folder = bundles_folder() / bundle / "configs"
    files = [folder / config, bundles_folder() / "presets" / "demo.json", folder / overlay]
    known = set(load_json(folder / config))
    options = {key: value for key, value in TINY.items() if key.split("#")[0] in known}
    arguments = [f"--{key}={value}" for key, value in {**options, **overrides}.items()]
    return torchrun("-m", "monai.bundle", "run", "--config_file", str([str(file) for file in files]), *arguments)


def copy_without(workspace, destination, *parts):
    """A copy of a finished workspace in which some files or folders (patterns below ``stages``) are missing."""
    copy = Path(shutil.copytree(workspace, destination))
    for pattern in parts:
        paths = list((copy / "stages").glob(pattern))
        assert paths, pattern
        for path in paths:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return copy


def losses(folder):
    """Rows (iteration, loss) of a training."""
    rows = (folder / "losses.csv").read_text().splitlines()[1:]
    return torch.tensor([[float(value) for value in row.split(",")] for row in rows])
