"""Flattening of slow brightness changes, so that vessels alone stand out."""

import numpy as np
from numpy.typing import NDArray

#: Window in pixels of the flattening that precedes measurements (polarity, calibre, contrast) on small copies.
BACKGROUND_SIGMA = 16.0


def blur_within(image: NDArray[np.floating], fov: NDArray[np.bool_], sigma: float) -> NDArray[np.float32]:
    r"""Gaussian mean over the field of view only: :math:`G_\sigma * (I F) \,/\, G_\sigma * F`.

    Args:
        image: (H, W).
        fov: (H, W), True inside; pixels outside do not weigh.
        sigma: standard deviation in pixels.

    Returns:
        (H, W) float32; defined outside the field of view too (the smooth continuation), 0 far away from it.
    """
    from scipy.ndimage import gaussian_filter

    weight = gaussian_filter(fov.astype(np.float32), sigma, mode="constant", truncate=3.0)
    total = gaussian_filter(np.where(fov, image, 0).astype(np.float32), sigma, mode="constant", truncate=3.0)
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 1e-4)


def flatten_background(image: NDArray[np.floating], fov: NDArray[np.bool_], sigma: float) -> NDArray[np.float32]:
    r"""Local standardisation :math:`(I - \mu_\sigma) / (s_\sigma + \bar s / 4)` within the field of view.

    :math:`\mu_\sigma` and :math:`s_\sigma` are the Gaussian-weighted local mean and standard deviation; a quarter of
    the mean deviation :math:`\bar s` in the denominator keeps empty regions from being blown up to noise.

    Args:
        image: (H, W), any unit.
        fov: (H, W), True inside.
        sigma: standard deviation of the window in pixels; several vessel calibres.

    Returns:
        (H, W) float32 without unit, about zero mean; 0 outside the field of view. A constant image gives 0.
    """
    mean = blur_within(image, fov, sigma)
    centred = np.where(fov, image - mean, 0).astype(np.float32)
    deviation = np.sqrt(blur_within(centred**2, fov, sigma))
    typical = float(deviation[fov].mean()) if fov.any() else 0.0
    if typical <= 1e-6 * max(1.0, float(np.abs(mean).max())):
        return np.zeros_like(centred)
    return np.where(fov, centred / (deviation + 0.25 * typical), 0).astype(np.float32)
