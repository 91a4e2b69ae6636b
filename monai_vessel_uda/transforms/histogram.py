"""Intensity distributions by quantiles, and the monotone map from one to another."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from monai_vessel_uda.errors import InputError


def quantiles(
    images: Sequence[NDArray[np.floating]], fovs: Sequence[NDArray[np.bool_]], n: int = 257
) -> NDArray[np.float64]:
    """Quantiles of the pooled intensities within the fields of view.

    Args:
        images: (H, W) each.
        fovs: (H, W) each, True inside.
        n: number of levels 0, 1/(n-1), ..., 1.

    Returns:
        (n,) ascending, in the units of the images.
    """
    pooled = [image[fov] for image, fov in zip(images, fovs, strict=True)]
    if not sum(values.size for values in pooled):
        raise InputError("intensity quantiles: expected at least one pixel in a field of view, received none")
    return np.quantile(np.concatenate(pooled).astype(np.float64), np.linspace(0, 1, n))


def match_quantiles(
    image: NDArray[np.floating], fov: NDArray[np.bool_], reference: Sequence[float] | NDArray[np.floating]
) -> NDArray[np.float32]:
    r"""Map intensities so that their distribution within the field of view is the reference's: :math:`Q_r(F(I))`.

    :math:`F` is the image's own distribution function (piecewise linear between its quantiles; tied values share the
    middle of their ranks) and :math:`Q_r` the reference's quantile function. The map is monotone: order is kept.

    Args:
        image: (H, W).
        fov: (H, W), True inside.
        reference: ascending quantiles at equally spaced levels (:func:`quantiles`).

    Returns:
        (H, W) float32 within the reference's range; pixels outside the field of view go through the same map.
    """
    levels = np.linspace(0, 1, 1025)
    own, ties = np.unique(np.quantile(image[fov].astype(np.float64), levels), return_inverse=True)
    own_levels = np.bincount(ties, levels) / np.bincount(ties)
    rank = np.interp(image, own, own_levels)
    reference = np.asarray(reference, dtype=np.float64)
    return np.interp(rank, np.linspace(0, 1, reference.size), reference).astype(np.float32)
