"""Weights on disk: a state dict with a small JSON beside it, refused when they do not belong together."""

import hashlib
from pathlib import Path
from typing import Any

from torch import nn

from . import __version__
from .errors import InputError
from .files import load_json, load_tensors, save_json, save_tensors, sha256

TRAITS = ("num_groups", "stride", "dilation", "num_heads")
"""What a layer computes with that leaves no trace in the names and shapes of its weights."""


def architecture(network: nn.Module) -> dict[str, Any]:
    """What a record says of an architecture: class, number of parameters, and a hash of the layers' :data:`TRAITS`."""
    traits = [
        f"{name} {trait}={getattr(layer, trait)}"
        for name, layer in network.named_modules()
        for trait in TRAITS
        if hasattr(layer, trait)
    ]
    return {
        "network": f"{type(network).__module__}.{type(network).__qualname__}",
        "parameters": sum(p.numel() for p in network.parameters()),
        "traits_sha256": hashlib.sha256("\n".join(traits).encode()).hexdigest(),
    }


def save_weights(network: nn.Module, path: str | Path, description: dict[str, Any] | None = None) -> Path:
    """Write ``path`` (state dict, on the CPU) and the JSON of the same stem.

    Args:
        network: what to save.
        path: ``*.pt``.
        description: what a later reader must know: preprocessing, schedule, seed, …

    Returns:
        ``path``.
    """
    path = Path(path)
    save_tensors({name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}, path)
    record = {"architecture": architecture(network), "version": __version__, "sha256": sha256(path)}
    save_json({**(description or {}), **record}, path.with_suffix(".json"))
    return path


def load_weights(network: nn.Module, path: str | Path) -> nn.Module:
    """Load weights into ``network``, which must be of the architecture that they were saved from.

    Returns:
        ``network``.

    Raises:
        InputError: no such file, not a file of tensors, weights of another architecture, or other weights than the
            JSON beside them describes.
    """
    state = load_tensors(path, map_location="cpu")
    record = Path(path).with_suffix(".json")
    if record.exists():
        described = load_json(record)
        if described.get("sha256") not in (None, sha256(path)):
            raise InputError(
                f"{path}: these are not the weights that {record.name} describes; restore the file, or delete its "
                "stage's folder to train it again"
            )
        wanted = architecture(network)["traits_sha256"]
        if described.get("architecture", {}).get("traits_sha256", wanted) != wanted:
            raise InputError(
                f"{path}: weights of another architecture: the network's strides, dilations, groups or attention heads "
                "are not those that they were trained with"
            )
    try:
        network.load_state_dict(state, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: weights of another architecture ({str(error).splitlines()[0]})") from error
    return network


def description_of(weights: str | Path) -> dict[str, Any]:
    """The JSON beside weights; InputError where there is none."""
    description: dict[str, Any] = load_json(Path(weights).with_suffix(".json"))
    return description


def trained_timesteps_of(weights: str | Path) -> int | None:
    """How many timesteps, from the least noisy on, a generator's description says it was trained on; None for all."""
    described = Path(weights).with_suffix(".json")
    learnt: int | None = load_json(described).get("trained_timesteps") if described.exists() else None
    return learnt


def check_generator(weights: str | Path, needed_timesteps: int, schedule: str) -> None:
    """Refuse to use a generator at noise that it was not trained on, as its description says.

    Args:
        weights: of the generator.
        needed_timesteps: how many are asked of it, from the least noisy on.
        schedule: name of the noise schedule.

    Raises:
        InputError: more timesteps than it learnt, or another schedule.
    """
    described = Path(weights).with_suffix(".json")
    learnt = load_json(described).get("schedule", schedule) if described.exists() else schedule
    if learnt != schedule:
        raise InputError(
            f"{weights}: this generator learnt the noise of the {learnt} schedule, and the {schedule} one is asked of "
            f"it; set schedule_name to {learnt}, or train it anew"
        )
    most = trained_timesteps_of(weights)
    if most is not None and needed_timesteps > most:
        raise InputError(
            f"{weights}: this generator learnt the {most} least noisy timesteps, and {needed_timesteps} are asked "
            "of it; train it on more (source_timesteps, generation_timesteps) or ask for fewer (t0, "
            "generation_timesteps)"
        )
