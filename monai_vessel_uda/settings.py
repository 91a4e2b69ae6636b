"""Settings of an adaptation: presets, overrides of the bundle configs, and where the bundles are."""

import copy
import logging
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from .config_ids import misspelt, parts_of, set_id
from .errors import InputError
from .files import load_json
from .limits import check_limits

logger = logging.getLogger("monai_vessel_uda")

OF_EACH_STAGE = ("workspace", "bundle_root", "dataset_dir", "output_dir", "domain", "training_set")
"""Ids whose value an adaptation gives to each stage itself."""

OF_EACH_RUN = ("seed", "device")
"""Ids whose value is the manifest's, or the machine's that an adaptation is continued on."""

ADAPTATION_CONFIGS = (
    "ddpm_pretrain/train.json",
    "latent_mining/mine.json",
    "latent_mining/train.json",
    "co_optimization/train.json",
)
"""Bundle and config of every stage."""


def bundles_folder() -> Path:
    """Where the four bundles and the presets lie: inside an installed package, or at the top level of a checkout."""
    package = Path(str(resources.files("monai_vessel_uda")))
    installed = package / "_bundles"
    return installed if installed.is_dir() else package.parent / "bundles"


def bundle_folder(name: str) -> Path:
    """Folder of one bundle."""
    return bundles_folder() / name


def load_preset(name: str) -> dict[str, Any]:
    """A preset: a config that MONAI lays over a bundle's own, and the sentence ``about`` it.

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
        elif key != "about":
            overrides[key] = value
    return overrides


def resolve_settings(preset: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Preset and overrides together, refused where no bundle knows an id or a later stage would fail.

    Raises:
        InputError: unknown preset or id, an id of each stage's own, or values that cannot be.
    """
    settings = {**preset_overrides(preset), **{"#".join(parts_of(key)): value for key, value in overrides.items()}}
    configs = _configs()
    for key in settings:
        if key in OF_EACH_STAGE:
            raise InputError(f"override {key!r}: an adaptation has its own for each stage")
        close = misspelt(key, configs)
        if close is not None:
            hint = f"; did you mean {close!r}?" if close else ""
            raise InputError(f"override {key!r}: no stage has this id{hint}")
    defaults = {key: value for config in configs for key, value in config.items()}
    for key, value in settings.items():
        default = defaults.get(key)
        if isinstance(default, dict) and "_target_" in default and isinstance(value, dict) and "_target_" not in value:
            raise InputError(
                f"{key}: expected a definition with '_target_'; give parts as '{key}#{next(iter(value), 'part')}'"
            )
        if isinstance(default, dict) and isinstance(value, dict) and "_target_" not in default:
            missing = sorted(default.keys() - value.keys())
            if missing:
                part = f"{key}#{next(iter(value), missing[0])}"
                raise InputError(f"{key}: expected also {', '.join(missing)}; or give {part!r} alone")
    effective = copy.deepcopy(defaults)
    for key, value in settings.items():
        set_id(effective, key, copy.deepcopy(value))
    check_limits({**effective, **_parts(effective)})
    return settings


def _configs() -> list[dict[str, Any]]:
    places = map(Path, ADAPTATION_CONFIGS)
    return [load_json(bundle_folder(place.parts[0]) / "configs" / place.name) for place in places]


def _parts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Parts of dictionaries, as ``augmentation#noise``."""
    whole = {key: value for key, value in values.items() if isinstance(value, dict)}
    return {f"{key}#{part}": value[part] for key, value in whole.items() for part in value}


def preset_and_overrides(
    workspace: str | Path, preset: str | None, overrides: Mapping[str, Any], device: str | None
) -> tuple[str, dict[str, Any]]:
    """What an adaptation is to be run with: what was asked for, or what it was begun with, or what suits the machine.

    Args:
        workspace: its folder, with ``settings.json`` if it was begun.
        preset: the one asked for. Without it, preset and overrides are those that the adaptation was begun with; where
            none was begun ``full`` with a GPU and ``small`` without.
        overrides: ids and values, before those that the adaptation was begun with.
        device: ``cpu`` or ``cuda``; a GPU where there is one by default.
    """
    if preset is not None:
        return preset, dict(overrides)
    path = Path(workspace) / "settings.json"
    if path.exists():
        begun = load_json(path)
        preset, own = begun["preset"], preset_overrides(begun["preset"])
        chosen = {key: value for key, value in begun["settings"].items() if key not in own or own[key] != value}
        chosen |= {key: _default(key) for key in own.keys() - begun["settings"].keys()}  # the preset has got it since
        return preset, {**{key: value for key, value in chosen.items() if key not in OF_EACH_RUN}, **overrides}
    return "full" if _has_gpu(device) else "small", dict(overrides)


def begun_with(workspace: str | Path, option: str, otherwise: Any) -> Any:
    """What an adaptation was begun with.

    Args:
        workspace: its folder, with ``settings.json`` if it was begun.
        option: key in there.
        otherwise: the value where it was not begun, or by an older version.
    """
    path = Path(workspace) / "settings.json"
    return load_json(path).get(option, otherwise) if path.exists() else otherwise


def _default(key: str) -> Any:
    """Value of an id in the first config that has it."""
    first, *parts = parts_of(key)
    value = next(config[first] for config in _configs() if first in config)
    for part in parts:
        value = value[part]
    return value


def device_override(device: str | None) -> dict[str, str]:
    """Override of the device, checked."""
    if device is None:
        return {}
    import torch

    if not re.fullmatch(r"cpu(:0)?|cuda(:\w*)?", device):
        raise InputError(f"device: expected 'cpu' or 'cuda', got {device!r}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device: {device!r} was asked for, but there is no GPU here; use --device cpu")
    number = device.partition(":")[2]
    if device.startswith("cuda:") and number not in map(str, range(torch.cuda.device_count())):
        raise InputError(f"device: expected cuda:0 to cuda:{torch.cuda.device_count() - 1}, got {device!r}")
    return {"device": f"$torch.device('{device}')"}


def announce(preset: str, device: str | None) -> None:
    """Say what is about to run, and that the full scale is not for a CPU."""
    logger.info("preset %r: %s", preset, load_preset(preset)["about"])
    if preset in ("full", "paper") and not _has_gpu(device):
        logger.warning("preset %r takes weeks without a GPU; '--preset small' is made for a CPU", preset)


def _has_gpu(device: str | None) -> bool:
    import torch

    return device not in ("cpu", "cpu:0") and torch.cuda.is_available()
