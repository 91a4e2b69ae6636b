"""Settings of an adaptation: presets, overrides of the bundle configs, and where the bundles are."""

import difflib
import logging
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from .errors import InputError
from .files import load_json

logger = logging.getLogger("monai_vessel_uda")

ABOUT_A_PRESET = ("about", "target_scale")
"""Keys of a preset that no bundle has: a sentence, and ``target_scale`` for preparing."""

ADAPTATION_CONFIGS = (
    "ddpm_pretrain/train.json",
    "latent_mining/mine.json",
    "latent_mining/train.json",
    "co_optimization/train.json",
    "vessel_segmentation/inference.json",
)
"""Bundle and config of every stage, and of what the adaptation exports."""

AT_LEAST = {
    "batch_size": 1,
    "segmenter_batch_size": 1,
    "sample_steps": 1,
    "sampled_patches": 1,
    "steps": 2,
    "t0": 1,
    "decoding_steps": 1,
    "generation_steps": 1,
    "mining_batch_size": 1,
    "pairs": 2,
    "measured_patches": 2,
    "rounds": 1,
    "round_pairs": 2,
    "pseudo_mask_ensemble": 1,
}
"""Least value of every count. Two patches are what a distance between distributions needs."""
MAY_BE_NULL = ("decoding_steps", "round_pairs")
"""Counts that follow from others where they are not given."""

NUM_TRAIN_TIMESTEPS = 1000
"""T of the bundles' noise schedule, whose class cannot be asked without loading torch."""


def bundles_folder() -> Path:
    """Where the four bundles and the presets lie: inside an installed package, or at the top level of a checkout."""
    package = Path(str(resources.files("monai_vessel_uda")))
    installed = package / "_bundles"
    return installed if installed.is_dir() else package.parent / "bundles"


def bundle_folder(name: str) -> Path:
    """Folder of one bundle."""
    return bundles_folder() / name


def load_preset(name: str) -> dict[str, Any]:
    """A preset: a config that MONAI lays over a bundle's own, and the keys of ``ABOUT_A_PRESET``.

    Raises:
        InputError: an unknown name.
    """
    folder = bundles_folder() / "presets"
    known = sorted(path.stem for path in folder.glob("*.json"))
    if name not in known:
        raise InputError(f"preset: expected one of {', '.join(known)}, got {name!r}")
    preset: dict[str, Any] = load_json(folder / f"{name}.json")
    return preset


def preset_overrides(name: str) -> dict[str, Any]:
    """Ids and values of a preset.

    Presets change parts of a definition as ``"+generator_def": {"channels": …}``: MONAI merges that, while an id like
    ``generator_def#channels`` fails in a bundle without such a definition.

    Example:
        >>> preset_overrides("demo")["generator_def#channels"]
        [24, 48, 64]
    """
    overrides: dict[str, Any] = {}
    for key, value in load_preset(name).items():
        if key.startswith("+"):
            overrides |= {f"{key[1:]}#{part}": part_value for part, part_value in value.items()}
        elif key not in ABOUT_A_PRESET:
            overrides[key] = value
    return overrides


def resolve_settings(preset: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Preset and overrides together, refused where no bundle knows an id or a later stage would fail.

    Raises:
        InputError: unknown preset or id, or counts that cannot be.
    """
    settings = {**preset_overrides(preset), **overrides}
    known = _known_ids()
    for key in settings:
        if key.split("#")[0] not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InputError(f"override {key!r}: no bundle config has this id{hint}")
    _check_counts(settings)
    return settings


def _check_counts(settings: Mapping[str, Any]) -> None:
    """Refuse now what a later stage would refuse after hours."""
    defaults: dict[str, Any] = {}
    for bundle, config in (("ddpm_pretrain", "train"), ("latent_mining", "mine"), ("latent_mining", "train")):
        defaults |= load_json(bundle_folder(bundle) / "configs" / f"{config}.json")
    values = {**defaults, **load_json(bundle_folder("co_optimization") / "configs" / "train.json"), **settings}
    for name, least in AT_LEAST.items():
        value = values[name]
        if not (_is_count(value, least) or (value is None and name in MAY_BE_NULL)):
            raise InputError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    if values["t0"] >= values["steps"]:
        raise InputError(f"t0: expected 1 to steps - 1 = {values['steps'] - 1}, got {values['t0']}")
    if values["round_pairs"] is not None and values["round_pairs"] > values["pairs"]:
        raise InputError(
            f"round_pairs: expected at most pairs = {values['pairs']}, one for each mined mask, "
            f"got {values['round_pairs']}"
        )
    _check_timesteps(values)
    share = values["confident_share"]
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise InputError(f"confident_share: expected above 0 and at most 1, got {share!r}")
    if values["source_iterations"] == "@iterations":
        values["source_iterations"] = values["iterations"]
    for name in ("iterations", "source_iterations", "segmenter_iterations", "round_iterations", "refine_iterations"):
        per_epoch = f"{name.removeprefix('source_')}_per_epoch"
        total, epoch = values[name], values[per_epoch]
        if not (_is_count(total, 1) and _is_count(epoch, 1)) or total % epoch:
            raise InputError(f"{name}: expected a positive multiple of {per_epoch} ({epoch!r}), got {total!r}")


def _check_timesteps(values: Mapping[str, Any]) -> None:
    """Refuse generators that would not learn the timesteps that mining asks of them."""
    lowest = round(NUM_TRAIN_TIMESTEPS * values["t0"] / values["steps"])
    for name in ("source_timesteps", "generation_timesteps"):
        value = values[name]
        if value is not None and not (_is_count(value, lowest) and value <= NUM_TRAIN_TIMESTEPS):
            raise InputError(
                f"{name}: expected null or {lowest} (where t0 = {values['t0']} of {values['steps']} steps lead) to "
                f"{NUM_TRAIN_TIMESTEPS}, got {value!r}"
            )


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _known_ids() -> set[str]:
    """Ids of the configs that an adaptation runs or exports; another config's would be taken and do nothing."""
    ids: set[str] = set()
    for name in ADAPTATION_CONFIGS:
        bundle, config = name.split("/")
        ids |= set(load_json(bundle_folder(bundle) / "configs" / config))
    return ids


def device_override(device: str | None) -> dict[str, str]:
    """Override of the device, checked."""
    if device is None:
        return {}
    import torch

    if device.split(":")[0] not in ("cpu", "cuda"):
        raise InputError(f"device: expected 'cpu' or 'cuda', got {device!r}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device: {device!r} was asked for, but there is no GPU here; use --device cpu")
    return {"device": f"$torch.device('{device}')"}


def set_id(config: dict[str, Any], key: str, value: Any) -> None:
    """Set an id such as ``segmenter_def#channels`` in a config, if the config has its first part."""
    *parents, last = key.split("#")
    if (parents[0] if parents else last) in config:
        for parent in parents:
            config = config[parent]
        config[last] = value


def warn_if_hopeless(preset: str, device: str | None) -> None:
    """Say before it starts that the full scale is not for a CPU."""
    import torch

    if preset == "full" and (device == "cpu" or not torch.cuda.is_available()):
        logger.warning("preset 'full' takes weeks without a GPU; '--preset small' is made for a CPU")
