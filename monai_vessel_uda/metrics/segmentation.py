r"""Scores of a vessel probability map against a reference mask, and their uncertainty over images.

Only the evaluator may call this module: it reads masks. Every score is computed inside the field of view when
one is given, as if the pixels outside did not exist (distances: as if no vessel were there).

With TP, FP, TN, FN counted over pixels, :math:`P` the thresholded prediction, :math:`R` the reference,
:math:`S_X` the skeleton of :math:`X` and :math:`d(a, B) = \min_{b \in B} \lVert a - b \rVert`:

================== ============================================================ ==== ===================
key                definition                                                   unit empty-mask rule
================== ============================================================ ==== ===================
dice               2 TP / (2 TP + FP + FN)                                           both 1, one 0
dice_at_half       dice at the threshold 0.5, whatever the threshold                 both 1, one 0
roc_auc            area under the ROC curve of the probabilities                     one class only: NaN
pr_auc             average precision of the probabilities                            no vessel: NaN
accuracy           (TP + TN) / all                                                   always defined
sensitivity        TP / (TP + FN)                                                    no vessel: NaN
specificity        TN / (TN + FP)                                                    all vessel: NaN
balanced_accuracy  (sensitivity + specificity) / 2                                   NaN if either is
cldice             harmonic mean of \|S_P ∩ R\|/\|S_P\| and \|S_R ∩ P\|/\|S_R\|      both 1, one 0
ahd_px             max(mean over P of d(p, R), mean over R of d(r, P))          px   both 0, one diagonal
hd95_px            max of the two directed 95th percentiles of d between edges  px   both 0, one diagonal
================== ============================================================ ==== ===================

"Diagonal" is :math:`\sqrt{H^2 + W^2}`, an upper bound of any distance in the image. ``balanced_accuracy``
equals the area under the one-point ROC "curve" of a thresholded mask, and is what the "AUC" of Guo, Feng and Zhou
fits (their text does not define it): compare ``balanced_accuracy``, not ``roc_auc``, with their column.

The paper leaves its average Hausdorff distance undefined. Here it is taken between the pixel *sets*, as usual
in vessel work, so overlapping pixels count as 0; between *edges* (surfaces) the same masks usually
give larger numbers.
"""

import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monai_vessel_uda.errors import InputError

Scores = dict[str, float]


def score_image(
    probability: ArrayLike, mask: ArrayLike, fov: ArrayLike | None = None, threshold: float = 0.5
) -> Scores:
    """Score one probability map against its reference mask.

    Args:
        probability: vessel probability, shape ``(H, W)``, range [0, 1].
        mask: reference, shape ``(H, W)``, bool or {0, 1}.
        fov: field of view, shape ``(H, W)``, bool or {0, 1}; ``None`` means the whole image.
        threshold: pixels with ``probability >= threshold`` are vessel.

    Returns:
        The eleven scores of the module's table, as Python floats; undefined ones are NaN.

    Raises:
        InputError: on shapes that differ, values out of range, a mask that is not binary, or an empty
            ``fov``.

    Example:
        >>> scores = score_image([[0.9, 0.2], [0.8, 0.1]], [[1, 0], [0, 0]])
        >>> round(scores["dice"], 3), scores["ahd_px"]
        (0.667, 0.5)
    """
    p = _checked_probability(probability)
    reference = _checked_mask(mask, "mask", p.shape)
    field = np.ones(p.shape, dtype=bool) if fov is None else _checked_mask(fov, "fov", p.shape)
    if not field.any():
        raise InputError("fov: expected at least one pixel inside the field of view, received none; omit fov.")
    prediction = (p >= threshold) & field
    reference &= field
    return {
        **_overlap_scores(prediction[field], reference[field]),
        "dice_at_half": _overlap_scores(p[field] >= 0.5, reference[field])["dice"],
        **_ranking_scores(p[field], reference[field]),
        "cldice": centreline_dice(prediction, reference),
        **_distances(prediction, reference),
    }


def centreline_dice(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    """Harmonic mean of topology precision and sensitivity (clDice) of two binary masks.

    Args:
        prediction: bool, shape ``(H, W)``.
        reference: bool, shape ``(H, W)``.

    Returns:
        clDice in [0, 1]; 1 if both masks are empty, 0 if one is.

    Reference:
        Shit et al., clDice, CVPR 2021. The hard skeleton of scikit-image replaces the soft one of the loss.
    """
    from skimage.morphology import skeletonize

    if not prediction.any() or not reference.any():
        return float(prediction.any() == reference.any())
    precision = reference[skeletonize(prediction)].mean()
    sensitivity = prediction[skeletonize(reference)].mean()
    total = precision + sensitivity
    return float(2 * precision * sensitivity / total) if total > 0 else 0.0


def summarise(
    per_image: Sequence[Scores], seed: int = 0, n_boot: int = 1000, groups: Sequence[Hashable] | None = None
) -> dict[str, dict[str, float]]:
    """Mean of each score over images, with a 95 % bootstrap percentile interval.

    Groups of images (patients) are drawn with replacement; all metrics see the same draws. An image on which a score
    is NaN is left out for that score, and ``n`` says how many were left.

    Args:
        per_image: one dictionary per image, all with the same keys and float values.
        groups: which patient each image is of: two eyes of one are not two independent images. By default each image
            is a group of its own.
        seed: of the bootstrap; the same seed gives the same interval.
        n_boot: number of bootstrap samples.

    Returns:
        ``{metric: {"mean", "low", "high", "n"}}``; NaN where no image defines the metric.

    Raises:
        InputError: if the list is empty, keys differ between images, a value is not a number, or there are not as many
            groups as images.

    Example:
        >>> summarise([{"dice": 0.5}, {"dice": 0.5}])["dice"]
        {'mean': 0.5, 'low': 0.5, 'high': 0.5, 'n': 2}
    """
    keys, values = _as_table(per_image, "per_image")
    valid = np.isfinite(values)
    filled = np.where(valid, values, 0.0)
    if groups is not None and len(groups) != len(values):
        raise InputError(f"groups: expected one for each of {len(values)} images, received {len(groups)}")
    group_of = range(len(values)) if groups is None else groups
    number = {group: i for i, group in enumerate(dict.fromkeys(group_of))}
    n = len(number)
    drawn_groups = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_boot)
    counts = drawn_groups[:, [number[group] for group in group_of]]
    means = _divide(counts @ filled, counts @ valid)
    centre = _divide(filled.sum(axis=0), valid.sum(axis=0))
    summary = {}
    for j, key in enumerate(keys):
        drawn = means[:, j][np.isfinite(means[:, j])]
        low, high = np.quantile(drawn, (0.025, 0.975)) if drawn.size else (np.nan, np.nan)
        summary[key] = {
            "mean": float(centre[j]),
            "low": float(low),
            "high": float(high),
            "n": int(valid[:, j].sum()),
        }
    return summary


def paired_difference(
    a: Sequence[Scores],
    b: Sequence[Scores],
    seed: int = 0,
    n_boot: int = 1000,
    groups: Sequence[Hashable] | None = None,
) -> dict[str, dict[str, float]]:
    """Mean of ``a - b`` over images, with a 95 % bootstrap interval, paired by image.

    Args:
        a: scores of one method, one dictionary per image.
        b: scores of the other method on the same images in the same order.
        seed: of the bootstrap.
        n_boot: number of bootstrap samples.
        groups: which patient each image is of, as in :func:`summarise`.

    Returns:
        As :func:`summarise`; an interval without 0 speaks for a difference.

    Raises:
        InputError: if the lists differ in length or in keys.
    """
    keys, first = _as_table(a, "a")
    other_keys, second = _as_table(b, "b")
    if len(first) != len(second) or keys != other_keys:
        raise InputError(
            f"paired_difference: expected the same images and metrics in a and b, received {len(first)} images with "
            f"{keys} and {len(second)} images with {other_keys}; score both methods on the same list."
        )
    rows = [dict(zip(keys, row, strict=True)) for row in (first - second).tolist()]
    return summarise(rows, seed=seed, n_boot=n_boot, groups=groups)


def _overlap_scores(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> Scores:
    """Scores of the confusion matrix of two flat binary arrays."""
    import torch
    from monai.metrics import get_confusion_matrix

    # (batch, channel, pixels); include_background, or a one-channel input would depend on MONAI's channel
    # rule.
    matrix = get_confusion_matrix(
        y_pred=torch.from_numpy(prediction)[None, None].float(),
        y=torch.from_numpy(reference)[None, None].float(),
        include_background=True,
    )
    tp, fp, tn, fn = (float(count) for count in matrix[0, 0])
    sensitivity = _ratio(tp, tp + fn)
    specificity = _ratio(tn, tn + fp)
    return {
        "dice": _ratio(2 * tp, 2 * tp + fp + fn, empty=1.0),
        "accuracy": (tp + tn) / (tp + fp + tn + fn),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "balanced_accuracy": (sensitivity + specificity) / 2,
    }


def _ranking_scores(probability: NDArray[np.float64], reference: NDArray[np.bool_]) -> Scores:
    """Threshold-free scores of flat arrays."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    some, every = reference.any(), reference.all()
    return {
        "roc_auc": float(roc_auc_score(reference, probability)) if some and not every else np.nan,
        "pr_auc": float(average_precision_score(reference, probability)) if some else np.nan,
    }


def _distances(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> Scores:
    """Average Hausdorff distance of the pixel sets and 95 % Hausdorff distance of the edges, in px."""
    import torch
    from monai.metrics import compute_hausdorff_distance
    from skimage.metrics import hausdorff_distance

    # Both libraries answer inf or NaN when a mask is empty: the rule of the table comes first.
    if not prediction.any() or not reference.any():
        distance = 0.0 if prediction.any() == reference.any() else float(np.hypot(*prediction.shape))
        return {"ahd_px": distance, "hd95_px": distance}
    with warnings.catch_warnings():
        # MONAI 1.6 calls its own function with an argument that it deprecated, once per image.
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        hd95 = compute_hausdorff_distance(
            y_pred=torch.from_numpy(prediction)[None, None],
            y=torch.from_numpy(reference)[None, None],
            include_background=True,
            percentile=95,
        )
    # scikit-image's "modified" distance is the larger of the two directed means.
    return {
        "ahd_px": float(hausdorff_distance(prediction, reference, method="modified")),
        "hd95_px": float(hd95),
    }


def _ratio(numerator: float, denominator: float, empty: float = float("nan")) -> float:
    return numerator / denominator if denominator > 0 else empty


def _divide(numerator: NDArray[Any], denominator: NDArray[Any]) -> NDArray[np.float64]:
    """Elementwise quotient, NaN where the denominator is 0."""
    undefined = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)


def _as_table(per_image: Sequence[Scores], name: str) -> tuple[list[str], NDArray[np.float64]]:
    """Keys and the (images, metrics) array of a list of dictionaries with equal keys."""
    if not per_image:
        raise InputError(f"{name}: expected the scores of at least one image, received an empty list.")
    keys = list(per_image[0])
    for i, scores in enumerate(per_image):
        if set(scores) != set(keys):
            raise InputError(f"{name}[{i}]: expected the keys {keys}, received {list(scores)}.")
        for key, value in scores.items():
            if isinstance(value, bool) or not isinstance(value, int | float | np.number):
                raise InputError(f"{name}[{i}]['{key}']: expected a number, received {value!r}; leave it out.")
    return keys, np.array([[scores[key] for key in keys] for scores in per_image], dtype=np.float64)


def _checked_probability(probability: ArrayLike) -> NDArray[np.float64]:
    p = np.asarray(probability, dtype=np.float64)
    if p.ndim != 2 or p.size == 0:
        raise InputError(f"probability: expected shape (H, W), received {p.shape}; drop batch and channel axes.")
    if not (np.isfinite(p).all() and p.min() >= 0 and p.max() <= 1):
        raise InputError(
            f"probability: expected values in [0, 1], received {p.min():.4g} to {p.max():.4g}; apply the sigmoid first."
        )
    return p


def _checked_mask(mask: ArrayLike, name: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    array = np.asarray(mask)
    if array.shape != shape:
        raise InputError(f"{name}: expected the shape of the probability, {shape}, received {array.shape}.")
    binary = array.astype(bool)
    if not np.array_equal(binary, array):
        raise InputError(f"{name}: expected bool or values 0 and 1, received {np.unique(array)[:5]}; binarise it.")
    return binary
