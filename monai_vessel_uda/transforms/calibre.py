"""Vessel calibre in pixels, with and without masks, and the resize factor that makes two domains' calibres equal."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from monai_vessel_uda.errors import InputError
from monai_vessel_uda.transforms.resize import reduce_to_side
from monai_vessel_uda.transforms.vesselness import Polarity, ridge_scale

_READABLE = 3.0  # pixels; a narrower reading on a reduced copy is repeated at twice the size


def calibre_from_mask(mask: NDArray[np.bool_]) -> float:
    """Width of the vessel in which the median vessel pixel lies, in pixels.

    Widths are twice the distance to the background along the skeleton, their median weighted by width (a centre-line
    pixel stands for that many pixels of area): hair-thin branches and the skeleton's spurs then count for little.

    Args:
        mask: (H, W), True on vessels.

    Raises:
        InputError: if the mask has no vessel.
    """
    from scipy.ndimage import distance_transform_edt
    from skimage.morphology import skeletonize

    if not mask.any():
        raise InputError("vessel mask: expected at least one vessel pixel, received none")
    # half a pixel less: centres of odd and of even bars lie (w + 1) / 2 and w / 2 from the nearest background centre
    width = 2 * distance_transform_edt(np.pad(mask, 1))[skeletonize(np.pad(mask, 1))] - 0.5
    return float(np.quantile(width, 0.5, weights=width, method="inverted_cdf"))


def calibre_from_vesselness(
    image: NDArray[np.floating], polarity: Polarity, fov: NDArray[np.bool_] | None = None
) -> float:
    """Label-free calibre in pixels: twice the scale at which ridges respond most (:func:`ridge_scale`).

    Large images are read on a reduced copy (512 pixels, then 1024, ...) once their vessels are wide enough there,
    which keeps all readings within the range where the ridge filter is accurate.

    Args:
        image: (H, W), any unit.
        polarity: ``"bright"`` or ``"dark"`` vessels.
        fov: (H, W), True inside; everywhere if None.

    Returns:
        Pixels of ``image``; nan if it shows no vessel-like line.
    """
    fov = np.ones(image.shape, dtype=bool) if fov is None else fov
    longer, side = max(image.shape), 512
    while True:
        small = reduce_to_side(image.astype(np.float32), side)
        inside = reduce_to_side(fov.astype(np.float32), side) > 0.99
        reading = 2 * ridge_scale(small, polarity, inside)
        if side >= longer or reading >= _READABLE:
            return reading * longer / max(small.shape)
        side *= 2


def matching_scale(
    read: Callable[[float], float], target_calibre: float, first: float, rounds: int = 5, tolerance: float = 0.02
) -> tuple[float, float]:
    """Resize factor at which the source's label-free calibre equals the target's.

    Both sides are read by the same instrument at the same size in pixels, so what it mistakes (blur by resampling,
    soft vessel edges, a preference for strong vessels) it mistakes on both sides alike. The reading grows with the
    factor, a little less than in proportion, so the fixed-point iteration ``factor *= target / reading`` settles.

    Args:
        read: the source's calibre in pixels after resizing by the given factor.
        target_calibre: in pixels of the target's working resolution.
        first: factor to start from.
        rounds: of the iteration at most.
        tolerance: relative difference at which it stops.

    Returns:
        ``(factor, reading)`` of the round whose reading came closest.

    Raises:
        InputError: if no vessel-like line was found on either side.

    Example:
        >>> factor, reading = matching_scale(lambda f: 0.3 + 20 * f, 3.2, first=0.2)
        >>> abs(reading - 3.2) < 0.064
        True
    """
    check_calibre("target", target_calibre)
    factor, tried = first, []
    for _ in range(rounds):
        tried.append((factor, check_calibre("source", read(factor))))
        if abs(tried[-1][1] / target_calibre - 1) <= tolerance:
            break
        factor *= target_calibre / tried[-1][1]
    return min(tried, key=lambda pair: abs(np.log(pair[1] / target_calibre)))


def check_calibre(side: str, value: float) -> float:
    """Return ``value`` if it is a positive number of pixels; raise InputError naming the side if not."""
    if not (np.isfinite(value) and value > 0):
        raise InputError(
            f"vessel calibre of the {side}: expected a positive number, received {value} (no vessel-like line found); "
            "give the scale explicitly"
        )
    return value
