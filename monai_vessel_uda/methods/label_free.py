"""Which of several segmenters is best, judged without a single target mask."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.transforms import Transform
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from ..data.patches import PatchDataset
from ..errors import InputError
from ..metrics.label_free import (
    SMOOTHING,
    best_threshold,
    consistency,
    label_free_score,
    mask_prior_distance,
    prediction_entropy,
    uncertain_band_px,
    vessel_fraction,
)
from ..progress import track
from ..seeding import stable_seed
from .prediction import Inferer, target_probabilities, with_masks

MIRRORS: tuple[tuple[int, ...], ...] = ((-1,), (-2,), (-2, -1))
"""Axes to flip: views under which a segmenter should say the same as of the image as it is."""
RIM = math.ceil(3 * SMOOTHING)
"""Pixels along the edge of a field of view that the smoothing of outlines' contrast mixes with the surround."""
CONSISTENCY_IMAGES = 8
"""Images (the first ones) on which this is looked at, since every view costs one more inference."""


def measure_segmenter(
    network: nn.Module,
    items: Sequence[Mapping[str, Any]],
    probabilities: Sequence[Tensor],
    inferer: Inferer,
    *,
    source_masks: Tensor,
    patch_transform: Transform,
    seed: int,
) -> dict[str, float]:
    r"""Label-free measures of a segmenter on target images.

    Args:
        network: the segmenter.
        items: prepared target items with ``image`` and ``fov``; labels are not looked at.
        probabilities: of vessel in these images, by the segmenter; 0 outside the field of view.
        inferer: sliding window, for their flips.
        source_masks: patches of source masks at the working resolution, shape (patch, 1, \*spatial).
        patch_transform: random patch of an (image, label) item, of the size of ``source_masks``.
        seed: of the patches in which predicted masks are compared with the source's.

    Returns:
        ``threshold`` (of :func:`~monai_vessel_uda.metrics.label_free.best_threshold`) and, of the masks at this
        threshold, ``boundary_contrast``, ``mask_prior_distance``, ``consistency``, ``uncertain_band_px``,
        ``prediction_entropy``, ``vessel_fraction``.
    """
    images = [item["image"] for item in items]
    threshold, contrast = best_threshold(images, probabilities, _fovs(items))
    masks = [(p >= threshold).float() for p in probabilities]
    patches = PatchDataset(with_masks(items, masks), patch_transform, stable_seed(seed, "predicted masks"))
    predicted = torch.stack([patches[i]["label"] for i in range(len(source_masks))])
    mirrored = target_probabilities(network, items[:CONSISTENCY_IMAGES], inferer, MIRRORS)
    agreements = []
    for upright in probabilities[:CONSISTENCY_IMAGES]:
        views = [upright, *(next(mirrored) for _ in MIRRORS)]
        agreements.append(consistency([p[None] for p in views], threshold))
    return {
        "threshold": threshold,
        "boundary_contrast": contrast,
        "mask_prior_distance": mask_prior_distance(predicted, source_masks),
        "consistency": _mean(agreements),
        "uncertain_band_px": uncertain_band_px(probabilities, threshold),
        "prediction_entropy": _mean([prediction_entropy(p) for p in probabilities]),
        "vessel_fraction": _mean([vessel_fraction(p, threshold) for p in probabilities]),
    }


def calibrated_threshold(network: nn.Module, items: Sequence[Mapping[str, Any]], inferer: Inferer) -> float:
    """The probability from which on a segmenter's vessels are as thick as they look in unlabelled target images.

    Args:
        network: the segmenter.
        items: prepared target items with ``image`` and ``fov``; labels are not looked at.
        inferer: sliding window.

    Returns:
        A threshold, see :func:`~monai_vessel_uda.metrics.label_free.best_threshold`.
    """
    images = [item["image"] for item in items]
    found = target_probabilities(network, items, inferer)
    probabilities = list(track(found, "setting the threshold", len(images)))
    return best_threshold(images, probabilities, _fovs(items))[0]


def choose(measures: Mapping[str, Mapping[str, float]]) -> tuple[str, dict[str, float]]:
    """Best candidate by the label-free criterion; the earliest of equals.

    Args:
        measures: label-free measures of each candidate, in order of preference.

    Returns:
        Its name, and the score of every candidate in [0, 1].

    Raises:
        InputError: no candidates.
    """
    if not measures:
        raise InputError("segmenters: expected at least one candidate to start from, found none")
    names = list(measures)
    if len(names) == 1:
        return names[0], {names[0]: 1.0}
    scores = dict(zip(names, label_free_score([measures[name] for name in names]), strict=True))
    return max(names, key=lambda name: scores[name]), scores


def _fovs(items: Sequence[Mapping[str, Any]]) -> list[Tensor | None]:
    """Fields of view without their rim, whose edge is no vessel's; None where one is the whole image."""
    fovs = [item.get("fov") for item in items]
    return [None if fov is None or bool((fov > 0.5).all()) else _without_rim(fov) for fov in fovs]


def _without_rim(fov: Tensor) -> Tensor:
    return 1 - max_pool2d(1 - fov.float(), 2 * RIM + 1, stride=1, padding=RIM)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
