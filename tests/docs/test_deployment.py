"""The commands of docs/deployment.md, run as they are written."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from monai_vessel_uda.data.images import read_mask

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "deployment.md").read_text()
COMMANDS = [
    (match.group(1), match.group(2))
    for match in re.finditer(r"<!-- (run[^>]*|not run[^>]*) -->\n```bash\n(.*?)```", TEXT, re.S)
]
RUN_HERE = [block for mark, block in COMMANDS if mark == "run"]


def first_words(block):
    return " ".join(block.split()[:6])


def test_every_block_says_where_it_is_run():
    assert len(re.findall(r"```bash", TEXT)) == len(COMMANDS)
    assert len(RUN_HERE) >= 7
    for mark, _ in COMMANDS:
        if mark.startswith("run by "):
            assert (ROOT / mark.removeprefix("run by ")).exists(), mark
    assert [mark for mark, _ in COMMANDS if mark.startswith("not run")] == ["not run: needs a GPU"]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(RUN_HERE)), ids=[first_words(block) for block in RUN_HERE])
def test_commands(number, adapted, phantoms, tmp_path):
    pytest.importorskip("onnxruntime")
    images = tmp_path / "images"
    shutil.copytree(phantoms["evaluation"] / "images", images)
    results = tmp_path / "results"
    results.mkdir()
    workspace = adapted
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "WORKSPACE": str(workspace),
        "BUNDLE": str(workspace / "vessel_segmentation"),
        "IMAGES": str(images),
        "LABELLED": str(phantoms["supervised"]),
        "RESULTS": str(results),
    }
    before = {path: path.stat().st_mtime_ns for path in workspace.rglob("*") if path.is_file()}
    command = ["bash", "-euo", "pipefail", "-c", RUN_HERE[number]]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=400)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    after = {path: path.stat().st_mtime_ns for path in workspace.rglob("*") if path.is_file()}
    assert before == after, "the adaptation itself is left alone"
    masks = [path for path in results.rglob("*_vessels.png")]
    assert (
        masks or list(results.rglob("*_vessels.nii.gz")) or list(results.glob("*.csv")) or (results / "tuned").exists()
    )
    for mask in masks:
        assert read_mask(mask).shape == (64, 64)
