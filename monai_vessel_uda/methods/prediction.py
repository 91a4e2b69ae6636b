"""Whole-image vessel probabilities by sliding window, which every method and every evaluation uses; masks from them."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from scipy.ndimage import uniform_filter
from torch import Tensor, nn

from ..errors import InputError

Inferer = Callable[[Tensor, nn.Module], Tensor]


@torch.no_grad()
def vessel_probabilities(
    network: nn.Module, images: Iterable[Tensor], inferer: Inferer
) -> Generator[Tensor, None, None]:
    r"""Probability of vessel at each pixel.

    Args:
        network: segmenter with logits of shape (batch, 2, \*spatial): background, vessel.
        images: each of shape (1, \*spatial), range [-1, 1], vessels bright; sizes may differ.
        inferer: ``inferer(inputs, network)``, for example MONAI's ``SlidingWindowInferer``.

    Yields:
        For each image the probabilities, shape (1, \*spatial), float32 on the CPU.
    """
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    try:
        for image in images:
            logits = inferer(image[None].float().to(device), network)
            yield torch.softmax(logits, dim=1)[0, 1:2].cpu()
    finally:
        network.train(was_training)


def shared_vessel_probabilities(network: nn.Module, images: Sequence[Tensor], inferer: Inferer) -> Iterator[Tensor]:
    """:func:`vessel_probabilities`, shared out between the processes of a distributed job; each gets all of them.

    Every process must ask for the same images, and for all of them: the processes go through them in step.
    """
    rank, processes = idist.get_rank(), idist.get_world_size()
    with closing(vessel_probabilities(network, images[rank::processes], inferer)) as own:
        for _ in range(0, len(images), processes):
            found: Any = idist.all_gather([next(own, None)])
            yield from (probability for (probability,) in found if probability is not None)


def pseudo_masks(probabilities: Sequence[Tensor], threshold: float | None = 0.5) -> list[Tensor]:
    r"""Masks for the target images from the segmenter's probabilities.

    Args:
        probabilities: each of shape (1, \*spatial).
        threshold: from it on is vessel; None keeps the probabilities as soft masks.

    Returns:
        float32 masks, shapes of the probabilities.
    """
    if threshold is None:
        return [p.float() for p in probabilities]
    return [(p >= threshold).float() for p in probabilities]


@dataclass(frozen=True)
class ConfidentCentres:
    r"""Centres of the patches whose pseudo-masks the segmenter is surest of.

    A patch's confidence is what the Dice of its pseudo-mask would be if the probabilities p were right,
    :math:`(2 \sum p \hat y + 1) / (\sum p + \sum \hat y + 1)`. (The mean of max(p, 1 - p) would prefer patches
    without vessels.)

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


def with_masks(items: Sequence[Mapping[str, Any]], masks: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Items whose ``label`` is the given mask; whatever label they had is not looked at."""
    return [{**item, "label": mask} for item, mask in zip(items, masks, strict=True)]
