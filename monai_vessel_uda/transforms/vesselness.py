r"""Ridges at many scales: where vessels run, and how wide they are, without any mask.

With :math:`L_\sigma = G_\sigma * I`, its Hessian :math:`H_\sigma`, and n the unit vector across the vessel, a bright
ridge answers

.. math:: R(x, \sigma) = -\sigma^{2}\, n^{T} H_\sigma(x)\, n .

The factor :math:`\sigma^{2}` (gamma-normalisation with gamma = 1; Lindeberg, "Edge detection and ridge detection with
automatic scale selection", IJCV 30, 1998) makes the response comparable over scales: for a straight bar of width w it
is largest at :math:`\sigma = w / 2` exactly, so twice the selected scale reads as a calibre in pixels. Dark vessels
are handled by negating the image.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monai_vessel_uda.transforms.background import BACKGROUND_SIGMA, flatten_background

Polarity = Literal["bright", "dark"]

#: Scales in pixels at which ridges are looked for (fine ones would follow speckle and capillaries) ...
DETECTION_SCALES: tuple[float, ...] = tuple(float(s) for s in np.geomspace(1.2, 5.0, 5))
#: ... and at which the width of a found ridge is read: bars of 1.4 to 14 pixels.
READING_SCALES: tuple[float, ...] = tuple(float(s) for s in np.geomspace(0.7, 7.0, 13))

STRONG_SHARE = 0.04  # share of the field of view whose response counts as vessel, about half the density of retinas:
# on fundus photographs 97 % of the centre lines so found lie on annotated vessels
MIN_LENGTH = 15  # pixels; shorter pieces of centre line are mostly noise


class Segments(NamedTuple):
    """Centre-line pieces between junctions. ``pixel_*`` have one entry per centre-line pixel, the rest per piece."""

    pixel_rows: NDArray[np.intp]
    pixel_cols: NDArray[np.intp]
    pixel_piece: NDArray[np.intp]
    lengths: NDArray[np.float64]


def hessian(image: NDArray[np.floating], sigma: float) -> tuple[NDArray[np.float32], ...]:
    """Second Gaussian derivatives (rows-rows, rows-columns, columns-columns) of (H, W), times sigma squared."""
    from scipy.ndimage import gaussian_filter

    return tuple(
        sigma**2 * gaussian_filter(image, sigma, order=order, mode="reflect", truncate=3.0)
        for order in ((2, 0), (1, 1), (0, 2))
    )


def vesselness(
    image: NDArray[np.floating], polarity: Polarity = "bright", scales: Sequence[float] = DETECTION_SCALES
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Largest ridge response over scales, and the direction across the ridge there.

    Args:
        image: (H, W), any unit.
        polarity: ``"bright"`` if vessels are brighter than their surround, else ``"dark"``.
        scales: standard deviations in pixels.

    Returns:
        ``(response, angle)``, float32 (H, W) each: response >= 0 in the unit of the image; angle in radians such that
        (cos, sin) are the row and column components of the unit vector across the ridge.
    """
    signed = np.asarray(image, dtype=np.float32) * (1.0 if polarity == "bright" else -1.0)
    response, angle = np.zeros_like(signed), np.zeros_like(signed)
    for sigma in scales:
        rr, rc, cc = hessian(signed, sigma)
        # smaller eigenvalue of the symmetric 2 x 2 matrix in closed form, and its eigenvector's angle
        candidate = np.sqrt(0.25 * (rr - cc) ** 2 + rc**2) - 0.5 * (rr + cc)
        across = 0.5 * np.arctan2(2 * rc, rr - cc) + 0.5 * np.pi
        better = candidate > response
        response[better], angle[better] = candidate[better], across[better]
    return response, angle


def centre_lines(response: NDArray[np.floating], threshold: float, min_length: int = MIN_LENGTH) -> Segments:
    """Centre-line pieces of at least ``min_length`` pixels where (H, W) ``response`` exceeds ``threshold``."""
    from scipy.ndimage import convolve
    from skimage.measure import label
    from skimage.morphology import skeletonize

    skeleton = skeletonize(response > threshold)
    neighbours = convolve(skeleton.astype(np.uint8), np.ones((3, 3), np.uint8), mode="constant") - 1
    pieces = label(skeleton & (neighbours <= 2), connectivity=2)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    rows, cols = np.nonzero(sizes[pieces] >= min_length)
    kept, piece = np.unique(pieces[rows, cols], return_inverse=True)
    return Segments(rows, cols, piece, sizes[kept].astype(np.float64))


def ridge_scale(
    image: NDArray[np.floating], polarity: Polarity = "bright", fov: NDArray[np.bool_] | None = None
) -> float:
    """Scale of the typical vessel in pixels, without a mask: half of its width if its profile is a bar.

    Along each strong centre-line piece the signed response across it is AVERAGED at every scale before the best
    scale is chosen: the average is linear in the image, so speckle cancels instead of pulling the choice to fine
    scales. The pieces' median is weighted by their area, length times scale, as :func:`calibre_from_mask` weighs.

    Args:
        image: (H, W), any unit. Vessels between about 2 and 12 pixels wide.
        polarity: ``"bright"`` or ``"dark"`` vessels.
        fov: (H, W), True inside; everywhere if None.

    Returns:
        Scale in pixels; nan if there is no ridge of sufficient length.
    """
    fov = np.ones(image.shape, dtype=bool) if fov is None else fov
    flat = flatten_background(image, fov, BACKGROUND_SIGMA) * (1.0 if polarity == "bright" else -1.0)
    response, angle = vesselness(flat)
    inner = without_rim(fov)
    if not inner.any():
        return float("nan")
    response[~inner] = 0
    pieces = centre_lines(response, float(np.quantile(response[inner], 1 - STRONG_SHARE)))
    if not pieces.lengths.size:
        return float("nan")
    scales = _scale_per_piece(flat, angle, pieces)
    weights = pieces.lengths * scales
    return float(np.quantile(scales, 0.5, weights=weights, method="inverted_cdf"))


def _scale_per_piece(flat: NDArray[np.float32], angle: NDArray[np.float32], pieces: Segments) -> NDArray[np.float64]:
    """Scale of the largest mean response across each piece, refined between the sampled scales by a parabola."""
    at = (pieces.pixel_rows, pieces.pixel_cols)
    row, col = np.cos(angle[at]), np.sin(angle[at])
    mean_response = []
    for sigma in READING_SCALES:
        rr, rc, cc = (part[at] for part in hessian(flat, sigma))
        across = -(rr * row**2 + 2 * rc * row * col + cc * col**2)
        mean_response.append(np.bincount(pieces.pixel_piece, across) / pieces.lengths)
    curve = np.stack(mean_response)
    best = np.clip(curve.argmax(axis=0), 1, len(READING_SCALES) - 2)
    left, middle, right = (np.take_along_axis(curve, best[None] + step, axis=0)[0] for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = np.clip(np.where(bend < 0, 0.5 * (left - right) / np.where(bend < 0, bend, -1), 0), -1, 1)
    log_scales = np.log(READING_SCALES)
    return np.exp(log_scales[best] + shift * (log_scales[1] - log_scales[0]))


def without_rim(fov: NDArray[np.bool_], rim: int = 6) -> NDArray[np.bool_]:
    """The field of view without its edge to the surround, where the step in brightness looks like a ridge."""
    from scipy.ndimage import binary_erosion

    return binary_erosion(fov, iterations=rim, border_value=1)
