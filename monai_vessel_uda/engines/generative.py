"""Weights of networks that were trained with monai-generative (0.2), loaded into ours.

Its ``DiffusionModelUNet`` lives on in MONAI. Some tensors have other names there, which MONAI's
``DiffusionModelUNet.load_old_state_dict`` knows, and one layer means something else: monai-generative's attention
creates an output projection (``proj_attn``) and never applies it (MONAI issue 7991), MONAI's applies its ``out_proj``.
With the one copied to the other, predictions differ; so here ``out_proj`` becomes the identity and ``proj_attn``, which
has never been trained, is dropped. Every other tensor is used exactly once.

Networks that were trained with MONAI's own ``DiffusionModelUNet`` are taken as they are. Only tensors are read:
monai-generative itself is not needed.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.networks.blocks.selfattention import SABlock
from torch import Tensor, nn

from ..diffusion import MaskConditionedUNet
from ..errors import InputError
from ..files import load_tensors

State = dict[str, Tensor]

FIRST, LAST = "conv_in.conv.weight", "out.2.conv.weight"
"""The tensors that tell how many channels go in and come out; the first also marks where a network lies in a file."""

RENAMED = ((".attn.out_proj.", ".proj_attn."), (".attn.to_", ".to_"), (".postconv.", ".conv."))
"""Parts of tensor names: MONAI's, monai-generative's."""


@dataclass(frozen=True)
class Architecture:
    """What the tensors of a monai-generative ``DiffusionModelUNet`` tell about it.

    The groups of the normalisation and the channels of an attention head leave no trace in a state dict.
    """

    spatial_dims: int
    in_channels: int
    out_channels: int
    channels: list[int]
    attention_levels: list[bool]
    num_res_blocks: list[int]

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> "Architecture":
        """Read it off names and shapes, which must include ``FIRST``; what is missing counts as nothing."""
        channels: dict[int, int] = {}
        blocks: Counter[int] = Counter()
        attending = set()
        for name, tensor in state.items():
            if match := re.fullmatch(r"down_blocks\.(\d+)\.resnets\.\d+\.conv1\.conv\.weight", name):
                level = int(match[1])
                channels[level], blocks[level] = tensor.shape[:1].numel(), blocks[level] + 1
            elif match := re.match(r"down_blocks\.(\d+)\.attentions\.", name):
                attending.add(int(match[1]))
        levels = sorted(channels)
        return cls(
            spatial_dims=state[FIRST].ndim - 2,
            in_channels=state[FIRST].shape[1],
            out_channels=state[LAST].shape[:1].numel() if LAST in state else 0,
            channels=[channels[level] for level in levels],
            attention_levels=[level in attending for level in levels],
            num_res_blocks=[blocks[level] for level in levels],
        )

    @property
    def space_to_depth(self) -> int | None:
        """Side of the blocks of pixels that were folded into the output channels; None if these fold no such block."""
        side = round(self.out_channels ** (1 / self.spatial_dims))
        return side if side and side**self.spatial_dims == self.out_channels else None


def read_checkpoint(path: str | Path, key: str | None = None) -> State:
    """The tensors of the one diffusion network that a checkpoint holds, wherever they lie in it.

    Args:
        path: a file of ``torch.save``: a state dict, or mappings that hold one (``state_dict``, ``model``, ``ema``, …),
            whose names may all begin alike (``module.``, ``unet.``).
        key: which network, where there are several: the names of the mappings that lead to it, and the beginning of
            its tensors' names, joined by dots.

    Returns:
        Tensors under their names within the network.

    Raises:
        InputError: missing, damaged or with other objects than tensors; no such network or several; beside its tensors
            others that belong to no network; values that are not finite numbers.
    """
    found = dict(_networks(_load(path), path))
    if not found:
        raise InputError(
            f"{path}: expected the state dict of monai-generative's DiffusionModelUNet, found no tensor {FIRST!r}; "
            "save it with torch.save(network.state_dict(), FILE)"
        )
    choices = ", ".join(repr(place) for place in sorted(found))
    if key is None and len(found) > 1:
        raise InputError(f"{path}: holds several networks; expected --key with one of {choices}")
    if key is not None and key not in found:
        raise InputError(f"{path}: expected --key with one of {choices}, got {key!r}")
    state = found[key] if key is not None else next(iter(found.values()))
    for name, value in state.items():
        if not (isinstance(value, Tensor) and value.is_floating_point() and bool(value.isfinite().all())):
            raise InputError(f"{path}: tensor {name!r}: expected finite numbers, found others; is the file damaged?")
    if state[FIRST].ndim not in (4, 5):
        raise InputError(
            f"{path}: tensor {FIRST!r}: expected 4 (or, in 3-D, 5) dimensions, found shape {tuple(state[FIRST].shape)}"
        )
    return state


def load_generative(network: MaskConditionedUNet, state: Mapping[str, Tensor], path: str | Path) -> MaskConditionedUNet:
    """Give ``network`` the weights of monai-generative's ``DiffusionModelUNet``, so that both predict the same noise.

    One of MONAI itself is recognised by the names of its tensors and will do as well.

    A network that was trained with the mask beside the image (twice as many input as output channels) is taken as it
    is. One that was trained on the image alone gets zero weights for the mask: no mask changes its prediction until it
    is fine-tuned with masks.

    Args:
        network: of the same architecture.
        state: see :func:`read_checkpoint`.
        path: of the checkpoint, for messages.

    Returns:
        ``network``.

    Raises:
        InputError: a tensor that is missing, of another shape or superfluous; then ``network`` is as it was.
    """
    found = Architecture.of(state)
    folded = network.unet.out_channels
    if found.spatial_dims != network.spatial_dims:
        raise InputError(
            f"{path}: expected a network for {network.spatial_dims}-D images, found one for {found.spatial_dims}-D "
            f"(tensor {FIRST!r} of shape {tuple(state[FIRST].shape)})"
        )
    if found.space_to_depth is None or found.in_channels not in (found.out_channels, 2 * found.out_channels):
        raise InputError(
            f"{path}: expected a network of grey images: 1 output channel (or s^2 for blocks of s x s pixels), as many "
            f"input channels or, with the mask, twice as many; found {found.in_channels} and {found.out_channels}"
        )
    current = any(".attn.out_proj." in name for name in state)
    expected = {
        name if current else _generative_name(name): tensor.shape for name, tensor in network.unet.state_dict().items()
    }
    if found.in_channels == folded:
        expected[FIRST] = torch.Size([expected[FIRST][0], folded, *expected[FIRST][2:]])
    mismatch = next(_mismatches(expected, state), None)
    if mismatch is not None:
        raise InputError(f"{path}: weights of another architecture: {mismatch}{_advice(network, found)}")
    complete = {**state, FIRST: _with_mask_channels(state[FIRST], 2 * folded)}
    if current:
        network.unet.load_state_dict(complete)
    else:
        network.unet.load_old_state_dict(complete)
        _pass_attention_on(network.unet)
    return network


def _load(path: str | Path) -> Any:
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    try:
        return load_tensors(path, map_location="cpu")
    except InputError as error:
        # torch's own message advises to load the file without protection.
        raise InputError(
            f"{path}: expected a file of tensors; it is damaged, or holds Python objects, which could run code and are "
            "not loaded. Save the network alone: torch.save(network.state_dict(), FILE)"
        ) from error


def _networks(content: Any, path: str | Path, place: str = "") -> Iterator[tuple[str, State]]:
    """Where diffusion networks lie in a checkpoint, and their tensors without what all their names begin with."""
    if not isinstance(content, Mapping):
        return
    names = [name for name in content if isinstance(name, str)]
    prefixes = [name.removesuffix(FIRST) for name in names if f".{name}".endswith(f".{FIRST}")]
    networks: dict[str, State] = {prefix: {} for prefix in prefixes}
    for name in names if prefixes else ():
        owner = max((prefix for prefix in prefixes if name.startswith(prefix)), key=len, default=None)
        if owner is None:
            raise InputError(
                f"{path}: {name!r} lies among a diffusion network's tensors and is none of them; save its own alone"
            )
        networks[owner][name.removeprefix(owner)] = content[name]
    for prefix, tensors in networks.items():
        yield ".".join(part for part in (place, prefix.rstrip(".")) if part), tensors
    for name in names:
        yield from _networks(content[name], path, f"{place}.{name}" if place else name)


def _generative_name(name: str) -> str:
    """Name in monai-generative of a tensor of MONAI's ``DiffusionModelUNet``."""
    for ours, theirs in RENAMED:
        name = name.replace(ours, theirs)
    return name


def _mismatches(expected: Mapping[str, torch.Size], state: Mapping[str, Tensor]) -> Iterator[str]:
    for name, shape in expected.items():
        if name not in state:
            yield f"tensor {name!r}: expected shape {tuple(shape)}, found none"
        elif state[name].shape != shape:
            yield f"tensor {name!r}: expected shape {tuple(shape)}, found {tuple(state[name].shape)}"
    for name in state:
        if name not in expected:
            yield f"tensor {name!r}: expected none, found shape {tuple(state[name].shape)}"


def _advice(network: MaskConditionedUNet, found: Architecture) -> str:
    """The settings with which the network would be the checkpoint's."""
    unet = network.unet
    settings = {
        "channels": (list(unet.block_out_channels), found.channels),
        "attention_levels": (list(unet.attention_levels), found.attention_levels),
        "num_res_blocks": (_one_or_all(unet.num_res_blocks), _one_or_all(found.num_res_blocks)),
        "space_to_depth": (network.space_to_depth, found.space_to_depth),
    }
    changes = {name: theirs for name, (ours, theirs) in settings.items() if ours != theirs}
    if not changes or not found.channels:
        return ". Only plain networks can be imported: no conditioning on classes or context, no resblock_updown"
    options = " ".join(f"--set 'generator_def#{name}={json.dumps(value)}'" for name, value in changes.items())
    return f". Its network is {options}; norm_num_groups and num_head_channels leave no trace: set them as trained"


def _one_or_all(values: Sequence[int]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else list(values)


def _with_mask_channels(weight: Tensor, channels: int) -> Tensor:
    """First convolution's weights, shape (out, in, *kernel), with zeros for the input channels up to ``channels``."""
    missing = weight.new_zeros(weight.shape[0], channels - weight.shape[1], *weight.shape[2:])
    return torch.cat([weight, missing], dim=1)


def _pass_attention_on(unet: nn.Module) -> None:
    """Make the output projection of every attention the identity, as it is in monai-generative."""
    for block in unet.modules():
        if isinstance(block, SABlock):
            projection = block.out_proj
            assert isinstance(projection, nn.Linear)
            nn.init.eye_(projection.weight)
            nn.init.zeros_(projection.bias)
