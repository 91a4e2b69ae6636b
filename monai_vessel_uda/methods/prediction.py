"""Whole-image vessel probabilities by sliding window, which every method and every evaluation uses; masks from them."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import ignite.distributed as idist
import torch
from torch import Tensor, nn

from ..errors import InputError

Inferer = Callable[[Tensor, nn.Module], Tensor]


VIEWS = (1, 2, 4, 8)
"""How many symmetries of the square may be averaged over: none, one flip, both flips, also with the axes swapped."""


class VesselLogit(nn.Module):
    r"""Vessel's logit minus the background's; its sigmoid is vessel's share of their softmax.

    A sliding window keeps a whole image's outputs in memory: this halves them.

    Args:
        segmenter: logits of shape (batch, 2, height, width): background, vessel.
        views: the mean over so many mirrored views of a window (test-time augmentation), each turned back; costs as
            many times the time.

    Raises:
        InputError: a number of views that is not one of ``VIEWS``.
    """

    def __init__(self, segmenter: nn.Module, views: int = 1) -> None:
        super().__init__()
        if views not in VIEWS:
            raise InputError(f"views: expected one of {', '.join(map(str, VIEWS))}, got {views!r}")
        self.segmenter, self.views = segmenter, views

    def forward(self, images: Tensor) -> Tensor:
        """Square windows, or any with up to four views, of shape (batch, 1, height, width); logits of that shape."""
        if self.views == 1:
            return self._logit(images)
        return torch.stack([self._of_view(images, number) for number in range(self.views)]).mean(dim=0)

    def _of_view(self, images: Tensor, number: int) -> Tensor:
        flipped = [axis for bit, axis in ((1, -1), (2, -2)) if number & bit]
        if number < 4:
            return self._logit(images.flip(flipped)).flip(flipped)
        return self._logit(images.mT.flip(flipped)).flip(flipped).mT

    def _logit(self, images: Tensor) -> Tensor:
        background, vessel = self.segmenter(images).split(1, dim=1)
        return vessel - background


@torch.no_grad()
def vessel_probabilities(
    network: nn.Module, images: Iterable[Tensor], inferer: Inferer, views: int = 1
) -> Generator[Tensor, None, None]:
    r"""Probability of vessel at each pixel.

    Args:
        network: segmenter with logits of shape (batch, 2, \*spatial): background, vessel.
        images: each of shape (1, \*spatial), range [-1, 1], vessels bright; sizes may differ.
        inferer: ``inferer(inputs, network)``, for example MONAI's ``SlidingWindowInferer``.
        views: of every window, see :class:`VesselLogit`.

    Yields:
        For each image the probabilities, shape (1, \*spatial), float32 on the CPU.
    """
    was_training = network.training
    of_vessel = VesselLogit(network, views).eval()
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))  # ONNX has none
    try:
        for image in images:
            logit = inferer(image[None].float().to(device), of_vessel)
            yield logit[0].sigmoid_().cpu()
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


def target_probabilities(
    network: nn.Module,
    items: Sequence[Mapping[str, Any]],
    inferer: Inferer,
    mirrors: Sequence[tuple[int, ...]] = ((),),
) -> Iterator[Tensor]:
    r""":func:`shared_vessel_probabilities` of prepared items: 0 outside the field of view, as in exported masks.

    Args:
        network: as there.
        items: with ``image`` and perhaps ``fov``, {0, 1}, both of shape (1, \*spatial).
        inferer: as there.
        mirrors: axes that an image is flipped along before, and its probabilities after; none for the image as it is.

    Yields:
        The probabilities of the first image for each of ``mirrors``, those of the second, and so on.
    """
    views = [(item, axes) for item in items for axes in mirrors]
    images = [torch.flip(item["image"], axes) if axes else item["image"] for item, axes in views]
    for (item, axes), probability in zip(views, shared_vessel_probabilities(network, images, inferer), strict=True):
        upright = torch.flip(probability, axes) if axes else probability
        yield upright * item["fov"] if "fov" in item else upright


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


def with_masks(items: Sequence[Mapping[str, Any]], masks: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Items whose ``label`` is the given mask; whatever label they had is not looked at."""
    return [{**item, "label": mask} for item, mask in zip(items, masks, strict=True)]
