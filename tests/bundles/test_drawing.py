"""Stage 1's inference: image and mask pairs from a trained generator, as a folder that can be read back."""

import numpy as np
import pytest

from monai_vessel_uda.data.images import read_image, read_mask
from monai_vessel_uda.data.layouts import find_items
from monai_vessel_uda.files import load_json
from monai_vessel_uda.settings import bundle_folder, bundles_folder, load_preset
from monai_vessel_uda.weights import save_weights

from ..conftest import TINY
from ..docs.commands import ROOT, bash, block, replaced


@pytest.mark.parametrize("weights", ["stages/ddpm_source", "stages/co_optimization/round_02/generator"])
def test_draws_pairs(adapted, tmp_path, weights):
    from monai.bundle import ConfigWorkflow

    config = bundle_folder("ddpm_pretrain") / "configs" / "inference.json"
    options = {key: value for key, value in TINY.items() if key.split("#")[0] in load_json(config)}
    workflow = ConfigWorkflow(
        [str(config)],
        logging_file=False,
        workflow_type=None,
        workspace=str(adapted),
        patches_of="source",
        generator_weights=str(adapted / weights / "weights.pt"),
        images=5,
        output_dir=str(tmp_path / "drawn"),
        cache_dir=str(tmp_path / "cache"),
        **options,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    assert_pairs(tmp_path / "drawn", 5, TINY["patch_size"])


def test_the_network_is_told_the_timesteps_of_the_schedule():
    """It is given t / T: with another T it would be asked for other timesteps than the sampler's."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(bundle_folder("ddpm_pretrain") / "configs" / "inference.json"))
    parser["schedule#num_train_timesteps"] = 500
    for name, value in TINY.items():
        if name.startswith("generator_def"):
            parser[name] = value
    assert parser.get_parsed_content("network_def").num_train_timesteps == 500


@pytest.mark.slow
def test_the_command_of_the_page(workspace, tmp_path):
    """As it is written but for the number of images; the generator has the size of the preset, and random weights."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(
        [str(bundles_folder() / name) for name in ("ddpm_pretrain/configs/inference.json", "presets/small.json")]
    )
    last = f"round_{load_preset('small')['rounds']:02d}"
    weights = workspace / "stages" / "co_optimization" / last / "generator" / "weights.pt"
    weights.parent.mkdir(parents=True)
    save_weights(parser.get_parsed_content("network_def"), weights)
    command = replaced(block("deployment.md", "Generators").text, {"--images 64": "--images 8"})
    bash(command, ROOT, WORKSPACE=workspace, RESULTS=tmp_path / "drawn")
    assert_pairs(tmp_path / "drawn", 8, parser["patch_size"])


def assert_pairs(folder, number, size):
    items = find_items(folder, domain="source", labels="required")
    assert len(items) == number
    fractions = []
    for item in items:
        image, mask = read_image(item["image"]).array, read_mask(item["label"])
        assert image.shape == mask.shape == (size, size)
        assert image.dtype == np.uint8 and image.std() > 0
        fractions.append(mask.mean())
    assert 0 < max(fractions) < 0.7
