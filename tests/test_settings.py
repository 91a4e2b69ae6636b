"""What an adaptation refuses before it starts, rather than after hours."""

from typing import get_args

import pytest
import torch

from monai_vessel_uda.diffusion import NoiseSchedule
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.files import save_json
from monai_vessel_uda.limits import (
    AT_LEAST,
    BETWEEN,
    FROM_TO,
    MAY_BE_NULL,
    NUM_TRAIN_TIMESTEPS,
    ONE_OF,
    TRUE_OR_FALSE,
)
from monai_vessel_uda.methods.latent_mining import Decoder
from monai_vessel_uda.methods.pairs import Start
from monai_vessel_uda.settings import (
    announce,
    device_override,
    load_preset,
    preset_and_overrides,
    preset_overrides,
    resolve_settings,
)
from monai_vessel_uda.training_sets import BASELINES, CANDIDATES, STARTS, TRAINING_SETS
from monai_vessel_uda.transforms.preprocessing import Variant

from .conftest import TINY


@pytest.mark.parametrize("name", sorted(AT_LEAST))
@pytest.mark.parametrize("how", ["too small", "word", "fraction", "truth", "null"])
def test_counts_are_whole_numbers_and_large_enough(name, how):
    least = AT_LEAST[name]
    value = {"too small": least - 1, "word": "many", "fraction": least + 0.5, "truth": True, "null": None}[how]
    if value is None and name in MAY_BE_NULL:
        assert resolve_settings("demo", {name: None})[name] is None
        return
    message = f"^{name}: expected a whole number of at least {least}, got {value!r}$"
    with pytest.raises(InputError, match=message):
        resolve_settings("demo", {name: value})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"steps": 9, "t0": 9}, "t0: expected 1 to steps - 1 = 8, got 9"),
        (
            {"round_pairs": 9, "pairs": 8, "round_start": "both"},
            "round_pairs: expected at most pairs = 8, one for each mined latent, got 9",
        ),
        ({"round_start": "latents", "round_pairs": 161}, "round_pairs: expected at most pairs = 160"),
        ({"iterations": 3, "iterations_per_epoch": 2}, "iterations: expected a positive multiple of .* got 3"),
        ({"t0": 7}, r"source_timesteps: expected null or 350 \(where t0 = 7 of 20 steps lead\) to 1000, got 300"),
        ({"generation_timesteps": 299}, "generation_timesteps: expected null or 300 .* to 1000, got 299"),
        ({"generation_timesteps": 1001}, "generation_timesteps: expected null or 300 .* to 1000, got 1001"),
        ({"source_timesteps": "few"}, "source_timesteps: expected null or 300 .* got 'few'"),
        ({"confident_share": 0}, "confident_share: expected above 0 and at most 1, got 0"),
        ({"confident_share": "half"}, "confident_share: expected above 0 and at most 1, got 'half'"),
        ({"confident_share": True}, "confident_share: expected above 0 and at most 1, got True"),
        ({"min_snr_gamma": 0}, "^min_snr_gamma: expected null or a positive number, got 0"),
        ({"round_min_snr_gamma": "5"}, "round_min_snr_gamma: expected null or a positive number, got '5'"),
        ({"augmentation#gamma": [1.7, 0.6]}, "augmentation#gamma: expected two numbers .* the smaller first, got"),
        ({"augmentation#blur": [-0.3, 1.2]}, "augmentation#blur: expected two numbers from 0 on"),
        ({"augmentation#blur": 1.2}, "augmentation#blur: expected two numbers .* got 1.2"),
        ({"augmentation#blur": [0, float("inf")]}, "augmentation#blur: expected two numbers"),
        ({"augmentation": {"noise": 0}}, "augmentation: expected also blur, .* or give 'augmentation#noise' alone$"),
        ({"augmentation#gamma#0": 5}, r"augmentation#gamma: expected two numbers .* got \[5, 1.7\]"),
        ({"augmentation::blur::1": -1}, "augmentation#blur: expected two numbers from 0 on"),
        ({"segmenter_def#strides#0": 0}, "segmenter_def#strides: expected a list of whole numbers"),
        ({"initialize#99": "x"}, "override 'initialize#99': no stage has this id"),
        ({"schedule#num_train_timesteps": 500}, "generation_timesteps: expected null or 150 .* to 500, got 700"),
        ({"schedule#num_train_timesteps": "many"}, "schedule#num_train_timesteps: expected a whole number"),
        ({"patch_size": 50}, "patch_size: expected a multiple of 8, .* got 50"),
        ({"patch_size": [64, 64]}, r"patch_size: expected a multiple of 8, .* got \[64, 64\]"),
        ({"generator_def#space_to_depth": 0}, "generator_def#space_to_depth: expected a whole number of at least 1"),
        ({"generator_def#channels": 8}, "generator_def#channels: expected a list of whole numbers .* got 8"),
        ({"segmenter_def#strides": [2, 0]}, "segmenter_def#strides: expected a list of whole numbers"),
        ({"refinements": -1}, "^refinements: expected a whole number of at least 0, got -1"),
        ({"start_segmenter": ["mind"]}, "start_segmenter: expected some of mined, .*, got 'mind'"),
        ({"start_segmenter": ["aligned", "supervised"]}, "start_segmenter: .* got 'supervised'"),
        ({"start_segmenter": []}, "start_segmenter: expected some of mined"),
        ({"overlap": 1}, "overlap: expected from 0 to below 1, got 1"),
        ({"pseudo_mask_threshold": "half"}, "pseudo_mask_threshold: expected 'auto', null or .* got 'half'"),
        ({"pseudo_mask_threshold": 50}, "pseudo_mask_threshold: expected 'auto', null or .* got 50"),
        ({"generation_steps": 701}, "generation_steps: expected at most 700, one for each timestep, got 701"),
        ({"decoding_steps": 301}, "decoding_steps: expected at most 300, one for each timestep, got 301"),
        ({"steps": 1001}, "steps: expected at most 1000"),
        ({"iterations": 0}, "iterations: expected a positive multiple"),
        ({"refine_iterations": "many"}, "refine_iterations: expected a positive multiple .* got 'many'"),
        ({"round_iterations_per_epoch": 0}, "round_iterations: expected a positive multiple of"),
        ({"generator_def#chanels": [8]}, "has this id; did you mean 'generator_def#channels'"),
        ({"generator_def#channels#x": 8}, "override 'generator_def#channels#x': no stage has this id$"),
        ({"threshold": 0.3}, "override 'threshold': no stage has this id"),
        ({"augmentation::noise": -5}, "augmentation#noise: expected 0 to inf, got -5"),
        ({"segmenter_def": {"channels": [8]}}, "segmenter_def: expected .* '_target_'; .* 'segmenter_def#channels'"),
        ({"rouns": 3}, "override 'rouns': no stage has this id; did you mean 'rounds'"),
    ],
)
def test_counts_that_do_not_go_together(overrides, message):
    with pytest.raises(InputError, match=message):
        resolve_settings("demo", overrides)


def test_more_images_than_latents_come_from_noise_alone():
    assert resolve_settings("demo", {"round_start": "noise", "round_pairs": 161})["round_pairs"] == 161


@pytest.mark.parametrize("name", sorted(ONE_OF))
def test_words_are_known(name):
    for known in ONE_OF[name]:
        assert resolve_settings("demo", {name: known})[name] == known
    with pytest.raises(InputError, match=f"^{name}: expected one of .*, got 'nothing'$"):
        resolve_settings("demo", {name: "nothing"})


def test_rounds_may_start_from_every_segmenter_but_the_supervised_one():
    assert {*STARTS} == TRAINING_SETS.keys() - {"supervised"}
    assert {*CANDIDATES} < {*BASELINES} < {*STARTS}
    assert {*get_args(Variant)} < {*BASELINES}


def test_words_are_those_of_the_methods():
    assert (ONE_OF["decoder"], ONE_OF["round_start"]) == (get_args(Decoder), get_args(Start))


@pytest.mark.parametrize("name", TRUE_OR_FALSE)
@pytest.mark.parametrize("value", [None, 1, "no"])
def test_switches_are_true_or_false(name, value):
    with pytest.raises(InputError, match=f"^{name}: expected true or false, got {value!r}$"):
        resolve_settings("demo", {name: value})


@pytest.mark.parametrize("name", sorted(FROM_TO))
@pytest.mark.parametrize("value", [-0.1, "much", None, True, float("nan")])
def test_numbers_are_in_range(name, value):
    with pytest.raises(InputError, match=f"^{name}: expected 0 to .*, got {value!r}$"):
        resolve_settings("demo", {name: value})
    assert resolve_settings("demo", {name: 0.5})[name] == 0.5


@pytest.mark.parametrize("name", sorted(BETWEEN))
@pytest.mark.parametrize("which", ["low", "high", "word", "truth"])
def test_numbers_are_between_their_bounds(name, which):
    low, high = BETWEEN[name]
    value = {"low": low, "high": high, "word": "much", "truth": True}[which]
    with pytest.raises(InputError, match=f"^{name}: expected a number between {low} and {high}, got {value!r}$"):
        resolve_settings("demo", {name: value})
    assert resolve_settings("demo", {name: 0.5})[name] == 0.5


@pytest.mark.parametrize("preset", ["demo", "small", "full", "paper"])
def test_presets_pass(preset):
    assert resolve_settings(preset, {}) == preset_overrides(preset)


def test_the_least_that_can_be_passes():
    least = {**TINY, **AT_LEAST, "source_timesteps": None}
    assert resolve_settings("demo", least).items() >= least.items()


@pytest.mark.parametrize(
    ("gpu", "device", "preset"), [(True, None, "full"), (True, "cpu", "small"), (False, None, "small")]
)
def test_without_a_preset_the_machine_decides(tmp_path, monkeypatch, gpu, device, preset):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert preset_and_overrides(tmp_path, None, {"t0": 9}, device) == (preset, {"t0": 9})


def test_without_a_preset_an_adaptation_continues_as_it_was_begun(tmp_path):
    begun = {
        **preset_overrides("demo"),
        "t0": 5,
        "augmentation#noise": 0.1,
        "seed": 3,
        "device": "$torch.device('cuda')",
    }
    for name in ("decoder", "generation_timesteps", "source_iterations"):  # as if the preset had them only since
        del begun[name]
    save_json({"version": 1, "preset": "demo", "settings": begun}, tmp_path / "settings.json")
    assert preset_and_overrides(tmp_path, None, {"t0": 4, "rounds": 3}, None) == (
        "demo",
        {
            "t0": 4,
            "augmentation#noise": 0.1,
            "rounds": 3,
            "decoder": "ddim",
            "generation_timesteps": None,
            "source_iterations": "@iterations",
        },
    )
    assert preset_and_overrides(tmp_path, "small", {"t0": 4}, None) == ("small", {"t0": 4})


@pytest.mark.parametrize("device", ["cpu:x", "cpu:", "cpu:1", "cpu:0:0", "gpu", "cuda:x", "cuda:01", "cuda:", "cuda:2"])
def test_devices_that_cannot_be_are_refused(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match=f"device: expected .*, got '{device}'"):
        device_override(device)


@pytest.mark.parametrize("device", ["cpu", "cpu:0", "cuda", "cuda:1"])
def test_devices_that_can_be_are_given_to_the_bundles(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_override(device) == {"device": f"$torch.device('{device}')"}
    torch.device(device)


@pytest.mark.parametrize(
    ("gpu", "device", "preset", "warned"),
    [
        (False, None, "full", True),
        (False, None, "paper", True),
        (True, "cpu", "full", True),
        (True, None, "full", False),
        (False, None, "small", False),
    ],
)
def test_the_preset_is_announced(monkeypatch, caplog, gpu, device, preset, warned):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    caplog.set_level("INFO", "monai_vessel_uda")
    announce(preset, device)
    assert load_preset(preset)["about"] in caplog.text
    assert ("takes weeks without a GPU" in caplog.text) == warned


def test_unknown_preset():
    with pytest.raises(InputError, match="preset: expected one of demo, full, paper, small, got 'tiny'"):
        resolve_settings("tiny", {})


def test_iterations_of_the_source_generator_are_whole_epochs():
    assert resolve_settings("demo", {"source_iterations": 300})["source_iterations"] == 300
    with pytest.raises(InputError, match=r"source_iterations: expected a positive multiple of iterations_per_epoch"):
        resolve_settings("demo", {"source_iterations": 130})


def test_another_number_of_timesteps_is_what_settings_are_held_against():
    settings = {"schedule#num_train_timesteps": 2000, "generation_timesteps": 1500, "source_timesteps": 600}
    assert resolve_settings("demo", settings)["generation_timesteps"] == 1500


def test_timesteps_are_the_schedules():
    assert NUM_TRAIN_TIMESTEPS == NoiseSchedule().num_train_timesteps
