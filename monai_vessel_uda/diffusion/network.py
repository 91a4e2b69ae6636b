"""The noise prediction network: MONAI's DiffusionModelUNet with the vessel mask as a second input channel."""

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets import DiffusionModelUNet, diffusion_model_unet
from monai.networks.utils import pixelshuffle, pixelunshuffle
from torch import Tensor, nn

from ..errors import InputError


class MaskConditionedUNet(nn.Module):
    """Noise prediction eps(x_t, t, y), conditioned on a vessel mask y by concatenation.

    "Unconditional" is the all-zero mask, so one architecture serves the source generator, the target generator,
    and the target generator fine-tuned with pseudo-masks.

    Args:
        spatial_dims: 2 (or 3).
        channels: features at each resolution, from the finest on.
        attention_levels: self-attention at each resolution. MONAI's middle block always attends.
        num_res_blocks: residual blocks at each resolution.
        num_head_channels: features of one attention head.
        norm_num_groups: groups of the group normalisation; divides every entry of ``channels``.
        space_to_depth: 1 works on the pixels; 2 folds 2x2 pixels into channels first, which quarters the cost
            at the price of the finest detail (Shi et al. 2016 for the unfolding).

    Raises:
        InputError: image sides not divisible by the network's total downsampling.

    Example:
        >>> small = {"channels": (8, 16), "attention_levels": (False, False), "num_head_channels": 8}
        >>> network = MaskConditionedUNet(**small, norm_num_groups=4)
        >>> x_t, t, mask = torch.randn(2, 1, 16, 16), torch.tensor([3, 999]), torch.zeros(2, 1, 16, 16)
        >>> network(x_t, t, mask).shape
        torch.Size([2, 1, 16, 16])
        >>> torch.equal(network(x_t, t, mask), network(x_t, t))
        True
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        channels: Sequence[int] = (64, 64, 128, 128, 256, 256),
        attention_levels: Sequence[bool] = (False, False, False, False, True, True),
        num_res_blocks: int = 2,
        num_head_channels: int = 64,
        norm_num_groups: int = 32,
        space_to_depth: int = 1,
    ) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.space_to_depth = space_to_depth
        self.side_multiple = space_to_depth * 2 ** (len(channels) - 1)
        folded = space_to_depth**spatial_dims
        self.unet = DiffusionModelUNet(
            spatial_dims=spatial_dims,
            in_channels=2 * folded,
            out_channels=folded,
            channels=channels,
            attention_levels=attention_levels,
            num_res_blocks=num_res_blocks,
            num_head_channels=num_head_channels,
            norm_num_groups=norm_num_groups,
            use_flash_attention=True,  # PyTorch's fused attention, whose memory does not grow with the square of pixels
        )
        for block in list(self.unet.modules()):
            for name, child in block.named_children():
                if type(child) is nn.SiLU:
                    setattr(block, name, _SiLU())
        # The layout in which convolutions are fastest on a CPU; the state dict stays the same. Its group norm of groups
        # of one channel is right to 1e-5 only.
        if spatial_dims == 2 and norm_num_groups < min(channels):
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x_t: Tensor, timesteps: Tensor, mask: Tensor | None = None) -> Tensor:
        r"""Predict the noise in ``x_t``.

        Args:
            x_t: noised images, shape (batch, 1, \*spatial), sides divisible by ``side_multiple``.
            timesteps: shape (batch,), 0 to T - 1.
            mask: vessel masks in [0, 1], shape of ``x_t``; None means the all-zero mask.

        Returns:
            The predicted noise, shape of ``x_t``.
        """
        if any(side % self.side_multiple for side in x_t.shape[2:]):
            raise InputError(
                f"patch size: expected sides divisible by {self.side_multiple} for this network, "
                f"got {tuple(x_t.shape[2:])}"
            )
        if mask is None:
            mask = torch.zeros_like(x_t)
        x = torch.cat([x_t, mask.to(x_t.dtype)], dim=1)
        if self.space_to_depth == 1:
            return self.unet(x, timesteps)
        x = pixelunshuffle(x, self.spatial_dims, self.space_to_depth)
        return pixelshuffle(self.unet(x, timesteps), self.spatial_dims, self.space_to_depth)

    def __prepare_scriptable__(self) -> nn.Module:
        """What ``torch.jit.script`` compiles instead: MONAI's attention cannot be scripted, but traces for any size."""
        return _Traced(self)


class _SiLU(nn.SiLU):
    """SiLU that overwrites features where no gradient needs them: in this network they come fresh from a normalisation.

    The embedding of the timestep, (batch, features), is used by every block and stays as it is.
    """

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(x, inplace=x.ndim > 2 and not torch.is_grad_enabled())


class StackedInputUNet(MaskConditionedUNet):
    """The same network with its inputs stacked as channels of one tensor, for tools that know networks of one input.

    The channels are the noised image x_t, the vessel mask, and the timestep as t / T everywhere. Weights are those of
    :class:`MaskConditionedUNet`.

    Args:
        num_train_timesteps: T.
        options: of :class:`MaskConditionedUNet`.
    """

    def __init__(self, num_train_timesteps: int = 1000, **options: Any) -> None:
        super().__init__(**options)
        self.num_train_timesteps = num_train_timesteps

    def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]
        r"""Predict the noise; ``image`` of shape (batch, 3, \*spatial), result of shape (batch, 1, \*spatial)."""
        share = image[:, 2].flatten(1)[:, 0]
        timesteps = (share * self.num_train_timesteps).round().long().clamp(0, self.num_train_timesteps - 1)
        return super().forward(image[:, :1], timesteps, image[:, 1:2])

    def __prepare_scriptable__(self) -> nn.Module:
        """As for :class:`MaskConditionedUNet`."""
        return _TracedStacked(self)


def stack_inputs(x_t: Tensor, timesteps: Tensor, mask: Tensor, num_train_timesteps: int = 1000) -> Tensor:
    r"""Input of :class:`StackedInputUNet`, (batch, 3, \*spatial), from x_t and mask (batch, 1, \*spatial) and t."""
    share = (timesteps.to(x_t) / num_train_timesteps).view(-1, *[1] * (x_t.ndim - 1))
    return torch.cat([x_t, mask.to(x_t), share.expand_as(x_t)], dim=1)


class _Traced(nn.Module):
    """Holds the trace of a network with three inputs, so that it and modules around it can be scripted."""

    def __init__(self, network: MaskConditionedUNet) -> None:
        super().__init__()
        self.traced = _trace(network, _example(network))

    def forward(self, x_t: Tensor, timesteps: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.traced(x_t, timesteps, torch.zeros_like(x_t) if mask is None else mask)


class _TracedStacked(nn.Module):
    """Holds the trace of a network with stacked inputs."""

    def __init__(self, network: StackedInputUNet) -> None:
        super().__init__()
        self.traced = _trace(network, stack_inputs(*_example(network)))

    def forward(self, image: Tensor) -> Tensor:
        return self.traced(image)


def _trace(network: nn.Module, inputs: Tensor | tuple[Tensor, ...]) -> nn.Module:
    """The trace of a network; it computes on whatever device it is loaded to.

    A trace holds the device of every tensor that is made in it, and MONAI makes one for the embedding of the timestep:
    scripted, this asks for the device of the timesteps each time.
    """
    embedding = diffusion_model_unet.get_timestep_embedding
    diffusion_model_unet.get_timestep_embedding = torch.jit.script(embedding)
    try:
        return torch.jit.trace(network, inputs, check_trace=False)
    finally:
        diffusion_model_unet.get_timestep_embedding = embedding


def _example(network: MaskConditionedUNet) -> tuple[Tensor, Tensor, Tensor]:
    device = next(network.parameters()).device
    patch = torch.rand(2, 1, *[network.side_multiple] * network.spatial_dims, device=device)
    return patch, torch.tensor([0, 1], device=device), patch
