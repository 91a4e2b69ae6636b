"""The same weights in monai-generative's network and in ours predict the same noise."""

import pytest
import torch
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from monai_vessel_uda.diffusion import MaskConditionedUNet
from monai_vessel_uda.engines.generative import load_generative

from .library import generative_unet

DEFINITIONS = {
    "no attention but in the middle": {
        "channels": (8, 16),
        "attention_levels": (False, False),
        "num_res_blocks": 1,
        "num_head_channels": 16,
        "norm_num_groups": 4,
    },
    "attention at the coarsest level": {
        "channels": (8, 8, 16),
        "attention_levels": (False, False, True),
        "num_res_blocks": 2,
        "num_head_channels": 8,
        "norm_num_groups": 8,
    },
    "attention at all levels, other blocks at each": {
        "channels": (16, 8, 24),
        "attention_levels": (True, True, True),
        "num_res_blocks": (1, 3, 2),
        "num_head_channels": 4,
        "norm_num_groups": 2,
    },
}
TIMESTEPS = [0, 1, 499, 500, 999]
TOLERANCE = 1e-5

each_definition = pytest.mark.parametrize("definition", DEFINITIONS.values(), ids=DEFINITIONS.keys())


def inputs(batch, height=24, width=16, seed=1):
    """Noised images, timesteps that differ within the batch, soft masks."""
    generator = torch.Generator().manual_seed(seed)
    x_t = torch.randn(batch, 1, height, width, generator=generator)
    mask = (torch.rand(batch, 1, height, width, generator=generator) > 0.7).float()
    return x_t, torch.tensor([TIMESTEPS[(seed + i) % len(TIMESTEPS)] for i in range(batch)]), mask


def imported(theirs, definition, **options):
    ours = MaskConditionedUNet(**definition, **options).eval()
    return load_generative(ours, theirs.state_dict(), "checkpoint.pt")


def difference(a, b):
    assert b.abs().max() > 0.1  # there is something to compare
    return float((a - b).abs().max())


@each_definition
@pytest.mark.parametrize("batch", [1, 3, 5])
@torch.no_grad()
def test_mask_conditioned(definition, batch):
    theirs = generative_unet(2, **definition)
    ours = imported(theirs, definition)
    x_t, timesteps, mask = inputs(batch)
    expected = theirs(torch.cat([x_t, mask], dim=1), timesteps)
    assert difference(ours(x_t, timesteps, mask), expected) < TOLERANCE
    assert difference(ours(x_t, timesteps, 1 - mask), expected) > 1e-2  # the mask counts, and only the right one fits


@each_definition
@torch.no_grad()
def test_the_same_function(definition):
    """In double precision, where no rounding hides a difference."""
    theirs = generative_unet(2, **definition).double()
    ours = imported(theirs, definition).double()
    x_t, timesteps, mask = inputs(3)
    expected = theirs(torch.cat([x_t, mask], dim=1).double(), timesteps)
    assert difference(ours(x_t.double(), timesteps, mask.double()), expected) < 1e-12


@each_definition
@pytest.mark.parametrize("timestep", TIMESTEPS)
@torch.no_grad()
def test_unconditional_whatever_the_mask(definition, timestep):
    theirs = generative_unet(1, **definition, seed=timestep)
    ours = imported(theirs, definition)
    x_t, _, mask = inputs(3, seed=timestep)
    timesteps = torch.full((3,), timestep)
    expected = theirs(x_t, timesteps)
    assert difference(ours(x_t, timesteps), expected) < TOLERANCE
    assert difference(ours(x_t, timesteps, mask), expected) < TOLERANCE


@pytest.mark.parametrize("with_mask", [False, True])
@torch.no_grad()
def test_on_blocks_of_pixels(with_mask):
    definition = DEFINITIONS["attention at the coarsest level"]
    theirs = generative_unet(8 if with_mask else 4, 4, **definition)
    ours = imported(theirs, definition, space_to_depth=2)
    x_t, timesteps, mask = inputs(3, 32, 16)
    seen = torch.cat([x_t, mask], dim=1) if with_mask else x_t
    expected = pixel_shuffle(theirs(pixel_unshuffle(seen, 2), timesteps), 2)
    assert difference(ours(x_t, timesteps, mask), expected) < TOLERANCE


def test_an_unconditional_network_can_learn_to_see_masks():
    definition = DEFINITIONS["no attention but in the middle"]
    ours = imported(generative_unet(1, **definition), definition)
    x_t, timesteps, mask = inputs(3)
    ours(x_t, timesteps, mask).square().mean().backward()
    assert ours.unet.conv_in.conv.weight.grad[:, 1].abs().min() > 0


@torch.no_grad()
def test_why_monai_s_own_converter_is_not_enough():
    """It fills the output projection, which MONAI applies, with one that monai-generative has and never applies."""
    definition = DEFINITIONS["attention at all levels, other blocks at each"]
    theirs, ours = generative_unet(2, **definition), MaskConditionedUNet(**definition).eval()
    x_t, timesteps, mask = inputs(3)
    expected = theirs(torch.cat([x_t, mask], dim=1), timesteps)
    ours.unet.load_old_state_dict(dict(theirs.state_dict()))
    assert difference(ours(x_t, timesteps, mask), expected) > 1e-2
    for name, parameter in theirs.named_parameters():
        if "proj_attn" in name:
            parameter.fill_(7.0)
    assert torch.equal(theirs(torch.cat([x_t, mask], dim=1), timesteps), expected)
