r"""DPM-Solver++(2M): as few network evaluations as possible from a latent, or pure noise, to the clean image.

With :math:`\alpha=\sqrt{\bar\alpha}`, :math:`\sigma=\sqrt{1-\bar\alpha}`, :math:`\lambda=\log(\alpha/\sigma)` and
:math:`h=\lambda_s-\lambda_t` for a step from t to s, the exact solution of the probability flow that
eq. 4 integrates is

.. math::
    x_s = \frac{\sigma_s}{\sigma_t} x_t
          + \sigma_s \int_{\lambda_t}^{\lambda_s} e^{\lambda} f_\theta(x_\lambda)\,d\lambda .

A constant :math:`f_\theta` under the integral gives DDIM; here it is the line through this step's and the last step's
(eq. 5), so that the error of a chain falls with the square of the number of steps:

.. math::
    x_s = \frac{\sigma_s}{\sigma_t} x_t - \alpha_s (e^{-h}-1) \Big[f_\theta(x_t)
          + \frac{h}{2 h'} \big(f_\theta(x_t) - f_\theta(x_{t'})\big)\Big],

where t' is the step before and :math:`h'=\lambda_t-\lambda_{t'}`. The first step and the one to the clean image, where
:math:`\lambda` is infinite, are DDIM's.

Source: Lu et al., DPM-Solver++, 2022 (arXiv:2211.01095), algorithm 2.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from .ddim import NoisePrediction, Pair, predict_clean, timesteps_of
from .schedule import CLEAN, NoiseSchedule


@torch.no_grad()
def generate_2m(
    noise_prediction: NoisePrediction,
    x_t: Tensor,
    schedule: NoiseSchedule,
    pairs: Iterable[Pair],
    clamp: bool = False,
) -> Tensor:
    r"""Deterministic generation like :func:`~monai_vessel_uda.diffusion.generate`, of second order.

    Args:
        noise_prediction: see the head of :mod:`.ddim`.
        x_t: latents at the first pair's t, shape (batch, channel, \*spatial).
        schedule: noise levels.
        pairs: adjoining (t, s) with s < t, from :func:`~monai_vessel_uda.diffusion.generation_pairs`.
        clamp: clamp the implied clean image to [-1, 1] at each step.

    Returns:
        Images, shape and dtype of ``x_t``, nominally in [-1, 1].
    """
    x = x_t
    last: tuple[Tensor, Tensor] | None = None  # clean image and width of the step before
    for t, s in pairs:
        alpha_bar_t, alpha_bar_s = schedule.alpha_bar(t), schedule.alpha_bar(s)
        x_0 = predict_clean(x, noise_prediction(x, timesteps_of(x, t)), alpha_bar_t, clamp)
        width = _half_log_snr(alpha_bar_s) - _half_log_snr(alpha_bar_t)
        clean = x_0
        if last is not None and s != CLEAN:
            clean = x_0 + (width / (2 * last[1])).to(x.dtype) * (x_0 - last[0])
        shrunk = ((1 - alpha_bar_s) / (1 - alpha_bar_t)).sqrt()
        gained = -alpha_bar_s.sqrt() * torch.expm1(-width)
        x = shrunk.to(x.dtype) * x + gained.to(x.dtype) * clean
        last = x_0, width
    return x


def _half_log_snr(alpha_bar: Tensor) -> Tensor:
    r""":math:`\lambda=\log(\alpha/\sigma)`; infinite for the clean image."""
    return (alpha_bar.log() - (1 - alpha_bar).log()) / 2
