"""Networks are found in checkpoints and taken over whole; with the same predictions: tests/parity/test_network.py."""

import pytest
import torch
from monai.networks.nets import DiffusionModelUNet
from torch import nn

from monai_vessel_uda.diffusion import MaskConditionedUNet
from monai_vessel_uda.engines.generative import load_generative, read_checkpoint
from monai_vessel_uda.errors import InputError

from ..parity.library import NETWORK, generative_unet


def prefixed(state, prefix):
    return {f"{prefix}{name}": value for name, value in state.items()}


WRAPPINGS = {
    "parallel": lambda state: prefixed(state, "module."),
    "training": lambda state: {
        "epoch": 3,
        "network": state,
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]},
    },
    "lightning": lambda state: {"state_dict": prefixed(state, "unet."), "hyper_parameters": {"lr": 0.1}},
    "deep": lambda state: {"checkpoint": {"ema": prefixed(state, "module.")}},
}


@pytest.mark.parametrize("name", WRAPPINGS)
def test_the_network_is_found_wherever_it_lies(tmp_path, name):
    network = generative_unet(1, **NETWORK)
    path = tmp_path / "c.pt"
    torch.save(WRAPPINGS[name](dict(network.state_dict())), path)
    state = read_checkpoint(path)
    assert list(state) == list(network.state_dict())
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("wrap", "key"),
    [
        (lambda model, ema: {"model": model, "ema": ema}, "ema"),
        (lambda model, ema: {"state_dict": {**prefixed(model, "model."), **prefixed(ema, "ema.")}}, "state_dict.ema"),
        (lambda model, ema: {**model, **prefixed(ema, "ema.")}, "ema"),
    ],
)
def test_one_of_several_networks_must_be_named(tmp_path, wrap, key):
    model, ema = (dict(generative_unet(1, **NETWORK, seed=seed).state_dict()) for seed in (1, 2))
    path = tmp_path / "c.pt"
    torch.save(wrap(model, ema), path)
    with pytest.raises(InputError, match=f"several networks.*--key.*'{key}'"):
        read_checkpoint(path)
    with pytest.raises(InputError, match=f"'{key}'.*got 'best'"):
        read_checkpoint(path, "best")
    state = read_checkpoint(path, key)
    assert set(state) == set(ema) and all(torch.equal(state[name], ema[name]) for name in ema)


def test_a_refused_network_leaves_ours_as_it_was():
    ours = MaskConditionedUNet(**NETWORK)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    state = dict(generative_unet(1, **NETWORK).state_dict())
    del state["up_blocks.0.upsampler.conv.conv.bias"]
    with pytest.raises(InputError, match="upsampler.conv.conv.bias"):
        load_generative(ours, state, "c.pt")
    assert all(torch.equal(before[name], value) for name, value in ours.state_dict().items())


@pytest.mark.parametrize("in_channels", [1, 2])
def test_a_network_of_monai_itself_is_taken_as_it_is(in_channels):
    theirs = DiffusionModelUNet(spatial_dims=2, in_channels=in_channels, out_channels=1, **NETWORK).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    ours = load_generative(MaskConditionedUNet(**NETWORK), theirs.state_dict(), "c.pt").eval()
    x_t, mask, timesteps = torch.randn(3, 1, 16, 16), torch.ones(3, 1, 16, 16), torch.tensor([0, 400, 999])
    with torch.no_grad():
        expected = theirs(torch.cat([x_t, mask], dim=1)[:, :in_channels], timesteps)
        assert expected.abs().max() > 0.1
        assert (ours(x_t, timesteps, mask) - expected).abs().max() < 1e-5
