"""Colour to grey: one intensity per pixel, from the channel in which vessels stand out."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from monai_vessel_uda.errors import InputError
from monai_vessel_uda.transforms.background import BACKGROUND_SIGMA, flatten_background

Grey = Literal["luma", "green", "red", "blue"]
GREYS: tuple[Grey, ...] = ("luma", "green", "red", "blue")

#: ITU-R BT.601 weights of red, green and blue.
LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_CHANNEL = {"red": 0, "green": 1, "blue": 2}


def to_grey(array: NDArray, grey: Grey = "luma") -> NDArray[np.float32]:
    """One float32 intensity per pixel, in the units of the input.

    Args:
        array: (H, W), or (H, W, C) with C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha); any real dtype.
            Alpha is ignored. An image without colour is returned as it is, whatever ``grey`` says.
        grey: ``"luma"`` (BT.601 weights), ``"green"``, ``"red"`` or ``"blue"``.

    Returns:
        (H, W) float32.

    Raises:
        InputError: if the shape is none of the above or ``grey`` is unknown.
    """
    if grey not in GREYS:
        raise InputError(f"grey: expected one of {', '.join(GREYS)}, received {grey!r}")
    if array.ndim == 2:
        return array.astype(np.float32)
    if array.ndim != 3 or not 1 <= array.shape[2] <= 4:
        raise InputError(f"expected an image (H, W) or (H, W, 1 to 4 channels), received shape {array.shape}")
    if array.shape[2] <= 2:
        return array[..., 0].astype(np.float32)
    if grey == "luma":
        return array[..., :3].astype(np.float32) @ LUMA_WEIGHTS
    return array[..., _CHANNEL[grey]].astype(np.float32)


def has_colour(array: NDArray) -> bool:
    """Whether the channels of (H, W[, C]) differ by 2 % of the largest value in at least 1 % of the pixels.

    A grey image may be stored as RGB, with a coloured mark in it, or with what a colour space's rounding left.
    """
    if array.ndim == 2 or array.shape[2] < 3:
        return False
    channels = array[..., :3].astype(np.float32)
    difference = np.ptp(channels, axis=2)
    return bool(np.mean(difference > 0.02 * np.abs(channels).max()) >= 0.01)


def vessel_contrast(image: NDArray[np.floating], mask: NDArray[np.bool_], ring: int = 6) -> float:
    r"""Cohen's d between vessel pixels and a ring around them; positive if vessels are brighter.

    .. math:: d = (\mu_v - \mu_r) / \sqrt{(s_v^2 + s_r^2) / 2}

    Args:
        image: (H, W), any unit.
        mask: (H, W), True on vessels.
        ring: width of the ring in pixels; one pixel next to the vessel is left out, for masks are seldom exact.

    Returns:
        d, without unit; 0 where neither side varies.

    Raises:
        InputError: if the mask has no vessel pixel, or no background beside the vessels.
    """
    from scipy.ndimage import binary_dilation

    near = binary_dilation(mask, iterations=1)
    around = binary_dilation(near, iterations=ring) & ~near
    if not mask.any() or not around.any():
        raise InputError("vessel mask: expected both vessel and background pixels, received only one of them")
    vessel, background = image[mask], image[around]
    spread = float(np.sqrt(0.5 * (vessel.var() + background.var())))
    difference = float(vessel.mean() - background.mean())
    return difference / spread if spread > 0 else 0.0


def best_contrast_grey(images: Sequence[NDArray], masks: Sequence[NDArray[np.bool_]]) -> tuple[Grey, dict[str, float]]:
    """The grey conversion in which vessels contrast most with their surround.

    The background is flattened first, for shading would drown the contrast of a vessel with what lies beside it.

    Args:
        images: (H, W[, C]) each.
        masks: (H, W) each, True on vessels.

    Returns:
        ``(grey, evidence)``: the conversion with the largest absolute d, and the mean :func:`vessel_contrast` of each.
        Images without colour give ``"luma"``, the identity for them.
    """
    coloured = [(image, mask) for image, mask in zip(images, masks, strict=True) if has_colour(image)]
    if not coloured:
        return "luma", {}
    evidence: dict[str, float] = {
        grey: float(np.mean([_flat_contrast(to_grey(image, grey), mask) for image, mask in coloured])) for grey in GREYS
    }
    return max(GREYS, key=lambda grey: abs(evidence[grey])), evidence


def _flat_contrast(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    everywhere = np.ones(mask.shape, dtype=bool)
    return vessel_contrast(flatten_background(image, everywhere, BACKGROUND_SIGMA), mask)
