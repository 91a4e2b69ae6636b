"""``vessel-uda import-generator``: networks of monai-generative itself become results of stage 1."""

import errno
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from typer.testing import CliRunner

from monai_vessel_uda import pipeline
from monai_vessel_uda.cli import app
from monai_vessel_uda.diffusion import MaskConditionedUNet
from monai_vessel_uda.engines import generator_import
from monai_vessel_uda.engines.generative import FIRST
from monai_vessel_uda.engines.stage import Stage
from monai_vessel_uda.files import load_json, sha256, working_alone
from monai_vessel_uda.settings import bundles_folder, device_override, resolve_settings
from monai_vessel_uda.weights import load_weights

from .conftest import TINY
from .docs.commands import bash, block, replaced
from .parity.library import NETWORK, generative_unet

pytestmark = pytest.mark.usefixtures("logging_restored")


def run(workspace, checkpoint, domain="target", *options, **settings):
    arguments = ["import-generator", str(workspace), str(checkpoint), "--domain", domain, "--preset", "demo"]
    return CliRunner().invoke(app, [*arguments, *on_the_command_line({**TINY, **settings}), *options])


def on_the_command_line(settings):
    pairs = [part for name, value in settings.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    return ["--device", "cpu", *pairs]


def content(folder):
    """Everything below a folder, and when it was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def saved(path, network, change=lambda state: state):
    torch.save(change(dict(network.state_dict())), path)
    return path


def assert_refused(workspace, checkpoint, *parts, domain="target", **settings):
    """Expect one line that holds all parts, code 2 and nothing changed; returns the line."""
    before = content(workspace)
    result = run(workspace, checkpoint, domain, **settings)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line
    assert result.stdout == ""
    assert content(workspace) == before
    return line


def test_imported_generators_replace_the_first_stage(workspace, tmp_path):
    networks = {"source": generative_unet(8, 4, **NETWORK, seed=1), "target": generative_unet(4, 4, **NETWORK, seed=2)}
    for domain, network in networks.items():
        checkpoint = saved(tmp_path / f"{domain}.pth", network)
        result = run(workspace, checkpoint, domain)
        assert result.exit_code == 0, result.output
        folder = workspace / "stages" / f"ddpm_{domain}"
        assert result.stdout == f"generator: {folder}\n"
        assert "far above a trained generator's" in result.stderr  # its weights are random
        assert {path.name for path in folder.iterdir()} == {
            "weights.pt",
            "weights.json",
            "samples.png",
            "begun.json",
            "stage.json",
        }
        origin = {"file": str(checkpoint), "sha256": sha256(checkpoint), "key": None}
        assert load_json(folder / "weights.json")["imported_from"] == origin
        record = load_json(folder / "stage.json")
        assert record["results"]["imported_from"] == origin
        assert record["results"]["noise_prediction_error"] > 0.5
    assert [path.name for path in (workspace / "stages").iterdir() if path.name.startswith(".")] == []

    settings = resolve_settings("demo", {**TINY, **device_override("cpu"), "seed": 3})
    source, target, mine, *_ = pipeline.stages(baselines=False, upper_bound=False)
    assert [pipeline.run_step(workspace, step, settings) for step in (source, target)] == [False, False]
    assert pipeline.run_step(workspace, mine, settings)
    mined = workspace / "stages" / "latent_mining"
    assert (mined / "stage.json").exists() and list((mined / "pairs").glob("*.pt"))

    ours = MaskConditionedUNet(**NETWORK, space_to_depth=2).eval()
    load_weights(ours, workspace / "stages" / "ddpm_source" / "weights.pt")
    x_t, mask, timesteps = torch.randn(2, 1, 16, 16), torch.ones(2, 1, 16, 16), torch.tensor([0, 999])
    with torch.no_grad():
        expected = pixel_shuffle(networks["source"](pixel_unshuffle(torch.cat([x_t, mask], 1), 2), timesteps), 2)
        assert (ours(x_t, timesteps, mask) - expected).abs().max() < 1e-5


def test_an_imported_generator_is_not_trained_over(workspace, tmp_path):
    """By ``python -m monai.bundle run``, which knows of no pipeline that would skip the stage."""
    assert run(workspace, saved(tmp_path / "c.pt", generative_unet(4, 4, **NETWORK))).exit_code == 0
    before = content(workspace / "stages")
    files = [bundles_folder() / "ddpm_pretrain" / "configs" / "train.json", bundles_folder() / "presets" / "demo.json"]
    known = load_json(files[0])
    options = [f"--{key}={value}" for key, value in TINY.items() if key.split("#")[0] in known]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str([str(file) for file in files])]
    done = subprocess.run([*command, f"--workspace={workspace}", *options], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"error: {workspace}/stages/ddpm_target: this generator was imported from {tmp_path}/c.pt" in done.stderr
    assert content(workspace / "stages") == before


@pytest.mark.slow
def test_the_commands_of_the_page(phantoms, tmp_path):
    """Words for words but for the size of everything: two generators in, a segmenter out."""
    for domain in ("source", "target"):
        saved(tmp_path / f"{domain}.pt", generative_unet(4, 4, **NETWORK))
    small = f"--preset small {shlex.join(on_the_command_line(TINY))}"
    words = {f"--domain {domain} --preset small": f"--domain {domain} {small}" for domain in ("source", "target")}
    words["adapt $WORKSPACE --preset small"] = f"adapt $WORKSPACE --no-baselines {small}"
    commands = replaced(block("deployment.md", "Generators (2)").text, words)
    workspace = tmp_path / "workspace"
    done = bash(commands, tmp_path, WORKSPACE=workspace, FUNDUS=phantoms["source"], OCTA=phantoms["target"])
    for domain in ("source", "target"):
        weights = workspace / "stages" / f"ddpm_{domain}" / "weights.json"
        assert load_json(weights)["imported_from"]["sha256"] == sha256(tmp_path / f"{domain}.pt")
    assert (workspace / "vessel_segmentation" / "models" / "model.pt").exists()
    assert done.stdout.count("generator: ") == 2 and "segmenter: " in done.stdout


def test_the_same_import_again_changes_nothing_and_another_is_refused(workspace, tmp_path):
    first = saved(tmp_path / "first.pt", generative_unet(4, 4, **NETWORK))
    assert run(workspace, first).exit_code == 0
    before = content(workspace)
    copy = shutil.copy(first, tmp_path / "copy.pt")
    result = run(workspace, copy)
    assert result.exit_code == 0 and "imported before, skipped" in result.stderr
    assert content(workspace) == before
    other = saved(tmp_path / "other.pt", generative_unet(4, 4, **NETWORK, seed=1))
    assert_refused(workspace, other, "ddpm_target", "first.pt", "delete")
    assert_refused(workspace, first, "learning_rate", "other settings", "delete", learning_rate=0.5)


@pytest.mark.parametrize("finished", [False, True])
def test_a_trained_stage_is_left_alone(workspace, tmp_path, finished):
    folder = workspace / "stages" / "ddpm_target"
    stage = Stage(workspace, "ddpm_target", folder, {"seed": 3}, tracking=False).start()
    if finished:
        stage.finish()
    checkpoint = saved(tmp_path / "c.pt", generative_unet(4, 4, **NETWORK))
    found = "found a finished one" if finished else "found an unfinished one"
    assert_refused(workspace, checkpoint, str(folder), found)


def test_no_import_beside_another_command(workspace, tmp_path):
    checkpoint = saved(tmp_path / "c.pt", generative_unet(4, 4, **NETWORK))
    with working_alone(workspace):
        assert_refused(workspace, checkpoint, f"{workspace}: another command works in this folder")
    assert run(workspace, checkpoint).exit_code == 0


def shell(path):
    """A pickle that runs a command when it is loaded without protection."""

    class Command:
        def __reduce__(self):
            return os.system, (f"touch {path.with_name('ran')}",)

    torch.save({"state_dict": Command()}, path)


FILES = {
    "nothing": (lambda path: None, ["c.pt"]),
    "a folder": (lambda path: path.mkdir(), ["c.pt"]),
    "text": (lambda path: path.write_text("weights"), ["c.pt", "expected a file of tensors"]),
    "code": (shell, ["c.pt", "could run code"]),
    "a tensor": (lambda path: torch.save(torch.zeros(3), path), [FIRST]),
    "a segmenter": (lambda path: saved(path, nn.Conv2d(1, 2, 3)), [FIRST]),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_checkpoint(workspace, tmp_path, name):
    make, parts = FILES[name]
    make(tmp_path / "c.pt")
    assert_refused(workspace, tmp_path / "c.pt", *parts)
    assert not (tmp_path / "ran").exists()


OTHERS = {
    "colour": ({"in_channels": 3, "out_channels": 3}, ["grey images", "found 3 and 3"]),
    "image, mask and more": ({"in_channels": 12}, ["grey images", "found 12 and 4"]),
    "classes": ({"num_class_embeds": 2}, ["'class_embedding.weight'", "expected none", "(2, 32)", "Only plain"]),
    "text": ({"with_conditioning": True, "cross_attention_dim": 8}, ["'middle_block.attention.", "Only plain"]),
    "residual resampling": ({"resblock_updown": True}, ["'down_blocks.0.downsampler", "found none", "Only plain"]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_networks_that_ours_cannot_be(workspace, tmp_path, name):
    options, parts = OTHERS[name]
    network = generative_unet(**{"in_channels": 4, "out_channels": 4, **NETWORK, **options})
    checkpoint = saved(tmp_path / "c.pt", network)
    assert_refused(workspace, checkpoint, "c.pt", *parts)


@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        ({"channels": (16, 32)}, ["(8, 8, 3, 3)", "(16, 8, 3, 3)"]),
        ({"channels": (8, 16, 16), "attention_levels": (False, True, True)}, ["(24,)", "(32,)"]),
        ({"num_res_blocks": (2, 1), "in_channels": 1, "out_channels": 1}, ["(8, 8, 3, 3)", "(8, 1, 3, 3)"]),
    ],
)
def test_another_architecture_comes_with_the_settings_it_needs(workspace, tmp_path, options, shapes):
    network = generative_unet(**{"in_channels": 8, "out_channels": 4, **NETWORK, **options})
    checkpoint = saved(tmp_path / "c.pt", network)
    line = assert_refused(workspace, checkpoint, "tensor '", *shapes, "norm_num_groups")
    advised = shlex.split(" ".join(re.findall(r"--set '[^']+'", line)))
    result = run(workspace, checkpoint, "target", *advised)
    assert result.exit_code == 0, result.output
    definition = load_json(workspace / "stages" / "ddpm_target" / "stage.json")["settings"]
    assert definition["channels"] == list({**NETWORK, **options}["channels"])


def test_volumes_are_refused(workspace, tmp_path):
    state = {
        name: t[..., None] if t.ndim == 4 else t for name, t in generative_unet(4, 4, **NETWORK).state_dict().items()
    }
    torch.save(state, tmp_path / "c.pt")
    assert_refused(workspace, tmp_path / "c.pt", "(8, 4, 3, 3, 1)")


def drop(name):
    return lambda state: {key: value for key, value in state.items() if key != name}


CHANGES = {
    "a missing tensor": (drop("time_embed.0.bias"), ["'time_embed.0.bias'", "expected shape (32,), found none"]),
    "a missing last layer": (drop("out.2.conv.weight"), ["grey images", "found 4 and 0"]),
    "one too many": (lambda state: {**state, "extra": torch.zeros(2)}, ["'extra'", "expected none, found shape (2,)"]),
    "no number": (lambda state: {**state, "out.0.bias": torch.full((8,), float("nan"))}, ["'out.0.bias'", "finite"]),
    "whole numbers": (lambda state: {**state, "out.0.bias": torch.zeros(8, dtype=torch.long)}, ["'out.0.bias'"]),
    "no tensor": (lambda state: {**state, "out.0.bias": 3}, ["'out.0.bias'"]),
    "a flat convolution": (lambda state: {**state, FIRST: torch.zeros(8, 8)}, [FIRST, "(8, 8)"]),
    "another network beside it": (
        lambda state: {**{f"unet.{name}": value for name, value in state.items()}, "encoder.bias": torch.zeros(2)},
        ["'encoder.bias'", "none of them"],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_tensor_is_used_exactly_once(workspace, tmp_path, name):
    change, parts = CHANGES[name]
    checkpoint = saved(tmp_path / "c.pt", generative_unet(4, 4, **NETWORK), change)
    assert_refused(workspace, checkpoint, "c.pt", *parts)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"schedule_name": "cosine"}, ["schedule_name", "'linear'"]),
        ({"generator_def#norm_num_groups": 3}, ["generator_def", "norm_num_groups"]),
        ({"generator_def#chanels": [8]}, ["generator_def", "chanels"]),
        ({"patches": 3}, ["'patches'", "no stage has"]),
    ],
)
def test_settings_that_cannot_be(workspace, tmp_path, settings, parts):
    assert_refused(workspace, saved(tmp_path / "c.pt", generative_unet(4, 4, **NETWORK)), *parts, **settings)


def test_nothing_half_written_where_the_images_cannot_be_used(workspace, tmp_path):
    checkpoint = saved(tmp_path / "c.pt", generative_unet(4, 4, **NETWORK))
    result = run(workspace, checkpoint, patch_size=512)
    assert result.exit_code == 2 and "patch" in result.stderr
    assert not (workspace / "stages").exists()


def test_nothing_half_written_where_the_disk_is_full(workspace, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(generator_import, "save_samples", full)  # after the weights
    result = run(workspace, saved(tmp_path / "c.pt", generative_unet(4, 4, **NETWORK)))
    assert result.exit_code == 2 and "the disk is full" in result.stderr
    assert list((workspace / "stages").iterdir()) == []


def test_no_workspace_and_no_such_domain(workspace, tmp_path):
    checkpoint = saved(tmp_path / "c.pt", generative_unet(4, 4, **NETWORK))
    assert_refused(workspace, checkpoint, "'source' or 'target'", "'retina'", domain="retina")
    result = run(tmp_path / "nowhere", checkpoint)
    assert result.exit_code == 2 and "manifest.json" in result.stderr
    assert not (tmp_path / "nowhere").exists()
