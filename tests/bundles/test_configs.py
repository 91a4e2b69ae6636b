"""The configs themselves: they parse, wire real things with full names, and run as MONAI runs them."""

import re
import subprocess
import sys
from pathlib import Path
from pydoc import locate

import pytest
import torch

from monai_vessel_uda.files import load_json, load_tensors
from monai_vessel_uda.settings import bundles_folder, load_preset, preset_overrides
from monai_vessel_uda.workflows import bundle_workflow

from ..conftest import TINY

CONFIGS = sorted(path for path in bundles_folder().glob("*/configs/*.json") if path.name != "metadata.json")

OVERLAYS = {
    "evaluate.json": ["inference.json"],
    "segment.json": ["inference.json"],
    "score.json": ["inference.json", "segment.json"],
    "inference_onnx.json": ["inference.json"],
    "inference_torchscript.json": ["inference.json"],
    "multi_gpu_inference.json": ["inference.json"],
    "multi_gpu_train.json": ["train.json"],
    "multi_gpu_mine.json": ["mine.json"],
}
"""Configs that are laid over others."""
TRAININGS = [
    path for path in CONFIGS if path.parts[-3] != "vessel_segmentation" and path.stem in ("train", "mine", "inference")
]
PRESETS = sorted((bundles_folder() / "presets").glob("*.json"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_targets_are_full_names_of_things_that_exist(path):
    text = path.read_text()
    targets = re.findall(r'"_target_":\s*"([^"]+)"', text)
    assert targets or path.name in OVERLAYS
    for target in targets:
        assert "." in target
        assert locate(target) is not None, target
    assert "lambda" not in text
    if path.parts[-3] != "vessel_segmentation":  # with MONAI alone an expression is the only way
        assert " for " not in text


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_references_name_ids_of_the_same_config(path):
    ids = set(load_json(path))
    for below in OVERLAYS.get(path.name, []):
        ids |= set(load_json(path.with_name(below)))
    for reference in re.findall(r"@([A-Za-z_]\w*)", path.read_text()):
        assert reference in ids, reference


@pytest.mark.parametrize("bundle", ["ddpm_pretrain", "latent_mining", "co_optimization", "vessel_segmentation"])
def test_bundles_are_complete(bundle):
    folder = bundles_folder() / bundle
    files = ("configs/metadata.json", "configs/inference.json", "configs/train.json", "configs/logging.conf")
    for file in (*files, "docs/README.md", "docs/data_license.txt", "LICENSE"):
        assert (folder / file).stat().st_size > 100, file
    assert load_json(folder / "configs" / "metadata.json")["version"]
    page = (folder / "docs" / "README.md").read_text()
    sections = re.findall(r"^## (.+)$", page, re.MULTILINE)
    for title in ("Data", "MONAI Bundle Commands", "Input", "Output", "Performance", "Limits", "References", "License"):
        assert title in sections, title
    assert any(title.startswith("Keys") for title in sections)
    assert "not a medical device" in page
    for config in (folder / "configs").glob("*.json"):
        assert config.name in page or config.name == "metadata.json", f"{config.name} is not explained"


def at(config, key):
    for part in key.split("#"):
        config = config[part]
    return config


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
@pytest.mark.parametrize("path", TRAININGS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
@pytest.mark.filterwarnings("ignore:Can't merge entry")  # a definition that this bundle does not have
def test_a_preset_laid_over_a_bundle_arrives(path, preset):
    from monai.bundle import ConfigParser

    config, merged = load_json(path), ConfigParser.load_config_files([str(path), str(preset)])
    overrides = {key: v for key, v in preset_overrides(preset.stem).items() if key.split("#")[0] in config}
    assert overrides or preset.stem in ("full", "paper")
    for key, value in overrides.items():
        at(config, key)  # an id that the bundle has
        assert at(merged, key) == value, key
        *parents, last = key.split("#")
        (at(config, "#".join(parents)) if parents else config)[last] = value
    assert {key: merged[key] for key in config} == config, "and nothing else changes"


def test_presets_say_what_they_are():
    assert {path.stem for path in PRESETS} == {"demo", "full", "paper", "small"}
    ids = {key for path in CONFIGS for key in load_json(path)}
    assert "about" not in ids
    for path in PRESETS:
        preset = load_preset(path.stem)
        assert len(preset["about"]) > 30
        assert {key.split("#")[0] for key in preset_overrides(path.stem)} <= ids
    small = preset_overrides("small")
    assert (small["patch_size"], small["generator_def#channels"]) == (64, [16, 32, 64, 96])


def test_the_target_generator_may_start_from_the_source_s(adapted):
    root, weights = bundles_folder() / "ddpm_pretrain", adapted / "stages" / "ddpm_source" / "weights.pt"
    for domain, warm in (("target", True), ("target", False), ("source", True)):
        options = {**TINY, "workspace": str(adapted), "domain": domain, "warm_start": warm}
        parser = bundle_workflow([root / "configs" / "train.json"], root, options).parser
        found, source = parser.get_parsed_content("network").state_dict(), load_tensors(weights)
        same = all(torch.equal(found[name], source[name]) for name in source)
        assert same is (parser.get_parsed_content("settings")["warm_start"]) is (domain == "target" and warm)


@pytest.mark.slow
def test_monai_runs_a_stage_and_the_inference(workspace, adapted, phantoms, tmp_path):
    """``python -m monai.bundle run`` in a folder of its own gives what the pipeline gives, to the bit."""

    def run(config, preset, **overrides):
        path = bundles_folder() / config
        files = str([str(path), str(bundles_folder() / "presets" / preset)])
        arguments = [f"--{key}={value}" for key, value in overrides.items()]
        known = set(load_json(path))
        arguments = [a for a in arguments if a[2:].split("=")[0].split("#")[0] in known]
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", files, *arguments]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert result.returncode == 0, result.stdout[-1500:] + result.stderr[-1500:]

    options = {"workspace": str(workspace), "domain": "source", "device": "$torch.device('cpu')", **TINY}
    run("ddpm_pretrain/configs/train.json", "demo.json", **options)
    name = Path("stages") / "ddpm_source" / "weights.pt"
    assert (workspace / name).read_bytes() == (adapted / name).read_bytes()
    bundle = adapted / "vessel_segmentation"
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(bundle / "configs" / "inference.json")]
    command += ["--bundle_root", str(bundle), "--dataset_dir", str(phantoms["evaluation"] / "images")]
    result = subprocess.run(
        [*command, "--output_dir", str(tmp_path / "out")], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 0, result.stdout[-1500:] + result.stderr[-1500:]
    assert len(list((tmp_path / "out").glob("*_vessels.png"))) == 2
