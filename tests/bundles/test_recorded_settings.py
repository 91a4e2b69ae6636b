"""A finished stage is skipped if its recorded settings are the same: they must hold whatever determines its result."""

import re

import pytest

from monai_vessel_uda.files import load_json
from monai_vessel_uda.settings import bundles_folder

STAGES = ("ddpm_pretrain/train", "latent_mining/mine", "latent_mining/train", "co_optimization/train")
DO_NOT_DETERMINE_THE_RESULT = {
    *("bundle_root", "dataset_dir", "workspace", "track"),  # where things are
    *("num_workers", "sw_batch_size"),  # how fast
    *("sample_steps", "sampled_patches"),  # the pictures beside the weights
    # how often a checkpoint is written
    *("iterations_per_epoch", "segmenter_iterations_per_epoch"),
    *("round_iterations_per_epoch", "refine_iterations_per_epoch"),
}
FIXED = {"spatial_dims", "in_channels", "out_channels"}
"""Parts of a network's definition that the method prescribes."""


def references(value):
    """Ids that a config's value names, however deep."""
    if isinstance(value, dict):
        return set().union(*map(references, value.values()))
    if isinstance(value, list):
        return set().union(*map(references, value))
    return set(re.findall(r"@([\w#]+)", value)) if isinstance(value, str) else set()


def reached(config):
    """Ids that the recorded settings depend on, over any number of steps."""
    found, new = set(), references(config["settings"])
    while new:
        found |= new
        new = set().union(*(references(config.get(name.split("#")[0])) for name in new)) - found
    return found


@pytest.mark.parametrize("name", STAGES)
def test_whatever_determines_a_stage_is_recorded(name):
    bundle, file = name.split("/")
    config = load_json(bundles_folder() / bundle / "configs" / f"{file}.json")
    plain = {
        key
        for key, value in config.items()
        if not isinstance(value, dict) and not (isinstance(value, (str, list)) and references(value))
        if not (isinstance(value, str) and value.startswith(("$", "%"))) and not key.startswith("_")
    } - {"imports", "initialize", "run", "finalize", "check_weights", "flips", "settings"}
    parts = {
        f"{key}#{part}"
        for key, value in config.items()
        if key.endswith("_def") and isinstance(value, dict)
        for part in value
        if not part.startswith("_") and part not in FIXED
    }
    assert (plain | parts) - reached(config) - DO_NOT_DETERMINE_THE_RESULT == set()
