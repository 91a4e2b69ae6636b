"""What the settings of an adaptation may be: refused before it starts, rather than after hours."""

import math
from collections.abc import Mapping
from typing import Any

from .errors import InputError
from .training_sets import STARTS

AT_LEAST = {
    "batch_size": 1,
    "segmenter_batch_size": 1,
    "sw_batch_size": 1,
    "sample_steps": 1,
    "sampled_patches": 1,
    "steps": 2,
    "t0": 1,
    "decoding_steps": 1,
    "generation_steps": 1,
    "mining_batch_size": 1,
    "refinements": 0,
    "pairs": 2,
    "measured_patches": 2,
    "num_workers": 0,
    "rounds": 1,
    "round_pairs": 2,
    "pseudo_mask_ensemble": 1,
}
"""Least value of every count. Two patches are what a distance between distributions needs."""
MAY_BE_NULL = ("decoding_steps", "round_pairs")
"""Counts that follow from others where they are not given."""
ONE_OF = {
    "decoder": ("ddim", "dpm-solver", "ancestral"),
    "decoding_spacing": ("trailing", "quadratic"),
    "round_start": ("latents", "noise", "both"),
    "schedule_name": ("linear", "cosine"),
}
"""Settings that take one of a few words."""
TRUE_OR_FALSE = ("amp", "clamp", "eight_bit_latents", "reinitialise", "track", "warm_start", "with_mined")
FROM_TO = {
    "augmentation#probability": (0, 1),
    "augmentation#contrast": (0, 1),
    "augmentation#brightness": (0, float("inf")),
    "augmentation#noise": (0, float("inf")),
    "augmentation#speckle": (0, float("inf")),
    "augmentation#elastic": (0, float("inf")),
    "fda_beta": (0, 0.5),
    "overall_weight": (0, float("inf")),
    "vessel_weight": (0, float("inf")),
    "round_vessel_weight": (0, float("inf")),
}
"""Least and largest value of numbers that may be fractions."""
BETWEEN = {
    "ema_momentum": (0, 1),
    "round_ema_momentum": (0, 1),
    "learning_rate": (0, float("inf")),
    "segmenter_learning_rate": (0, float("inf")),
    "refine_learning_rate": (0, float("inf")),
}
"""Numbers strictly between two bounds."""
RANGES = ("augmentation#gamma", "augmentation#blur")
"""Pairs of numbers from which one is drawn."""
NUM_TRAIN_TIMESTEPS = 1000
"""T of the bundles' noise schedule, repeated here so that settings are checked without importing torch."""


def check_limits(values: Mapping[str, Any]) -> None:
    """Refuse what a later stage would refuse, or would take and do something else.

    Args:
        values: ids of the stages' configs and their values, defaults included; those within a dictionary as
            ``augmentation#noise``.

    Raises:
        InputError: a value that cannot be.
    """
    for name, least in AT_LEAST.items():
        value = values[name]
        if not (_is_count(value, least) or (value is None and name in MAY_BE_NULL)):
            raise InputError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    for name, known in ONE_OF.items():
        if values[name] not in known:
            raise InputError(f"{name}: expected one of {', '.join(known)}, got {values[name]!r}")
    starts = values["start_segmenter"]
    unknown = [start for start in starts if start not in STARTS] if isinstance(starts, list) else [starts]
    if unknown or not starts:
        raise InputError(f"start_segmenter: expected some of {', '.join(STARTS)}, got {(unknown or [starts])[0]!r}")
    for name in TRUE_OR_FALSE:
        if not isinstance(values[name], bool):
            raise InputError(f"{name}: expected true or false, got {values[name]!r}")
    for name, (low, high) in FROM_TO.items():
        if not (_is_number(values[name]) and low <= values[name] <= high):
            raise InputError(f"{name}: expected {low} to {high}, got {values[name]!r}")
    for name, (low, high) in BETWEEN.items():
        if not (_is_number(values[name]) and low < values[name] < high):
            raise InputError(f"{name}: expected a number between {low} and {high}, got {values[name]!r}")
    for name in RANGES:
        value = values[name]
        pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_number, value))
        if not (pair and 0 <= value[0] <= value[1] < float("inf")):
            raise InputError(f"{name}: expected two numbers from 0 on, the smaller first, got {value!r}")
    _check_patch(values)
    _check_shares(values)
    _check_steps(values)
    too_many = values["round_pairs"] is not None and values["round_pairs"] > values["pairs"]
    if too_many and values["round_start"] != "noise":
        raise InputError(
            f"round_pairs: expected at most pairs = {values['pairs']}, one for each mined latent, "
            f"got {values['round_pairs']}"
        )
    _check_iterations(values)


def _check_patch(values: Mapping[str, Any]) -> None:
    """Both networks halve a patch level by level; a remainder would not fit its skip connection."""
    folded = values["generator_def#space_to_depth"]
    channels, strides = (values[name] for name in ("generator_def#channels", "segmenter_def#strides"))
    if not _is_count(folded, 1):
        raise InputError(f"generator_def#space_to_depth: expected a whole number of at least 1, got {folded!r}")
    for name, counts in (("generator_def#channels", channels), ("segmenter_def#strides", strides)):
        if not (isinstance(counts, (list, tuple)) and counts and all(_is_count(count, 1) for count in counts)):
            raise InputError(f"{name}: expected a list of whole numbers of at least 1, got {counts!r}")
    multiple = math.lcm(folded * 2 ** (len(channels) - 1), math.prod(strides))
    if not _is_count(values["patch_size"], 1) or values["patch_size"] % multiple:
        raise InputError(
            f"patch_size: expected a multiple of {multiple}, so that both networks can halve it on each level, "
            f"got {values['patch_size']!r}"
        )


def _check_shares(values: Mapping[str, Any]) -> None:
    """Numbers whose bounds are not all admissible, and the threshold, which may be a word."""
    share, overlap, threshold = (values[name] for name in ("confident_share", "overlap", "pseudo_mask_threshold"))
    if not (_is_number(share) and 0 < share <= 1):
        raise InputError(f"confident_share: expected above 0 and at most 1, got {share!r}")
    if not (_is_number(overlap) and 0 <= overlap < 1):
        raise InputError(f"overlap: expected from 0 to below 1, got {overlap!r}")
    for name in ("min_snr_gamma", "round_min_snr_gamma"):
        if values[name] is not None and not (_is_number(values[name]) and values[name] > 0):
            raise InputError(f"{name}: expected null or a positive number, got {values[name]!r}")
    if threshold not in ("auto", None) and not (_is_number(threshold) and 0 < threshold < 1):
        raise InputError(f"pseudo_mask_threshold: expected 'auto', null or a number between 0 and 1, got {threshold!r}")


def _check_steps(values: Mapping[str, Any]) -> None:
    """A sampler takes no more steps than there are timesteps; a generator learns those that are asked of it."""
    highest = values.get("schedule#num_train_timesteps", NUM_TRAIN_TIMESTEPS)
    if not _is_count(highest, 1):
        raise InputError(f"schedule#num_train_timesteps: expected a whole number of at least 1, got {highest!r}")
    if values["t0"] >= values["steps"]:
        raise InputError(f"t0: expected 1 to steps - 1 = {values['steps'] - 1}, got {values['t0']}")
    lowest = round(highest * values["t0"] / values["steps"])
    for name in ("source_timesteps", "generation_timesteps"):
        value = values[name]
        if value is not None and not (_is_count(value, lowest) and value <= highest):
            raise InputError(
                f"{name}: expected null or {lowest} (where t0 = {values['t0']} of {values['steps']} steps lead) to "
                f"{highest}, got {value!r}"
            )
    most = {
        "steps": highest,
        "decoding_steps": lowest,
        "generation_steps": values["generation_timesteps"] or highest,
    }
    for name, timesteps in most.items():
        if values[name] is not None and values[name] > timesteps:
            raise InputError(f"{name}: expected at most {timesteps}, one for each timestep, got {values[name]}")


def _check_iterations(values: Mapping[str, Any]) -> None:
    iterations = {
        name: values[name] for name in ("iterations", "segmenter_iterations", "round_iterations", "refine_iterations")
    }
    if values["source_iterations"] != "@iterations":
        iterations["source_iterations"] = values["source_iterations"]
    for name, total in iterations.items():
        per_epoch = f"{name.removeprefix('source_')}_per_epoch"
        epoch = values[per_epoch]
        if not (_is_count(total, 1) and _is_count(epoch, 1)) or total % epoch:
            raise InputError(f"{name}: expected a positive multiple of {per_epoch} ({epoch!r}), got {total!r}")


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
