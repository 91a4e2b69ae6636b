"""Where a photograph shows the retina: the round field of view on its black surround."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from monai_vessel_uda.errors import InputError
from monai_vessel_uda.transforms.resize import reduce_to_side, resize

_WORKING_SIDE = 256  # pixels; the field of view is a large smooth shape, so a small copy shows it well

_RIM = 2  # pixels of the small copy

_LEAST_FILLED = 0.5  # of a patch's side: with less image in it, a patch would show more surround than vessels


def detect_field_of_view(image: NDArray) -> NDArray[np.bool_]:
    """The convex field of view of a fundus photograph; all True for an image without a black surround.

    On a copy of at most 256 pixels a side: (1) at least three of the four corners must be much darker than the
    brightest tenth of the image, else there is no surround; (2) pixels above 15 % between the two are retina;
    (3) an opening removes labels, reflections and notches; (4) the convex hull of the largest component restores
    dark retina at the rim, less a margin of 1 % of the image's side.

    Args:
        image: (H, W) or (H, W, C), any real dtype, not negative. An alpha channel is ignored.

    Returns:
        (H, W) bool.
    """
    from scipy.ndimage import binary_erosion, binary_opening, label
    from skimage.morphology import convex_hull_image, disk

    everywhere = np.ones(image.shape[:2], dtype=bool)
    small = _brightest_channel(image)
    size = max(2, min(small.shape) // 32)
    # nearly the brightest pixel of each corner: a surround is black throughout, while OCTA has speckle everywhere
    corners = [float(np.quantile(small[r, c], 0.95)) for r in _ends(size) for c in _ends(size)]
    bright = float(np.quantile(small, 0.9))
    black = sorted(corners)[2]  # the third darkest: one corner may hold a label or touch the retina
    if not black < 0.2 * bright:
        return everywhere
    opened = binary_opening(small > black + 0.15 * (bright - black), structure=disk(max(2, max(small.shape) // 40)))
    components, count = label(opened)
    if count == 0:
        return everywhere
    largest = components == 1 + int(np.argmax(np.bincount(components.ravel())[1:]))
    if largest.mean() < 0.1 or not _is_full(largest):
        return everywhere
    # without its rim, where brightness falls off: once negated, it would look like a bright vessel
    hull = binary_erosion(convex_hull_image(largest), iterations=_RIM)
    return resize(hull.astype(np.float32), (image.shape[0], image.shape[1])) > 0.5


def field_of_view_diameter(fov: NDArray[np.bool_]) -> int:
    """Longer side of the bounding box of the field of view, in pixels: its diameter even if cut above and below."""
    rows, cols = np.flatnonzero(fov.any(axis=1)), np.flatnonzero(fov.any(axis=0))
    return int(max(rows[-1] - rows[0], cols[-1] - cols[0]) + 1) if rows.size else 0


def holds_patch(size: Sequence[int], patch_size: int, padded: bool = False) -> bool:
    """Whether an image holds a patch.

    Args:
        size: (rows, columns) of the image.
        patch_size: side of the square patch in pixels.
        padded: whether the image may be padded to the patch; it must fill half of the patch's side then.

    Example:
        >>> holds_patch((232, 349), 256), holds_patch((232, 349), 256, padded=True)
        (False, True)
    """
    return min(size) >= patch_size * (_LEAST_FILLED if padded else 1)


def patch_centres(fov: NDArray[np.bool_], patch_size: int, min_fraction: float = 0.9) -> NDArray[np.bool_]:
    """Centres of the patches that lie in the field of view.

    A patch with centre c covers ``[c - n // 2, c - n // 2 + n)`` on each axis, as MONAI's random crops count it.

    Args:
        fov: (H, W), True inside.
        patch_size: side of the square patch in pixels.
        min_fraction: least share of the patch that lies in the field of view, 0 to 1. Where no patch reaches it (a
            large patch in a small circle), the best that exist are taken: there is always a centre.

    Returns:
        (H, W), True at admissible centres; their patches lie wholly within the image.

    Raises:
        InputError: if the patch is larger than the image.
    """
    from scipy.ndimage import uniform_filter

    if patch_size > min(fov.shape):
        raise InputError(f"patch_size: {patch_size} exceeds a side of the image {fov.shape}; choose a smaller patch")
    fraction = uniform_filter(fov.astype(np.float64), size=patch_size, mode="constant")
    inside = np.zeros(fov.shape, dtype=bool)
    before = patch_size // 2
    inside[tuple(slice(before, side - patch_size + before + 1) for side in fov.shape)] = True
    threshold = min(min_fraction, float(fraction[inside].max()))
    return inside & (fraction >= threshold - 1e-6)


def _brightest_channel(image: NDArray) -> NDArray[np.float32]:
    """Small copy of the brightest colour channel: the red of a dim rim counts as retina."""
    step = max(1, max(image.shape[:2]) // (2 * _WORKING_SIDE))  # coarse stride first: exactness is not needed here
    coarse = image[::step, ::step]
    if coarse.ndim == 3:
        coarse = coarse[..., : 3 if coarse.shape[2] >= 3 else 1].max(axis=2)
    return reduce_to_side(coarse.astype(np.float32), _WORKING_SIDE)


def _ends(size: int) -> tuple[slice, slice]:
    return slice(0, size), slice(-size, None)


def _is_full(component: NDArray[np.bool_]) -> bool:
    """A retina fills most of its convex hull; scattered bright vessels on black do not."""
    from skimage.morphology import convex_hull_image

    return bool(component.sum() > 0.6 * convex_hull_image(component).sum())
