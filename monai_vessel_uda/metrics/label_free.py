r"""Measures of a segmenter that need no target mask, and the one criterion that ranks candidates by them.

====================== ============== ====================================== ===================================
measure                better         asks                                   an all-background segmenter gets
====================== ============== ====================================== ===================================
boundary_contrast      higher         do outlines lie on the image's edges?  0
mask_prior_distance    lower          do masks look like source masks?       (far away)
faithfulness           higher         is the condition mask found again?     0
feature_distance       lower          do generated images look real?         (a property of its generator)
consistency            higher         do predictions of flips agree?         0
uncertain_band_px      lower          how wide is the doubt along outlines?  infinity
====================== ============== ====================================== ===================================

Vessel fraction and mean entropy are for reading, not for ranking: the first has no better side, the second is
best for a segmenter that finds nothing. How the measures were chosen and checked, and with which masks, is said in
``docs/label_free.md``.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from monai_vessel_uda.errors import InputError
from monai_vessel_uda.metrics.distributions import feature_distance, gaussian_smooth

WEIGHTS = {
    "boundary_contrast": 2.0,
    "mask_prior_distance": -0.5,
    "faithfulness": 0.5,
    "feature_distance": -0.5,
    "consistency": 0.1,
    "uncertain_band_px": -0.1,
}
"""Sign: +1 where higher is better. Size: between two candidates the fit of the outlines decides, each at its own best
threshold, since the others together weigh less; among more, they have a say. What each measure is worth was measured
where masks are known (``docs/label_free.md``)."""

SMOOTHING = 0.7
"""Pixels; see :func:`boundary_contrast`."""
TOLL = 2.0
"""Mean steps that a piece of outline must rise above to pay; see :func:`boundary_contrast`."""
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))
"""0.05 to 0.95, what :func:`best_threshold` chooses from."""


def mask_prior_distance(predictions: Tensor, source_masks: Tensor) -> float:
    """Do predicted masks look like vessel masks? Feature distance between them and the source's masks.

    The method itself assumes that source masks are plausible masks of target images, since it generates target images
    from them. So masks predicted on real target images should have the source masks' calibres, densities and
    continuity: too thick, broken or meshed masks are far away, and so is an empty one. It says nothing of position.

    Args:
        predictions: patches of predicted masks on real target images, {0, 1}, shape ``(N, 1, *spatial)``.
        source_masks: patches of source masks at the working resolution, {0, 1}, same spatial size.

    Returns:
        :func:`~monai_vessel_uda.metrics.distributions.feature_distance` of the masks as images in [-1, 1]; lower is
        better.
    """
    return feature_distance(2 * predictions - 1, 2 * source_masks - 1)


def boundary_contrast(
    image: Tensor, mask: Tensor, fov: Tensor | None = None, sigma: float = SMOOTHING, toll: float = TOLL
) -> float:
    r"""How well the outlines of a mask lie on the edges of the image, for bright vessels.

    Let :math:`I_\sigma` be the smoothed image, :math:`F` all faces between neighbouring pixels, :math:`s_f`
    the intensity step across face :math:`f`, and :math:`\partial M \subset F` the faces where vessel meets
    background, with :math:`s_f` there taken from background to vessel. Then

    .. math:: C = \frac{\sum_{f \in \partial M} s_f}{\sum_{f \in F} |s_f|}
              - \lambda \frac{|\partial M|}{|F|}
              = \frac{1}{|F|} \sum_{f \in \partial M} \left(\frac{s_f}{\bar s} - \lambda\right),
              \qquad \bar s = \frac{1}{|F|} \sum_{f \in F} |s_f| .

    The gradient flux through the outline as a share of the image's total variation, less a toll for each face that
    the outline takes: a piece of outline pays if the image steps up across it by more than :math:`\lambda` times the
    mean step. Too thick or too thin a mask leaves the edges (flux falls), a missed vessel loses flux, a
    speckled mask and one that follows faint texture pay for their length, inverted polarity makes it negative. An
    empty or full mask gets exactly 0. It knows edges, not anatomy: a mask cut from the image itself (a local threshold,
    the sign of the Laplacian) can equal or beat the annotation. Compare segmenters with it or set one number
    (:func:`best_threshold`); do not train on it.

    Args:
        image: shape ``(N, 1, *spatial)``, vessels bright; any positive affine change leaves the result alone.
        mask: {0, 1}, same shape.
        fov: {0, 1}, same shape; only faces between two pixels inside count. Shrink it by about ``3 * sigma``,
            or the dark surround leaks in.
        sigma: standard deviation of the smoothing in px. More of it ignores more pixel noise but favours masks
            that are a pixel too thick; on FIVES and CHASE_DB1 (400 px) 0.7 still told one pixel apart.
        toll: :math:`\lambda`; 1 is what a random outline of that length passes of the variation.

    Returns:
        Mean over images; at most 1, higher is better, 0 is an empty mask; a random outline is below it.

    Raises:
        InputError: on shapes that differ or values that are not binary where they should be.

    Reference:
        Vasilevskiy and Siddiqi, Flux maximizing geometric flows, IEEE TPAMI 24(12), 2002 (the flux; the toll is ours,
        see ``docs/label_free.md``).
    """
    _check_binary(mask, "mask", image.shape)
    return float(contrast_curve(image, mask, [0.5], fov, sigma, toll)[0])


def contrast_curve(
    image: Tensor,
    probabilities: Tensor,
    thresholds: Sequence[float],
    fov: Tensor | None = None,
    sigma: float = SMOOTHING,
    toll: float = TOLL,
) -> Tensor:
    """:func:`boundary_contrast` of ``probabilities >= threshold``, for each threshold.

    Args:
        image: as there.
        probabilities: shape of ``image``.
        thresholds: any number of them.
        fov: as there.
        sigma: as there.
        toll: as there.

    Returns:
        float64, shape (thresholds,), mean over images.
    """
    inside = torch.ones_like(image) if fov is None else fov
    _check_binary(inside, "fov", image.shape)
    smooth = gaussian_smooth(image.double(), sigma)
    zero = torch.zeros(len(image), dtype=torch.float64, device=image.device)
    variation, faces = zero, zero
    flux, outline = [zero] * len(thresholds), [zero] * len(thresholds)
    for dim in range(2, image.ndim):
        size = inside.shape[dim] - 1
        used = (inside.narrow(dim, 0, size) * inside.narrow(dim, 1, size)).double()
        step = smooth.diff(dim=dim) * used
        variation = variation + step.abs().flatten(1).sum(dim=1)
        faces = faces + used.flatten(1).sum(dim=1)
        for i, threshold in enumerate(thresholds):
            side = (probabilities >= threshold).double().diff(dim=dim)
            flux[i] = flux[i] + (step * side).flatten(1).sum(dim=1)
            outline[i] = outline[i] + (used * side.abs()).flatten(1).sum(dim=1)
    variation = variation.clamp_min(torch.finfo(torch.float64).tiny)  # a constant image has no flux either
    contrast = torch.stack(flux) / variation - toll * torch.stack(outline) / faces.clamp_min(1)
    return contrast.mean(dim=1)


def best_threshold(
    images: Sequence[Tensor], probabilities: Sequence[Tensor], fovs: Sequence[Tensor | None] | None = None
) -> tuple[float, float]:
    """The threshold at which a segmenter's outlines lie best on the edges of unlabelled images.

    Between domains a segmenter's order of pixels survives better than its probabilities: what it calls 0.5 may be the
    core of a vessel or its halo. How thick a vessel is can be read off the image itself.

    Args:
        images: each of shape (1, *spatial), vessels bright; sizes may differ.
        probabilities: of vessel, same shapes.
        fovs: {0, 1}, same shapes, or None where all of an image counts.

    Returns:
        The best of :data:`THRESHOLDS` by the mean :func:`boundary_contrast`, and that contrast. Where no threshold
        beats an empty mask, 0.5 and its contrast: outlines that follow no edge say nothing of thickness.
    """
    curves = [
        contrast_curve(image[None], p[None], THRESHOLDS, None if fov is None else fov[None])
        for image, p, fov in zip(images, probabilities, fovs or [None] * len(images), strict=True)
    ]
    curve = torch.stack(curves).mean(dim=0)
    best = int(curve.argmax()) if float(curve.max()) > 0 else THRESHOLDS.index(0.5)
    return THRESHOLDS[best], float(curve[best])


def mask_faithfulness(predictions: Tensor, conditions: Tensor, threshold: float = 0.5) -> float:
    """Dice between what is segmented in generated images and the masks they were generated from.

    Use a segmenter that was not trained on these very pairs, or it measures memory.

    Args:
        predictions: probabilities or masks of the generated images, shape ``(N, 1, *spatial)``, range [0, 1].
        conditions: the masks given to the generator, {0, 1}, same shape.
        threshold: pixels with ``predictions >= threshold`` are vessel.

    Returns:
        Mean Dice over images in [0, 1]; an image counts 1 if both masks are empty, 0 if one is.

    Raises:
        InputError: on shapes that differ or values out of range.
    """
    from monai.metrics import compute_dice

    _check_probabilities(predictions)
    _check_binary(conditions, "conditions", predictions.shape)
    # include_background: the one channel is the vessel, not the background.
    dice = compute_dice(
        y_pred=(predictions >= threshold).float(),
        y=conditions.float(),
        include_background=True,
        ignore_empty=False,
    )
    return float(dice.mean())


def prediction_entropy(probabilities: Tensor) -> float:
    """Mean binary entropy per pixel, in bits.

    Descriptive only: a segmenter that finds nothing has entropy 0. To rank, use :func:`uncertain_band_px`.

    Args:
        probabilities: any shape, range [0, 1].

    Returns:
        Entropy in [0, 1] bit.

    Raises:
        InputError: on values out of range.
    """
    _check_probabilities(probabilities)
    return float(_binary_entropy(probabilities).mean())


def uncertain_band_px(probabilities: Iterable[Tensor], threshold: float = 0.5) -> float:
    r"""Entropy per unit length of predicted outline: the width of the doubtful band along vessels, in px.

    .. math:: \frac{\sum_\text{pixels} H_2(p)}{\text{number of pixel faces between vessel and background}}

    Both sums are over all images, so that one in which nothing is found does not decide.

    A band of ``w`` pixels of ``p = 0.5`` beside a straight outline gives ``w``. Divided by length rather than
    by vessel area, thick masks gain nothing; nothing found (or everything) has no outline and gives infinity.

    Args:
        probabilities: each of shape ``(1, *spatial)``, range [0, 1]; sizes may differ. A batch will do.
        threshold: pixels with ``probabilities >= threshold`` are vessel.

    Returns:
        Width in px (bit px^2 per px); lower is better.

    Raises:
        InputError: on values out of range.
    """
    entropy = length = 0.0
    for image in probabilities:
        _check_probabilities(image)
        mask = (image >= threshold).double()
        entropy += float(_binary_entropy(image).sum())
        length += sum(float(mask.diff(dim=dim).abs().sum()) for dim in range(1, mask.ndim))
    return entropy / length if length > 0 else math.inf


def vessel_fraction(probabilities: Tensor, threshold: float = 0.5) -> float:
    """Share of pixels called vessel, in [0, 1]. Descriptive: domains differ in it, so no value is best.

    Args:
        probabilities: any shape, range [0, 1].
        threshold: pixels with ``probabilities >= threshold`` are vessel.

    Returns:
        The share.

    Raises:
        InputError: on values out of range.
    """
    _check_probabilities(probabilities)
    return float((probabilities >= threshold).double().mean())


def consistency(predictions: Sequence[Tensor], threshold: float = 0.5) -> float:
    r"""Agreement of predictions of the same images under flips and rotations: mean pairwise Cohen's kappa.

    Kappa, :math:`(p_o - p_e) / (1 - p_e)`, is the agreement beyond chance; for sparse vessels it approaches
    Dice, but constant predictions, which always agree, get 0.

    Args:
        predictions: at least two tensors of probabilities, one per view, each mapped back to the common
            frame; same shape ``(N, 1, *spatial)``, range [0, 1].
        threshold: pixels with ``prediction >= threshold`` are vessel.

    Returns:
        Mean over pairs and images, in [-1, 1].

    Raises:
        InputError: on fewer than two views, shapes that differ, or values out of range.
    """
    if len(predictions) < 2 or any(p.shape != predictions[0].shape for p in predictions):
        shapes = [tuple(p.shape) for p in predictions]
        raise InputError(f"predictions: expected at least two views of one shape, received {shapes}.")
    for prediction in predictions:
        _check_probabilities(prediction)
    masks = [(p >= threshold).flatten(1) for p in predictions]
    return float(torch.stack([_kappa(a, b) for a, b in itertools.combinations(masks, 2)]).mean())


def label_free_score(candidates: Sequence[Mapping[str, float]]) -> list[float]:
    r"""Rank segmenters by their label-free measures: the weighted share of rivals each one beats.

    .. math:: \text{score}_i = \sum_m w_m \frac{1}{n - 1} \sum_{j \neq i}
              \big([m_i \succ m_j] + \tfrac12 [m_i = m_j]\big) \Big/ \sum_m w_m

    Only the order within a measure matters, so the score has no scale; improving a measure never lowers it. A
    measure counts if it is in :data:`WEIGHTS` and every candidate has it. A candidate with a measure that is not finite
    is degenerate: it loses every comparison with those that are not.

    Args:
        candidates: one dictionary of measures per candidate; other keys are ignored.

    Returns:
        One score per candidate in [0, 1], higher is better; a lone candidate gets 1 (nobody beats it).

    Raises:
        InputError: if there is no candidate, or no measure that all of them have.

    Example:
        >>> sharp = {"boundary_contrast": 0.10, "uncertain_band_px": 0.9}
        >>> empty = {"boundary_contrast": 0.00, "uncertain_band_px": float("inf")}
        >>> label_free_score([empty, sharp])
        [0.0, 1.0]
    """
    if not candidates:
        raise InputError("candidates: expected at least one dictionary of measures, received none.")
    measures = [name for name in WEIGHTS if all(name in candidate for candidate in candidates)]
    if not measures:
        received = [sorted(candidate) for candidate in candidates]
        raise InputError(f"candidates: expected a measure of {list(WEIGHTS)} that all have, received {received}.")
    if len(candidates) == 1:
        return [1.0]
    weights = torch.tensor([WEIGHTS[name] for name in measures], dtype=torch.float64)
    raw = torch.tensor([[float(c[name]) for name in measures] for c in candidates], dtype=torch.float64)
    goodness = raw * weights.sign()
    goodness[~raw.isfinite().all(dim=1)] = -math.inf
    beats = (goodness[:, None] > goodness).double() + 0.5 * (goodness[:, None] == goodness).double()
    share = (beats.sum(dim=1) - 0.5) / (len(candidates) - 1)  # without the tie with oneself
    weight = weights.abs()
    return ((share @ weight) / weight.sum()).tolist()


def _binary_entropy(p: Tensor) -> Tensor:
    p = p.double()
    return (torch.special.entr(p) + torch.special.entr(1 - p)) / math.log(2)


def _kappa(a: Tensor, b: Tensor) -> Tensor:
    """Cohen's kappa per row of two bool tensors ``(N, pixels)``; 0 where chance agreement is complete."""
    observed = (a == b).double().mean(dim=1)
    share_a, share_b = a.double().mean(dim=1), b.double().mean(dim=1)
    chance = share_a * share_b + (1 - share_a) * (1 - share_b)
    return torch.where(chance < 1, (observed - chance) / (1 - chance).clamp_min(1e-12), 0.0)


def _check_probabilities(probabilities: Tensor) -> None:
    if not bool(((probabilities >= 0) & (probabilities <= 1)).all()):
        raise InputError(
            f"probabilities: expected values in [0, 1], received {float(probabilities.min()):.4g} to "
            f"{float(probabilities.max()):.4g}; apply the sigmoid first."
        )


def _check_binary(mask: Tensor, name: str, shape: torch.Size) -> None:
    if mask.shape != shape:
        raise InputError(f"{name}: expected shape {tuple(shape)}, received {tuple(mask.shape)}.")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise InputError(f"{name}: expected values 0 and 1, received others; threshold it first.")
