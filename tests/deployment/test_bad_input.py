"""What users give by mistake or others by intent: one clear line, exit code 2, nothing changed on disk."""

import shutil
import zipfile

import pytest
import torch
from typer.testing import CliRunner

from monai_vessel_uda.cli import app
from monai_vessel_uda.deployment.archive import package_bundle


class Pickle:
    def __reduce__(self):
        return (open, ("/nowhere", "w"))


def break_bundle(bundle, fault):
    weights = bundle / "models" / "model.pt"
    if fault == "no weights":
        weights.unlink()
    elif fault == "pickle":
        torch.save(Pickle(), weights)
    elif fault == "other architecture":
        torch.save({name: tensor[:1] for name, tensor in torch.load(weights, weights_only=True).items()}, weights)


def content(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


COMMANDS = {
    "segment": lambda bundle, images, out: ["segment", images, out, "--bundle", bundle],
    "evaluate": lambda bundle, images, out: ["evaluate", bundle, images, "--output", out / "scores.json"],
    "package": lambda bundle, images, out: ["package", bundle, "--output", out / "bundle.zip"],
    "convert": lambda bundle, images, out: ["convert", bundle, "--to", "torchscript"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("fault", ["no weights", "pickle", "other architecture"])
def test_broken_bundles(adapted, phantoms, tmp_path, fault, command):
    bundle = shutil.copytree(adapted / "vessel_segmentation", tmp_path / "bundle")
    break_bundle(bundle, fault)
    before = content(tmp_path)
    arguments = COMMANDS[command](bundle, phantoms["evaluation"], tmp_path / "out")
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.strip()]
    assert line.startswith(f"error: {bundle}")
    assert content(tmp_path) == before


@pytest.mark.parametrize("name", ["../climbed.txt", "vessel_segmentation/../../climbed.txt"])
def test_zip_that_climbs_out(adapted, phantoms, tmp_path, name):
    path = package_bundle(adapted / "vessel_segmentation", tmp_path / "bundle.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "x")
    before = content(tmp_path)
    arguments = ["segment", str(phantoms["evaluation"]), str(tmp_path / "out"), "--bundle", str(path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "leads outside the folder" in result.stderr
    assert content(tmp_path) == before


def test_a_name_that_no_registry_takes(adapted, tmp_path):
    workspace = shutil.copytree(adapted, tmp_path / "workspace")
    before = content(workspace)
    result = CliRunner().invoke(app, ["adapt", str(workspace), "--registered-model", "a/b:c"])
    assert result.exit_code == 2
    assert "registered" in result.stderr
    assert content(workspace) == before
