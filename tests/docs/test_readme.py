"""The commands of the README and of the method's page, run as they are written."""

import shutil
from collections import defaultdict

import pytest
import torch

from monai_vessel_uda.data.images import read_mask
from monai_vessel_uda.files import load_json, save_json
from monai_vessel_uda.settings import preset_overrides

from ..conftest import TINY
from .commands import ROOT, bash, block, replaced


@pytest.fixture
def repository(tmp_path):
    """A copy with one more preset, that of the tests."""
    for name in ("bundles", "monai_vessel_uda"):
        shutil.copytree(ROOT / name, tmp_path / "repository" / name, ignore=shutil.ignore_patterns("__pycache__"))
    preset, parts = {"about": "For tests."}, defaultdict(dict)
    for key, value in {**preset_overrides("demo"), **TINY}.items():
        definition, _, part = key.partition("#")
        if part:
            parts[f"+{definition}"][part] = value
        else:
            preset[key] = value
    save_json(preset | parts, tmp_path / "repository" / "bundles" / "presets" / "tiny.json")
    return tmp_path / "repository"


@pytest.mark.slow
def test_all_bundles_by_themselves_are_an_adaptation(repository, phantoms, adapted, tmp_path):
    workspace, masks = tmp_path / "w", tmp_path / "masks"
    folders = {"FUNDUS": phantoms["source"], "OCTA": phantoms["target"], "IMAGES": phantoms["evaluation"] / "images"}
    words = {"WORKSPACE": workspace, **folders, "MASKS": masks, "PRESET=small": "PRESET=tiny"}
    seed = {"vessel-uda prepare": "vessel-uda prepare --seed 3"}
    as_here = {"PYTHONPATH": repository, "OMP_NUM_THREADS": torch.get_num_threads()}  # other threads, other bits
    bash(replaced(block("README.md", "The bundles").text, words | seed), repository, **as_here)
    assert len([read_mask(path) for path in masks.glob("*_vessels.png")]) == 2
    name = "stages/co_optimization/weights.pt"
    assert (workspace / name).read_bytes() == (adapted / name).read_bytes(), "the same as by `vessel-uda adapt`"
    assert load_json(workspace / "settings.json")["preset"] == "tiny"
    assert (workspace / "report.html").is_file()


def test_the_example_of_the_method():
    found: dict = {}
    exec(block("latent_mining.md", "Example").text, found)
    assert found["images"].shape == found["latents"].shape == found["x_a"].shape
    assert torch.isfinite(found["images"]).all()
