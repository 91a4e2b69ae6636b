"""The networks that are compared, and the two things done with a generator: predicting noise, a training step."""

import copy
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from monai.networks.blocks.selfattention import SABlock
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from monai_vessel_uda.diffusion import MaskConditionedUNet
from monai_vessel_uda.losses import VesselWeightedNoiseLoss

KNOWN: dict[str, Any] = {
    "channels": [64, 64, 128, 128],
    "attention_levels": [False, False, False, True],
    "num_res_blocks": 2,
    "num_head_channels": 64,
    "norm_num_groups": 32,
    "space_to_depth": 1,
}
"""7.13 M parameters; with 64 x 64 patches in batches of 4 the configuration of earlier measurements."""
KNOWN_PATCH, KNOWN_BATCH = 64, 4

RENAMED = (
    (r"^time_embedding\.linear_1\.", "time_embed.0."),
    (r"^time_embedding\.linear_2\.", "time_embed.2."),
    (r"^conv_norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2.conv."),
    (r"^conv_in\.", "conv_in.conv."),
    (r"^mid_block\.resnets\.0\.", "middle_block.resnet_1."),
    (r"^mid_block\.resnets\.1\.", "middle_block.resnet_2."),
    (r"^mid_block\.attentions\.0\.", "middle_block.attention."),
    (r"\.downsamplers\.0\.conv\.", ".downsampler.op.conv."),
    (r"\.upsamplers\.0\.conv\.", ".upsampler.postconv.conv."),
    (r"\.conv_shortcut\.", ".skip_connection.conv."),
    (r"\.(conv[12])\.", r".\1.conv."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_out\.0\.", ".attn.out_proj."),
    (r"\.(to_[qkv])\.", r".attn.\1."),
)
"""Names of tensors: diffusers', MONAI's."""


class DiffusersUNet(nn.Module):
    """The same architecture in diffusers, called as ours is: the same channels, attention, groups, folded input.

    Args:
        definition: arguments of :class:`~monai_vessel_uda.diffusion.MaskConditionedUNet`.
    """

    def __init__(self, definition: Mapping[str, Any]) -> None:
        from diffusers import UNet2DModel

        super().__init__()
        self.fold = definition["space_to_depth"]
        kinds = ["Attn" if attends else "" for attends in definition["attention_levels"]]
        self.unet = UNet2DModel(
            in_channels=2 * self.fold**2,
            out_channels=self.fold**2,
            block_out_channels=tuple(definition["channels"]),
            down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
            up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
            layers_per_block=definition["num_res_blocks"],
            attention_head_dim=definition["num_head_channels"],
            norm_num_groups=definition["norm_num_groups"],
            norm_eps=1e-6,
        )

    def forward(self, x_t: Tensor, timesteps: Tensor, mask: Tensor) -> Tensor:
        x = torch.cat([x_t, mask], dim=1)
        if self.fold == 1:
            return self.unet(x, timesteps, return_dict=False)[0]
        x = nn.functional.pixel_unshuffle(x, self.fold)
        return nn.functional.pixel_shuffle(self.unet(x, timesteps, return_dict=False)[0], self.fold)


class PlainMonaiUNet(nn.Module):
    """MONAI's network as it comes: the mask as a second channel, every pixel at full resolution."""

    def __init__(self, definition: Mapping[str, Any]) -> None:
        super().__init__()
        options = {key: value for key, value in definition.items() if key != "space_to_depth"}
        self.unet = DiffusionModelUNet(spatial_dims=2, in_channels=2, out_channels=1, **options)

    def forward(self, x_t: Tensor, timesteps: Tensor, mask: Tensor) -> Tensor:
        return self.unet(torch.cat([x_t, mask], dim=1), timesteps)


def diffusers_weights(network: DiffusersUNet) -> dict[str, Tensor]:
    """Its weights under the names of MONAI's ``DiffusionModelUNet``."""
    state = {}
    for name, tensor in network.unet.state_dict().items():
        for theirs, ours in RENAMED:
            name = re.sub(theirs, ours, name)
        state[name] = tensor
    return state


@dataclass(frozen=True)
class Variant:
    """A network and how it is run. ``tf32`` also lets matrix products use TF32, which convolutions may by default."""

    network: Callable[[], nn.Module]
    channels_last: bool = False
    bfloat16: bool = False
    tf32: bool = False
    attention: bool = False
    fused: bool = False
    compiled: bool = False

    def build(self, device: str) -> nn.Module:
        """The network on its device, in its layout, with weights that depend on nothing else."""
        torch.manual_seed(0)
        network = self.network().to(device)
        for block in network.modules():
            if isinstance(block, SABlock):
                block.use_flash_attention = self.attention
        network = network.to(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)
        if not self.compiled:
            return network
        from torch._inductor import config

        config.force_disable_caches = True  # or compiling would take no time in a second run
        return torch.compile(network)

    def autocast(self, device: str) -> Any:
        """Context of the forward pass; sets the precision of float32 products on a GPU."""
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
        return torch.autocast(device.split(":")[0], dtype=torch.bfloat16) if self.bfloat16 else nullcontext()


class NoisePrediction:
    """One network evaluation as the samplers do it."""

    def __init__(self, variant: Variant, batch: Mapping[str, Tensor], device: str) -> None:
        self.variant, self.batch, self.device = variant, batch, device
        self.network = variant.build(device).eval()

    @torch.no_grad()
    def __call__(self) -> Tensor:
        with self.variant.autocast(self.device):
            return self.network(self.batch["x_t"], self.batch["timesteps"], self.batch["mask"])


class TrainingStep:
    """One iteration of ``noise_trainer`` on a resident batch: loss, gradient, AdamW, moving average."""

    momentum = 0.003

    def __init__(self, variant: Variant, batch: Mapping[str, Tensor], device: str) -> None:
        self.variant, self.batch, self.device = variant, batch, device
        self.network = variant.build(device).train()
        module = getattr(self.network, "_orig_mod", self.network)
        self.average = [parameter.detach().clone() for parameter in copy.deepcopy(module).parameters()]
        self.parameters = list(module.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, weight_decay=0.0, fused=variant.fused or None)
        self.loss = VesselWeightedNoiseLoss()

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with self.variant.autocast(self.device):
            prediction = self.network(self.batch["x_t"], self.batch["timesteps"], self.batch["mask"])
            loss = self.loss(prediction.float(), (self.batch["noise"], self.batch["mask"]))
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_mul_(self.average, 1 - self.momentum)
            torch._foreach_add_(self.average, self.parameters, alpha=self.momentum)


def noise_batch(batch_size: int, patch_size: int, device: str) -> dict[str, Tensor]:
    """A batch as the loss and the networks take it; a tenth of the pixels are vessel."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, 1, patch_size, patch_size)
    batch = {
        "x_t": torch.randn(shape, generator=generator),
        "noise": torch.randn(shape, generator=generator),
        "mask": (torch.rand(shape, generator=generator) < 0.1).float(),
        "timesteps": torch.randint(1000, (batch_size,), generator=generator),
    }
    return {key: value.to(device) for key, value in batch.items()}


def parameters(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_adds(function: Callable[[], Any]) -> float:
    """Multiply-add operations of convolutions and matrix products."""
    counter = FlopCounterMode(display=False)
    with counter:
        function()
    return counter.get_total_flops() / 2


def layout(network: nn.Module) -> str:
    """Memory layout of the convolutions' weights."""
    weights = [p for p in network.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    last = all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    return "channels_last" if last else "contiguous"


def ours(definition: Mapping[str, Any], **changes: Any) -> Callable[[], nn.Module]:
    """Makes our generator."""
    return lambda: MaskConditionedUNet(**{**definition, **changes})
