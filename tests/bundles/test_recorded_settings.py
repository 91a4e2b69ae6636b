"""A finished stage is skipped if its recorded settings are the same: they must hold whatever determines its result."""

import pytest

from monai_vessel_uda import pipeline
from monai_vessel_uda.config_ids import reached, references
from monai_vessel_uda.files import load_json
from monai_vessel_uda.settings import bundles_folder, resolve_settings

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
    assert (plain | parts) - reached(config, "settings") - DO_NOT_DETERMINE_THE_RESULT == set()


def recorded(preset, **overrides):
    """Settings that each stage of an adaptation would record."""
    found = []
    for step in pipeline.stages(baselines=False, upper_bound=False):
        parser = pipeline.stage_workflow("workspace", step, resolve_settings(preset, {"seed": 0, **overrides})).parser
        parser.parse(True)
        found.append(parser.get_parsed_content("settings"))
    return found


def test_preset_paper_is_what_the_configs_are_by_themselves():
    """So that `adapt --preset paper` goes on with stages that were run without a preset."""
    for step, settings in zip(pipeline.stages(False, False), recorded("paper"), strict=True):
        parser = pipeline.stage_workflow("workspace", step, {"seed": 0}).parser
        parser.parse(True)
        assert parser.get_parsed_content("settings") == settings


@pytest.mark.parametrize("preset", ["full", "small", "demo", "paper"])
def test_presets_need_no_overrides_besides_the_settings(preset):
    assert not any("overrides" in settings for settings in recorded(preset))


def test_parts_of_definitions_that_no_setting_shows_are_recorded():
    of_schedule, of_loss, plain = (
        recorded("demo", **overrides)
        for overrides in (
            {"schedule#beta_end": 0.01},
            {"generator_loss::dilation": "$1 + 1", "inferer#mode": "constant"},
            {"augmentation#noise": 0.1, "num_workers": 2, "generator_def#num_res_blocks": 1},
        )
    )
    source, target, mining, *segmenters, rounds = of_schedule
    assert all(s["overrides"] == {"schedule.beta_end": "0.01"} for s in (source, target, mining, rounds))
    assert not any("overrides" in settings for settings in segmenters)
    assert of_loss[-1]["overrides"] == {"generator_loss.dilation": '"$1 + 1"', "inferer.mode": '"constant"'}
    assert not any("overrides" in settings for settings in plain)
