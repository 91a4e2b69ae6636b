"""The configs themselves: they parse, wire real things with full names, and run as MONAI runs them."""

import re
import subprocess
import sys
from pathlib import Path
from pydoc import locate

import pytest

from monai_vessel_uda.files import load_json
from monai_vessel_uda.settings import bundles_folder, resolve_settings

from ..conftest import TINY

CONFIGS = sorted(path for path in bundles_folder().glob("*/configs/*.json") if path.name != "metadata.json")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_targets_are_full_names_of_things_that_exist(path):
    text = path.read_text()
    targets = re.findall(r'"_target_":\s*"([^"]+)"', text)
    assert targets
    for target in targets:
        assert "." in target
        assert locate(target) is not None, target
    assert "lambda" not in text
    assert " for " not in text


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_references_name_ids_of_the_same_config(path):
    config = load_json(path)
    ids = set(config)
    if path.stem == "evaluate":
        ids |= set(load_json(path.with_name("inference.json")))
    for reference in re.findall(r"@([A-Za-z_]\w*)", path.read_text()):
        assert reference in ids, reference


@pytest.mark.parametrize("bundle", ["ddpm_pretrain", "latent_mining", "co_optimization", "vessel_segmentation"])
def test_bundles_are_complete(bundle):
    folder = bundles_folder() / bundle
    for file in ("configs/metadata.json", "configs/logging.conf", "docs/README.md", "docs/data_license.txt", "LICENSE"):
        assert (folder / file).stat().st_size > 100, file
    assert load_json(folder / "configs" / "metadata.json")["version"]


@pytest.mark.slow
def test_monai_runs_the_first_two_stages_and_the_inference(workspace, adapted, phantoms, tmp_path):
    """``python -m monai.bundle run`` in a folder of its own gives what the pipeline gives, to the bit."""

    def run(config, **overrides):
        path = bundles_folder() / config
        arguments = [f"--{key}={value}" for key, value in overrides.items()]
        known = set(load_json(path))
        arguments = [a for a in arguments if a[2:].split("=")[0].split("#")[0] in known]
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(path), *arguments]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert result.returncode == 0, result.stdout[-1500:] + result.stderr[-1500:]

    device, settings = "$torch.device('cpu')", resolve_settings("demo", TINY)
    run("ddpm_pretrain/configs/train.json", workspace=str(workspace), domain="source", device=device, **settings)
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
