"""How sure a segmenter is of its own mask, without knowing the true one.

Symbols: ``p`` is the mean vessel probability over flips of the image, ``m = [p >= threshold]`` the mask.
Flips of a retinal image are as likely as the image, so a segmenter that disagrees with itself on them does not know;
averaging moves such pixels away from 0 and 1, as a segmenter's own doubt does.
"""

from collections.abc import Callable

import torch
from torch import Tensor

FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
"""Dimensions to flip: the image as it is, each axis, both."""


def vessel_probability(logits: Tensor) -> Tensor:
    """Probability of vessel from a network's output.

    Args:
        logits: shape (channels, …); channel 0 is the background unless there is one channel alone.

    Returns:
        Shape (…), in [0, 1].
    """
    return logits[0].sigmoid() if len(logits) == 1 else 1 - logits.softmax(dim=0)[0]


def mean_over_flips(predict: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Mean vessel probability over the flips of an image, each flipped back.

    Args:
        predict: logits, shape (channels, width, height), of an image.
        image: shape (1, width, height).

    Returns:
        ``p``, shape (width, height), in [0, 1].
    """
    return torch.stack([vessel_probability(predict(image.flip(f))).flip(f) for f in FLIPS]).mean(dim=0)


def uncertainty(probability: Tensor, threshold: float = 0.5) -> float:
    """One minus the Dice that the segmenter expects of its own mask: 1 - 2 Σ p m / (Σ p + Σ m).

    It compares images with few and with many vessels, since only what would count as an error of the mask counts.

    Args:
        probability: ``p``, any shape.
        threshold: probability from which on a pixel is vessel.

    Returns:
        0 (every pixel certain) to 1; 1 also where no pixel reaches the threshold, for then nothing vouches for it.

    Example:
        >>> uncertainty(torch.tensor([1.0, 1.0, 0.0, 0.0]))
        0.0
        >>> round(uncertainty(torch.tensor([0.6, 0.6, 0.4, 0.4])), 2)
        0.4
    """
    p = probability.double()
    m = (p >= threshold).double()
    mass = float(p.sum() + m.sum())
    return 1 - 2 * float((p * m).sum()) / mass if mass else 1.0
