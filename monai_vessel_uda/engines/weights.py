"""Weights on disk: a state dict with a small JSON beside it, refused when they do not belong together."""

import hashlib
from pathlib import Path
from typing import Any

from torch import nn

from .. import __version__
from ..errors import InputError
from ..files import load_json, load_tensors, save_json, save_tensors, sha256


def architecture(network: nn.Module) -> dict[str, Any]:
    """What identifies an architecture: class, number of parameters, and a hash of all tensor names and shapes."""
    shapes = [f"{name} {tuple(tensor.shape)}" for name, tensor in sorted(network.state_dict().items())]
    return {
        "network": f"{type(network).__module__}.{type(network).__qualname__}",
        "parameters": sum(p.numel() for p in network.parameters()),
        "shapes_sha256": hashlib.sha256("\n".join(shapes).encode()).hexdigest(),
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
        saved, wanted = described.get("architecture", {}), architecture(network)
        if saved and saved != {**wanted, "network": _same_or_base(network, saved.get("network"))}:
            raise InputError(
                f"{path}: weights of another architecture: expected {wanted['network']} with "
                f"{wanted['parameters']} parameters, got {saved['network']} with {saved['parameters']}"
            )
    try:
        network.load_state_dict(state, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: weights of another architecture ({str(error).splitlines()[0]})") from error
    return network


def _same_or_base(network: nn.Module, name: str | None) -> str:
    """``name`` if the network is of this class or derived from it, else the network's own."""
    names = [f"{base.__module__}.{base.__qualname__}" for base in type(network).__mro__]
    return name if name in names else names[0]  # type: ignore[return-value]


def description_of(weights: str | Path) -> dict[str, Any]:
    """The JSON beside weights; InputError where there is none."""
    description: dict[str, Any] = load_json(Path(weights).with_suffix(".json"))
    return description


def learnt_timesteps(weights: str | Path) -> int | None:
    """How many timesteps, from the least noisy on, a generator's description says it was trained on; None for all."""
    described = Path(weights).with_suffix(".json")
    learnt: int | None = load_json(described).get("trained_timesteps") if described.exists() else None
    return learnt


def check_timesteps(weights: str | Path, timesteps: int) -> None:
    """Refuse to use a generator at timesteps that it was not trained on, as its description says.

    Args:
        weights: of the generator.
        timesteps: how many are asked of it, from the least noisy on.

    Raises:
        InputError: more timesteps than it learnt.
    """
    learnt = learnt_timesteps(weights)
    if learnt is not None and timesteps > learnt:
        raise InputError(
            f"{weights}: this generator learnt the {learnt} least noisy timesteps, and {timesteps} are asked "
            "of it; train it on more (source_timesteps, generation_timesteps) or ask for fewer (t0, "
            "generation_timesteps)"
        )
