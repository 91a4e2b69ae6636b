r"""Variance schedules of the forward process, eq. 1.

.. math::
    q(x_t \mid x_{t-1}) = \mathcal N(\sqrt{1-\beta_t}\,x_{t-1}, \beta_t I)
    \quad\Rightarrow\quad
    x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon,
    \qquad \bar\alpha_t = \prod_{i \le t} (1-\beta_i).

The paper writes :math:`\alpha_t` for :math:`\bar\alpha_t` (as DDIM does); the code says ``alpha_bar``.
Timesteps count from 0 to ``num_train_timesteps - 1``; the clean image is timestep ``-1``, where
:math:`\bar\alpha = 1`.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from ..errors import InputError
from ..tensors import moved_to

CLEAN = -1
"""Timestep of the clean image."""


class NoiseSchedule:
    """Noise level of every timestep.

    Args:
        name: ``linear`` (Ho et al. 2020; the paper's) or ``cosine`` (Nichol & Dhariwal 2021, eq. 17).
        num_train_timesteps: T, the number of diffusion steps.
        beta_start: first variance of the linear schedule.
        beta_end: last variance of the linear schedule.

    Raises:
        InputError: unknown name, or fewer than one timestep.

    Example:
        >>> schedule = NoiseSchedule("linear", 1000)
        >>> round(float(schedule.alpha_bar(299)), 3)
        0.396
    """

    def __init__(
        self,
        name: Literal["linear", "cosine"] = "linear",
        num_train_timesteps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
    ) -> None:
        if num_train_timesteps < 1:
            raise InputError(f"num_train_timesteps: expected at least 1, got {num_train_timesteps}")
        if name == "linear":
            betas = torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float64)
        elif name == "cosine":
            betas = _cosine_betas(num_train_timesteps)
        else:
            raise InputError(f"schedule name: expected 'linear' or 'cosine', got {name!r}")
        self.name = name
        self.num_train_timesteps = num_train_timesteps
        # The last entry is the clean image, so that index -1 finds it.
        self._alpha_bar = torch.cat([torch.cumprod(1 - betas, 0), torch.ones(1, dtype=torch.float64)])

    def alpha_bar(self, timestep: int | Tensor) -> Tensor:
        r"""Signal power :math:`\bar\alpha_t`, float64, of the shape of ``timestep``; 1 at timestep -1."""
        return self._alpha_bar[torch.as_tensor(timestep).cpu()]

    def signal_to_noise(self, timestep: int | Tensor) -> Tensor:
        r"""Ratio of signal to noise power :math:`\bar\alpha_t / (1 - \bar\alpha_t)`; infinite at timestep -1."""
        alpha_bar = self.alpha_bar(timestep)
        return alpha_bar / (1 - alpha_bar)

    def add_noise(self, x_0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        r"""Draw from :math:`q(x_t \mid x_0)` with the given noise.

        Args:
            x_0: clean images, shape (batch, channel, \*spatial).
            noise: standard normal, shape of ``x_0``.
            timesteps: shape (batch,), from -1 to T - 1.

        Returns:
            Noised images, shape and dtype of ``x_0``.
        """
        alpha_bar = self.alpha_bar(timesteps).view(-1, *[1] * (x_0.ndim - 1))
        signal, deviation = (moved_to(x_0, share.sqrt()) for share in (alpha_bar, 1 - alpha_bar))
        return signal * x_0 + deviation * noise


def _cosine_betas(num_train_timesteps: int, offset: float = 0.008, largest: float = 0.999) -> Tensor:
    time = torch.linspace(0, 1, num_train_timesteps + 1, dtype=torch.float64)
    alpha_bar = torch.cos((time + offset) / (1 + offset) * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=largest)
