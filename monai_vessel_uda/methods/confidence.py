"""Which patches of the target have pseudo-masks that the segmenter is sure of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import uniform_filter
from torch import Tensor

from ..errors import InputError


@dataclass(frozen=True)
class ConfidentCentres:
    r"""Centres of the patches whose pseudo-masks the segmenter is surest of.

    A patch's confidence is what the Dice of its pseudo-mask would be if the probabilities p were right,
    :math:`(2 \sum p \hat y + 1) / (\sum p + \sum \hat y + 1)`. A patch without a marked
    vessel is sure only if all of it together is: :math:`\sum p` well below 1. (The mean of max(p, 1 - p) would prefer
    patches without vessels.)

    Args:
        patch_size: rows and columns of a patch, pixels.
        share: of each image's admissible centres that are kept, the surest first; in (0, 1].

    Raises:
        InputError: a share that cannot be.
    """

    patch_size: Sequence[int]
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(f"confident_share: expected above 0 and at most 1, got {self.share}")

    def __call__(self, probability: Tensor, mask: Tensor, admissible: Tensor) -> Tensor:
        r"""Binary map of centres, uint8; all tensors of shape (1, \*spatial).

        Args:
            probability: of vessel.
            mask: the pseudo-mask made from it.
            admissible: binary map of the centres to choose from.
        """
        pixels = float(np.prod(self.patch_size))

        def total(values: Tensor) -> np.ndarray:
            return pixels * uniform_filter(values[0].double().numpy(), size=self.patch_size, mode="constant")

        confidence = (2 * total(probability * mask) + 1) / (total(probability) + total(mask) + 1)
        allowed = admissible[0].numpy() > 0
        least = np.quantile(confidence[allowed], 1 - self.share) if allowed.any() else 0
        return torch.from_numpy(allowed & (confidence >= least)).byte()[None]
