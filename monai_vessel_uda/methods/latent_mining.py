r"""Latent similarity mining and iterative co-optimisation (arXiv:2604.01553).

==================  =============================================  =====================================
Equation, section    Here                                           Test
==================  =============================================  =====================================
eq. 1, 3             ``PrepareNoisePrediction`` (engines)           ``tests/engines/test_trainers.py``
eq. 2                ``diffusion.sample_ancestral``                 ``tests/diffusion/test_ddim.py``
eq. 4, 5, 6          ``diffusion.generate``, ``diffusion.invert``   ``tests/diffusion/test_ddim.py``
sec. 2.2             :meth:`LatentMining.latents`, ``.decode``      ``tests/methods/test_latent_mining.py``
sec. 2.2, 2.3        ``mine_pairs``, ``regenerate_pairs`` (pairs)   ``tests/methods/test_pairs.py``
sec. 2.3             :class:`CoOptimization`                        ``tests/methods/test_co_optimization.py``
==================  =============================================  =====================================

Symbols: :math:`x^A, y^A` source image and mask, :math:`x^B` target image, :math:`\epsilon^A, \epsilon^B` the
generators, :math:`S_k` the segmenter after round k, :math:`t_0` the number of inversion steps.

Where text and release differ: the release inverts with the implied clean image clamped (``clamp=True`` here) and
decodes with 300 ancestral steps (``decoder="ancestral", decoding_steps=300``) what it had stored in 8 bits
(``eight_bit_latents=True``); the default is the text's, deterministic both ways, unclamped, and kept as floats.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..data.patches import PatchDataset
from ..diffusion import (
    NoiseSchedule,
    generate,
    generate_2m,
    generation_pairs,
    inversion_pairs,
    invert,
    sample_ancestral,
    timestep_grid,
)
from ..diffusion.ddim import Spacing, seeded_noise
from ..errors import InputError
from ..seeding import stable_seed

Decoder = Literal["ddim", "dpm-solver", "ancestral"]
"""How latents and noise become images: eq. 4, the same to second order, or eq. 2."""


@dataclass(frozen=True)
class IntensityRange:
    """What brightness and contrast real target patches have: 1st to 99th percentile of patch mean and deviation.

    A generator that has not seen enough draws some patches far too bright or dark, because the lowest frequencies are
    the last that a diffusion model learns and survive the inversion (sec. 2.2). Such a patch teaches the segmenter
    nothing.

    Args:
        mean: 1st and 99th percentile over the patches of their mean.
        deviation: the same of their standard deviation.
        means: mean of every patch, of which :meth:`brightness` takes one.
    """

    mean: tuple[float, float]
    deviation: tuple[float, float]
    means: tuple[float, ...] = (0.0,)

    @classmethod
    def of(cls, patches: Tensor) -> "IntensityRange":
        r"""Measure real patches of shape (patch, 1, \*spatial)."""
        levels = torch.tensor([0.01, 0.99])
        means, deviations = patches.flatten(1).mean(1), patches.flatten(1).std(1)
        mean, deviation = (values.quantile(levels).tolist() for values in (means, deviations))
        return cls(tuple(mean), tuple(deviation), tuple(means.tolist()))

    def brightness(self, numbers: Sequence[int]) -> Tensor:
        """Mean of a real patch for each number, always the same one, shape (number,)."""
        return torch.tensor([self.means[stable_seed("brightness", n) % len(self.means)] for n in numbers])

    @classmethod
    def of_dataset(cls, patches: PatchDataset, count: int) -> "IntensityRange":
        """Measure the first ``count`` patches of a dataset of real target patches."""
        return cls.of(torch.stack([patches[i]["image"] for i in range(count)]))

    def correct(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        r"""Bring patches that fall outside back to the nearest end of the range, by an affine map.

        Args:
            patches: generated patches, shape (patch, 1, \*spatial).

        Returns:
            The patches clamped to [-1, 1], and for each whether it had to be corrected.

        Raises:
            InputError: NaN or infinity in a patch; no affine map mends it, and the segmenter would learn from it.
        """
        diverged = int((~patches.isfinite()).flatten(1).any(1).sum())
        if diverged:
            raise InputError(
                f"generated patches: expected finite intensities, got NaN or infinity in {diverged} of {len(patches)}; "
                "the generator has diverged, train it again with a lower learning_rate"
            )
        shape = (-1, *[1] * (patches.ndim - 1))
        mean, deviation = patches.flatten(1).mean(1), patches.flatten(1).std(1)
        new_mean, new_deviation = mean.clamp(*self.mean), deviation.clamp(*self.deviation)
        gain = (new_deviation / deviation.clamp(min=1e-6)).view(shape)
        corrected = (patches - mean.view(shape)) * gain + new_mean.view(shape)
        return corrected.clamp(-1, 1), (new_mean != mean) | (new_deviation != deviation)


@dataclass(frozen=True)
class LatentMining:
    """Sec. 2.2: source images to target-looking images with known masks.

    Args:
        schedule: noise levels of both generators.
        steps: DDIM steps between clean image and noise (50).
        t0: steps of deterministic noising (15), fewer than ``steps``.
        clamp: clamp the implied clean image while inverting.
        refinements: fixed-point iterations of each inversion step.
        eight_bit_latents: round latents to 8 bits in [-1, 1] and clip them, as the authors' release does; a fifth of
            their values is clipped.
        decoder: ``ddim`` (eq. 4), ``dpm-solver`` (DPM-Solver++(2M), which needs fewer steps) or ``ancestral`` (eq. 2).
        decoding_steps: steps from the latent down to the clean image; t0 by default.
        generation_steps: steps from noise to the clean image, for rounds that start from noise.
        generation_timesteps: timesteps from which these go down; all by default, from pure noise. At the noisiest ones
            a small generator turns every image to the same brightness; below them the start is a flat image of a real
            patch's brightness, noised.
        decoding_spacing: of the timesteps of decoding and of generation, ``trailing`` or ``quadratic``: both begin at
            the very timestep of what is decoded.
        seed: of ancestral noise and of pure noise.

    Raises:
        InputError: t0 not below ``steps``, an unknown decoder or decoding_spacing, or more timesteps than there are.
    """

    schedule: NoiseSchedule
    steps: int = 50
    t0: int = 15
    clamp: bool = False
    refinements: int = 0
    eight_bit_latents: bool = False
    decoder: Decoder = "ddim"
    decoding_steps: int | None = None
    generation_steps: int = 50
    generation_timesteps: int | None = None
    decoding_spacing: Spacing = "trailing"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.t0 < self.steps:
            raise InputError(f"t0: expected 1 to steps - 1 = {self.steps - 1}, got {self.t0}")
        if self.decoder not in get_args(Decoder):
            raise InputError(f"decoder: expected one of {', '.join(get_args(Decoder))}, got {self.decoder!r}")
        if self.decoding_spacing not in ("trailing", "quadratic"):
            raise InputError(f"decoding_spacing: expected 'trailing' or 'quadratic', got {self.decoding_spacing!r}")
        highest = self.schedule.num_train_timesteps
        if self.generation_timesteps is not None and not 1 <= self.generation_timesteps <= highest:
            raise InputError(f"generation_timesteps: expected 1 to {highest}, got {self.generation_timesteps}")
        self._decoding_grid()  # both refuse more steps than there are timesteps
        self._generation_grid()

    @property
    def inverted_timesteps(self) -> int:
        """How many timesteps, from the least noisy on, lie between a clean image and its latent."""
        return self._grid()[self.t0] + 1

    def latents(self, eps_a: nn.Module, x_a: Tensor, y_a: Tensor) -> Tensor:
        r"""x^A_{t0}: t0 steps of eq. 6 under the mask, shapes (batch, 1, \*spatial)."""
        pairs = inversion_pairs(self._grid(), self.t0)
        latents = invert(_under(eps_a, y_a), x_a, self.schedule, pairs, self.clamp, self.refinements)
        return ((latents.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1 if self.eight_bit_latents else latents

    def decode(self, eps_b: nn.Module, latents: Tensor, mask: Tensor | None, numbers: Sequence[int]) -> Tensor:
        r"""x^{A→B}: latents to target images.

        Args:
            eps_b: target generator.
            latents: shape (batch, 1, \*spatial), at step t0.
            mask: the source masks, or None for the unconditional generator of the first generation.
            numbers: the patches' numbers; ancestral noise depends on them, not on the batch.
        """
        return self._sample(eps_b, latents, mask, generation_pairs(self._decoding_grid()), numbers, clamp=False)

    def from_noise(self, eps_b: nn.Module, mask: Tensor, numbers: Sequence[int], clean: Tensor | None = None) -> Tensor:
        """Target images for masks, from noise that depends on the patches' numbers alone.

        The implied clean image is clamped: at the noisiest timesteps eq. 5 divides by nearly zero, and an error of the
        noise prediction would grow a hundredfold.

        Args:
            eps_b: target generator.
            mask: the source masks.
            numbers: the patches' numbers.
            clean: images that are noised to begin with, of a shape that broadcasts to the masks', so that
                (batch, 1, 1, 1) are flat ones; 0 by default. They are without effect where the noise is pure.
        """
        timesteps = self.generation_timesteps or self.schedule.num_train_timesteps
        noise = seeded_noise(mask, [_generator(self.seed, "start", number) for number in numbers])
        clean = torch.zeros_like(mask) if clean is None else clean.to(mask).expand_as(mask)
        start = self.schedule.add_noise(clean, noise, torch.full((len(mask),), timesteps - 1))
        return self._sample(eps_b, start, mask, generation_pairs(self._generation_grid()), numbers, clamp=True)

    def _sample(
        self,
        eps_b: nn.Module,
        x_t: Tensor,
        mask: Tensor | None,
        pairs: list[tuple[int, int]],
        numbers: Sequence[int],
        clamp: bool,
    ) -> Tensor:
        eps = _under(eps_b, mask)
        if self.decoder == "ancestral":
            generators = [_generator(self.seed, "ancestral", number) for number in numbers]
            return sample_ancestral(eps, x_t, self.schedule, pairs, generators, clamp)
        solve = generate if self.decoder == "ddim" else generate_2m
        return solve(eps, x_t, self.schedule, pairs, clamp)

    def _grid(self) -> list[int]:
        return timestep_grid(self.schedule.num_train_timesteps, self.steps)

    def _decoding_grid(self) -> list[int]:
        return timestep_grid(self.inverted_timesteps, self.decoding_steps or self.t0, self.decoding_spacing)

    def _generation_grid(self) -> list[int]:
        timesteps = self.generation_timesteps or self.schedule.num_train_timesteps
        return timestep_grid(timesteps, self.generation_steps, self.decoding_spacing)


def _under(network: nn.Module, mask: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
    return partial(network, mask=mask)


def _generator(*parts: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(stable_seed(*parts))
