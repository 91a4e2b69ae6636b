"""The moving average of a generator's weights, which is what generates."""

import torch
from ignite.engine import Engine
from ignite.handlers import EMAHandler
from torch import Tensor


class MovingAverage(EMAHandler):
    r"""Ignite's handler, :math:`\bar\theta \leftarrow (1 - m) \bar\theta + m \theta`, for all weights at once.

    Ignite's own goes from one tensor to the next, two small kernels each. The results are the same to the bit.

    It is for networks without buffers.
    """

    @torch.no_grad()
    def _update_ema_model(self, engine: Engine, name: str) -> None:
        momentum = getattr(engine.state, name)
        averages: list[Tensor] = list(self.ema_model.parameters())
        weights: list[Tensor] = list(self.model.parameters())
        torch._foreach_mul_(averages, 1.0 - momentum)
        torch._foreach_add_(averages, weights, alpha=momentum)
