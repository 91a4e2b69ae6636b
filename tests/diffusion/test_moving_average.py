import pytest
import torch
from ignite.engine import Engine
from ignite.handlers import EMAHandler
from torch import nn

from monai_vessel_uda.diffusion import MovingAverage


def averaged(kind, dtype):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.GroupNorm(3, 3), nn.Conv2d(3, 1, 1)).to(dtype)

    def step(engine, batch):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))

    engine, handler = Engine(step), kind(network, momentum=0.3)
    handler.attach(engine)
    engine.run([0] * 5)
    return handler.ema_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_average_is_ignites_to_the_bit(dtype):
    ours, theirs = (averaged(kind, dtype).state_dict() for kind in (MovingAverage, EMAHandler))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not any(value.requires_grad for value in averaged(MovingAverage, dtype).parameters())
