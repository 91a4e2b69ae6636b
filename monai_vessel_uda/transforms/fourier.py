r"""Fourier domain adaptation: the look of one domain, the anatomy of the other.

.. math:: x_{s \to t} = \mathcal{F}^{-1}\left[ M_\beta |\mathcal{F} x_t| + (1 - M_\beta) |\mathcal{F} x_s|,
          \; \angle \mathcal{F} x_s \right]

Reference: Yang and Soatto, "FDA: Fourier Domain Adaptation for Semantic Segmentation", CVPR 2020, equations 2 and 3.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from torch import Tensor

from monai_vessel_uda.errors import InputError


def amplitude_swap(source: Tensor, target: Tensor, beta: float) -> Tensor:
    """Give the source the target's amplitude at low frequencies and keep its own phase.

    Args:
        source: (C, *spatial) real, any number of spatial dimensions.
        target: same shape.
        beta: half width of the swapped block, as a share of the shorter spatial side, 0 to 0.5. A block of half width
            b is (2b + 1) frequencies wide, as in the paper's code; but b is at least 1, of small patches, too (there
            0.01 of 64 would be none). Zero swaps the mean alone.

    Returns:
        (C, *spatial), real, same dtype as the source.

    Raises:
        InputError: if the shapes differ or beta is out of range.
    """
    if source.shape != target.shape:
        raise InputError(f"amplitude swap: shapes differ, source {tuple(source.shape)}, target {tuple(target.shape)}")
    if not 0 <= beta <= 0.5:
        raise InputError(f"beta: expected 0 to 0.5, received {beta}")
    dims = tuple(range(1, source.ndim))
    f_source, f_target = torch.fft.fftn(source, dim=dims), torch.fft.fftn(target.to(source), dim=dims)
    half = max(1, int(beta * min(source.shape[1:]))) if beta > 0 else 0
    low = torch.ones(source.shape[1:], dtype=torch.bool, device=source.device)
    for axis, n in enumerate(source.shape[1:]):
        frequency = (torch.fft.fftfreq(n, device=source.device) * n).round().abs()
        low &= (frequency <= half).reshape([-1 if a == axis else 1 for a in range(len(dims))])
    amplitude = torch.where(low, f_target.abs(), f_source.abs())
    return torch.fft.ifftn(torch.polar(amplitude, f_source.angle()), dim=dims).real.to(source.dtype)


class RandFourierAmplitudeSwapd(RandomizableTransform, MapTransform):
    """Replace low-frequency amplitudes by those of a random reference of the other domain (:func:`amplitude_swap`).

    Args:
        keys: images (C, *spatial), range [-1, 1].
        references: target images (C, *spatial), same range; larger ones are cropped at random to the image's size.
        beta: see :func:`amplitude_swap`.
        prob: probability of the swap.
        allow_missing_keys: skip absent keys.

    The result is clipped to [-1, 1], the range every later step expects.
    """

    def __init__(
        self,
        keys: KeysCollection,
        references: Sequence[Tensor],
        beta: float = 0.01,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        if not len(references):
            raise InputError("references: expected at least one target image, received none")
        self.references, self.beta = references, beta
        self._index, self._corner = 0, (0.0,)

    def randomize(self, data: Any = None) -> None:
        """Draw whether, which reference, and where to crop it (a share of the room there is on each axis)."""
        super().randomize(None)
        self._index = int(self.R.randint(len(self.references)))
        self._corner = tuple(self.R.random_sample(3))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Swap amplitudes in every key."""
        out = dict(data)
        self.randomize()
        if not self._do_transform:
            return out
        for key in self.key_iterator(out):
            reference = self._crop(torch.as_tensor(self.references[self._index]), out[key].shape)
            out[key] = amplitude_swap(out[key], reference, self.beta).clamp(-1, 1)
        return out

    def _crop(self, reference: Tensor, shape: Sequence[int]) -> Tensor:
        if any(m < n for m, n in zip(reference.shape, shape, strict=True)):
            raise InputError(f"reference {tuple(reference.shape)} is smaller than the image {tuple(shape)}")
        starts = [int(c * (m - n + 1)) for c, m, n in zip(self._corner, reference.shape[1:], shape[1:], strict=False)]
        window = tuple(slice(start, start + n) for start, n in zip(starts, shape[1:], strict=True))
        return reference[(slice(None), *window)]
