"""Vessel polarity: are vessels brighter or darker than the tissue beside them?"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_vessel_uda.errors import InputError
from monai_vessel_uda.transforms.background import BACKGROUND_SIGMA, flatten_background
from monai_vessel_uda.transforms.vesselness import (
    STRONG_SHARE,
    Polarity,
    centre_lines,
    vesselness,
    without_rim,
)

LEAST_AGREEMENT = 0.75
"""Share of images that must point the same way for a polarity to be believed without a question. All images of FIVES,
HRF, CHASE_DB1 and ROSSA do (balances of -0.11 to -1.00 and of 0.84 to 1.00); images of both kinds mixed give 0.5."""


def polarity_from_vesselness(
    images: Sequence[NDArray[np.floating]], fovs: Sequence[NDArray[np.bool_]] | None = None
) -> tuple[Polarity, dict[str, Any]]:
    """Polarity without masks: which sign shows the longer, stronger lines?

    Each flattened image is filtered for bright and for dark ridges; the same threshold (the strongest 4 % of the
    larger of both) applies to both. An image's evidence is its balance (b - d) / (b + d), with b and d the responses
    summed along bright and dark centre lines of sufficient length. The mean balance decides.

    Args:
        images: (H, W) each, vessels about 2 to 12 pixels wide.
        fovs: (H, W) each, True inside; everywhere if None.

    Returns:
        ``("bright" or "dark", {"balance": mean in [-1, 1], "agreement": share of images that point the same way,
        "images": n})``.

    Raises:
        InputError: if no image shows a line of either sign.
    """
    fovs = [np.ones(image.shape, dtype=bool) for image in images] if fovs is None else fovs
    balances = [b for image, fov in zip(images, fovs, strict=True) if (b := line_balance(image, fov)) is not None]
    if not balances:
        raise InputError("polarity: no vessel-like line in any image; state the polarity explicitly")
    mean = float(np.mean(balances))
    polarity: Polarity = "bright" if mean > 0 else "dark"
    agreement = float(np.mean([(b > 0) == (mean > 0) for b in balances]))
    return polarity, {"balance": mean, "agreement": agreement, "images": len(balances)}


def line_balance(image: NDArray[np.floating], fov: NDArray[np.bool_]) -> float | None:
    """(b - d) / (b + d) of bright and dark line strength in (H, W); None if there is no line at all."""
    flat = flatten_background(image, fov, BACKGROUND_SIGMA)
    inner = without_rim(fov)
    if not inner.any():
        return None
    bright, dark = (np.where(inner, vesselness(flat, sign)[0], 0) for sign in ("bright", "dark"))  # type: ignore[arg-type]
    threshold = float(np.quantile(np.maximum(bright, dark)[inner], 1 - STRONG_SHARE))
    strength = [_line_strength(response, threshold) for response in (bright, dark)]
    total = sum(strength)
    return (strength[0] - strength[1]) / total if total > 0 else None


def _line_strength(response: NDArray[np.float32], threshold: float) -> float:
    pieces = centre_lines(response, threshold)
    return float(response[pieces.pixel_rows, pieces.pixel_cols].sum())
