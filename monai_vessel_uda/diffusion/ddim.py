r"""Samplers over explicit timestep pairs: DDIM both ways (eqs. 4 to 6) and ancestral sampling (eq. 2).

With :math:`\bar\alpha` from :mod:`.schedule` and a noise prediction :math:`\epsilon = \epsilon_\theta(x_t, t)`:

.. math::
    f_\theta(x_t, t) = \frac{x_t - \sqrt{1-\bar\alpha_t}\,\epsilon}{\sqrt{\bar\alpha_t}}                 \tag{5}

.. math::
    x_s = \sqrt{\bar\alpha_s}\,f_\theta(x_t, t) + \sqrt{1-\bar\alpha_s}\,\epsilon                     \tag{4, 6}

Equation 4 is this step with s < t (denoising), equation 6 the same step with s > t (inversion). A step takes
BOTH times, so any number of steps and any start is exact, and inverse after forward is the identity wherever
the noise prediction is the same.

A *noise prediction* is any callable ``(x_t, timesteps) -> epsilon`` with ``x_t`` of shape
(batch, channel, \*spatial) and integer ``timesteps`` of shape (batch,); bind the mask with
``functools.partial``.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import InputError
from ..tensors import batch_like
from .schedule import CLEAN, NoiseSchedule

NoisePrediction = Callable[[Tensor, Tensor], Tensor]
Pair = tuple[int, int]
Spacing = Literal["trailing", "leading", "quadratic"]
"""Of the timesteps that a sampler visits, see :func:`timestep_grid`."""


def timestep_grid(num_train_timesteps: int, steps: int, spacing: Spacing = "trailing") -> list[int]:
    """Ascending timesteps that a sampler visits, from the clean image (-1) on; ``steps + 1`` entries.

    Args:
        num_train_timesteps: T.
        steps: number of sampler steps between clean image and noise, 1 to T.
        spacing: ``trailing`` ends at T - 1 (pure noise); ``leading`` visits 0, T // steps, 2 (T // steps), …
            as DDIM's authors do; ``quadratic`` ends at T - 1 with steps that grow with the noise (theirs, too, for
            few steps), which suits solvers of higher order.

    Raises:
        InputError: ``steps`` outside 1..T, or an unknown spacing.

    Example:
        >>> timestep_grid(1000, 5)
        [-1, 199, 399, 599, 799, 999]
        >>> timestep_grid(1000, 5, "leading")
        [-1, 0, 200, 400, 600, 800]
        >>> timestep_grid(1000, 5, "quadratic")
        [-1, 39, 159, 359, 639, 999]
    """
    if not 1 <= steps <= num_train_timesteps:
        raise InputError(f"steps: expected 1 to {num_train_timesteps} (the number of timesteps), got {steps}")
    if spacing == "trailing":
        return [round(i * num_train_timesteps / steps) - 1 for i in range(steps + 1)]
    if spacing == "quadratic":
        return [max(i, round(num_train_timesteps * (i / steps) ** 2)) - 1 for i in range(steps + 1)]
    if spacing == "leading":
        return [CLEAN, *range(0, num_train_timesteps // steps * steps, num_train_timesteps // steps)]
    raise InputError(f"spacing: expected one of {', '.join(get_args(Spacing))}, got {spacing!r}")


def inversion_pairs(grid: Sequence[int], t0: int | None = None) -> list[Pair]:
    """Pairs (t, s), s > t, of the first ``t0`` steps from the clean image upwards (all steps by default)."""
    t0 = _checked_start(grid, t0)
    return list(zip(grid[:t0], grid[1 : t0 + 1], strict=True))


def generation_pairs(grid: Sequence[int], t0: int | None = None) -> list[Pair]:
    """Pairs (t, s), s < t, from step ``t0`` (the noisiest by default) down to the clean image."""
    return [(t, s) for s, t in reversed(inversion_pairs(grid, t0))]


def predict_clean(x_t: Tensor, noise: Tensor, alpha_bar_t: Tensor, clamp: bool = False) -> Tensor:
    """Clean image that a noise prediction implies, eq. 5; clamped to [-1, 1] on request."""
    x_0 = (x_t - (1 - alpha_bar_t).sqrt().to(x_t.dtype) * noise) / alpha_bar_t.sqrt().to(x_t.dtype)
    return x_0.clamp(-1, 1) if clamp else x_0


def ddim_step(x_t: Tensor, noise: Tensor, alpha_bar_t: Tensor, alpha_bar_s: Tensor, clamp: bool = False) -> Tensor:
    """Move from noise level t to noise level s along the predicted noise, eqs. 4 and 6."""
    x_0 = predict_clean(x_t, noise, alpha_bar_t, clamp)
    return alpha_bar_s.sqrt().to(x_t.dtype) * x_0 + (1 - alpha_bar_s).sqrt().to(x_t.dtype) * noise


@torch.no_grad()
def invert(
    noise_prediction: NoisePrediction,
    x_0: Tensor,
    schedule: NoiseSchedule,
    pairs: Iterable[Pair],
    clamp: bool = False,
    refinements: int = 0,
) -> Tensor:
    r"""Deterministic inversion, eq. 6: clean images to latents.

    Equation 6 predicts the noise at the step's start (t); the exact inverse of eq. 4 needs it at the step's
    end (s), where the result is not known yet. ``refinements`` fixed-point iterations
    :math:`x_s \leftarrow step(x_t, \epsilon_\theta(x_s, s))` close that gap (Pan et al. 2023, AIDI).

    Args:
        noise_prediction: see the module's head.
        x_0: clean images, shape (batch, channel, \*spatial), range [-1, 1].
        schedule: noise levels.
        pairs: (t, s) with s > t, from :func:`inversion_pairs`.
        clamp: clamp the implied clean image at each step, as the authors' release does; breaks exactness.
        refinements: fixed-point iterations for each step, each one more network evaluation.

    Returns:
        Latents, shape and dtype of ``x_0``; floats, not bounded to [-1, 1].
    """
    x = x_0
    for t, s in pairs:
        alpha_bar_t, alpha_bar_s = schedule.alpha_bar(t), schedule.alpha_bar(s)
        x_s = ddim_step(x, noise_prediction(x, timesteps_of(x, t)), alpha_bar_t, alpha_bar_s, clamp)
        for _ in range(refinements):
            x_s = ddim_step(x, noise_prediction(x_s, timesteps_of(x, s)), alpha_bar_t, alpha_bar_s, clamp)
        x = x_s
    return x


@torch.no_grad()
def generate(
    noise_prediction: NoisePrediction,
    x_t: Tensor,
    schedule: NoiseSchedule,
    pairs: Iterable[Pair],
    clamp: bool = False,
) -> Tensor:
    r"""Deterministic generation, eq. 4: latents (or pure noise) to clean images.

    Args:
        noise_prediction: see the module's head.
        x_t: latents at the first pair's t, shape (batch, channel, \*spatial).
        schedule: noise levels.
        pairs: (t, s) with s < t, from :func:`generation_pairs`.
        clamp: clamp the implied clean image to [-1, 1] at each step.

    Returns:
        Images, shape and dtype of ``x_t``, nominally in [-1, 1].
    """
    x = x_t
    for t, s in pairs:
        noise = noise_prediction(x, timesteps_of(x, t))
        x = ddim_step(x, noise, schedule.alpha_bar(t), schedule.alpha_bar(s), clamp)
    return x


@torch.no_grad()
def sample_ancestral(
    noise_prediction: NoisePrediction,
    x_t: Tensor,
    schedule: NoiseSchedule,
    pairs: Iterable[Pair],
    generators: Sequence[torch.Generator],
    clamp: bool = False,
) -> Tensor:
    r"""Ancestral sampling, eq. 2: the posterior :math:`q(x_s \mid x_t, x_0)` with the predicted :math:`x_0`.

    With :math:`a = \bar\alpha_t / \bar\alpha_s` the mean equals eq. 2's
    :math:`(x_t - (1-a)/\sqrt{1-\bar\alpha_t}\;\epsilon)/\sqrt a` (for adjacent timesteps
    :math:`1-a=\beta_t`), the variance is :math:`(1-a)(1-\bar\alpha_s)/(1-\bar\alpha_t)`, so strided pairs are
    exact too.

    Args:
        noise_prediction: see the module's head.
        x_t: latents at the first pair's t, shape (batch, channel, \*spatial).
        schedule: noise levels.
        pairs: (t, s) with s < t, from :func:`generation_pairs`.
        generators: one for each image of the batch, so that an image does not depend on its neighbours.
        clamp: clamp the implied clean image to [-1, 1] at each step.

    Returns:
        Images, shape and dtype of ``x_t``.
    """
    x = x_t
    for t, s in pairs:
        alpha_bar_t, alpha_bar_s = schedule.alpha_bar(t), schedule.alpha_bar(s)
        ratio = alpha_bar_t / alpha_bar_s
        x_0 = predict_clean(x, noise_prediction(x, timesteps_of(x, t)), alpha_bar_t, clamp)
        weight_0 = alpha_bar_s.sqrt() * (1 - ratio) / (1 - alpha_bar_t)
        weight_t = ratio.sqrt() * (1 - alpha_bar_s) / (1 - alpha_bar_t)
        deviation = ((1 - ratio) * (1 - alpha_bar_s) / (1 - alpha_bar_t)).sqrt()
        x = weight_0.to(x.dtype) * x_0 + weight_t.to(x.dtype) * x
        if s != CLEAN:
            x = x + deviation.to(x.dtype) * seeded_noise(x, generators)
    return x


def seeded_noise(like: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise of the shape, dtype and device of ``like``, one generator for each image.

    Drawn on the generators' own device (the CPU), so that a seed means the same noise on every machine.
    """
    draws = [torch.randn(like.shape[1:], generator=g, dtype=like.dtype, device=g.device) for g in generators]
    return batch_like(like, draws)


def timesteps_of(x: Tensor, t: int) -> Tensor:
    """Timestep t for every image of a batch; 0 for the clean image, of which a network knows no timestep."""
    return torch.full((x.shape[0],), max(t, 0), dtype=torch.long, device=x.device)


def _checked_start(grid: Sequence[int], t0: int | None) -> int:
    steps = len(grid) - 1
    if t0 is None:
        return steps
    if not 1 <= t0 <= steps:
        raise InputError(f"t0: expected 1 to {steps} (the number of sampler steps), got {t0}")
    return t0
