"""What an adaptation refuses before it starts, rather than after hours."""

import pytest

from monai_vessel_uda.diffusion import NoiseSchedule
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.settings import AT_LEAST, MAY_BE_NULL, NUM_TRAIN_TIMESTEPS, preset_overrides, resolve_settings

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
        ({"round_pairs": 9, "pairs": 8}, "round_pairs: expected at most pairs = 8, one for each mined mask, got 9"),
        ({"round_pairs": 161}, "round_pairs: expected at most pairs = 160"),
        ({"iterations": 3, "iterations_per_epoch": 2}, "iterations: expected a positive multiple of .* got 3"),
        ({"t0": 7}, r"source_timesteps: expected null or 350 \(where t0 = 7 of 20 steps lead\) to 1000, got 300"),
        ({"generation_timesteps": 299}, "generation_timesteps: expected null or 300 .* to 1000, got 299"),
        ({"generation_timesteps": 1001}, "generation_timesteps: expected null or 300 .* to 1000, got 1001"),
        ({"source_timesteps": "few"}, "source_timesteps: expected null or 300 .* got 'few'"),
        ({"confident_share": 0}, "confident_share: expected above 0 and at most 1, got 0"),
        ({"confident_share": "half"}, "confident_share: expected above 0 and at most 1, got 'half'"),
        ({"iterations": 0}, "iterations: expected a positive multiple"),
        ({"refine_iterations": "many"}, "refine_iterations: expected a positive multiple .* got 'many'"),
        ({"round_iterations_per_epoch": 0}, "round_iterations: expected a positive multiple of"),
        ({"rouns": 3}, "override 'rouns': no bundle config has this id; did you mean 'rounds'"),
    ],
)
def test_counts_that_do_not_go_together(overrides, message):
    with pytest.raises(InputError, match=message):
        resolve_settings("demo", overrides)


@pytest.mark.parametrize("preset", ["demo", "small", "full"])
def test_presets_pass(preset):
    assert resolve_settings(preset, {}) == preset_overrides(preset)


def test_the_least_that_can_be_passes():
    least = {**TINY, **AT_LEAST, "source_timesteps": None}
    assert resolve_settings("demo", least).items() >= least.items()


def test_unknown_preset():
    with pytest.raises(InputError, match="preset: expected one of demo, full, small, got 'tiny'"):
        resolve_settings("tiny", {})


def test_iterations_of_the_source_generator_are_whole_epochs():
    assert resolve_settings("demo", {"source_iterations": 300})["source_iterations"] == 300
    with pytest.raises(InputError, match=r"source_iterations: expected a positive multiple of iterations_per_epoch"):
        resolve_settings("demo", {"source_iterations": 130})


def test_timesteps_are_the_schedules():
    assert NUM_TRAIN_TIMESTEPS == NoiseSchedule().num_train_timesteps
