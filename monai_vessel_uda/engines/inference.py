"""Segmenting and scoring whole images at their native size."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..data.images import image_size, read_mask
from ..files import save_json
from ..methods.prediction import Inferer, vessel_probabilities
from ..metrics.segmentation import score_image, summarise
from ..progress import track


def native_probabilities(
    network: nn.Module,
    items: Iterable[Mapping[str, Any]],
    transform: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    inferer: Inferer,
    views: int = 1,
) -> Iterator[Tensor]:
    """Vessel probabilities of image files, at the files' own size.

    Args:
        network: segmenter.
        items: with ``image``, the path.
        transform: the target's preprocessing, to ``image`` and perhaps ``fov`` at the working resolution.
        inferer: sliding window.
        views: mirrored views that are averaged, see :class:`~monai_vessel_uda.methods.prediction.VesselLogit`.

    Yields:
        Probabilities, shape (height, width), one image in memory at a time.
    """
    for item in items:
        prepared = transform(dict(item))
        (probability,) = vessel_probabilities(network, [prepared["image"]], inferer, views)
        if "fov" in prepared:
            probability = probability * (prepared["fov"] > 0.5)
        yield to_size(probability, image_size(item["image"]))[0]


def to_size(probability: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resize of (1, height, width) to ``size``; stays within [0, 1], which rounding may leave."""
    if tuple(probability.shape[1:]) == tuple(size):
        return probability
    resized = F.interpolate(probability[None], size=tuple(size), mode="bilinear", align_corners=False, antialias=True)
    return resized[0].clamp_(0, 1)


def check_evaluation(items: Iterable[Mapping[str, Any]]) -> None:
    """Refuse masks that :func:`evaluate_segmenter` would refuse, before hours of training; nothing of them is kept.

    Args:
        items: with ``label`` and perhaps ``fov``, the paths. Files that are not there may come before the scores.

    Raises:
        InputError: a file that is no mask.
    """
    for item in items:
        for key in ("label", "fov"):
            if item.get(key) and Path(item[key]).exists():
                read_mask(item[key])


def evaluate_segmenter(
    network: nn.Module,
    items: Sequence[Mapping[str, Any]],
    transform: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    inferer: Inferer,
    *,
    output: str | Path | None = None,
    threshold: float = 0.5,
    seed: int = 0,
    views: int = 1,
    conditions: Mapping[str, Any] | None = None,
    label: str = "evaluating",
) -> dict[str, Any]:
    """Scores against masks, at native size. But for their check above, only this reads evaluation masks.

    Args:
        network: segmenter.
        items: with ``image`` and ``label``, the paths, ``dataset`` and ``group``, the patient.
        transform: the target's preprocessing; must not need the label.
        inferer: sliding window.
        output: JSON file to write the result to.
        threshold: least probability of a vessel pixel.
        seed: of the bootstrap.
        views: mirrored views that are averaged.
        conditions: what else the scores depend on, to go into the result.
        label: name in progress lines.

    Returns:
        ``per_image`` (id and scores), ``summary`` (mean and 95 % bootstrap interval of each score), ``threshold``, and
        the ``conditions``.
    """
    rows = []
    probabilities = native_probabilities(network, _without_labels(items), transform, inferer, views)
    for item, probability in zip(track(items, label), probabilities, strict=True):
        mask = read_mask(item["label"])
        fov = read_mask(item["fov"]) if item.get("fov") else None
        rows.append(score_image(probability.numpy(), mask, fov, threshold))
    per_image = [{"id": str(item["id"]), "scores": row} for item, row in zip(items, rows, strict=True)]
    patients = [(item["dataset"], item["group"]) for item in items]
    result = {"per_image": per_image, "summary": summarise(rows, seed, groups=patients), "threshold": threshold}
    result["conditions"] = dict(conditions or {})
    if output is not None:
        save_json(result, output)
    return result


def _without_labels(items: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for item in items:
        yield {key: value for key, value in item.items() if key != "label"}
