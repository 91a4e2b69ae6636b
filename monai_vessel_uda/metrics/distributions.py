r"""Label-free distances between sets of images: how far generated (or source) images are from real target.

``intensity_distances`` compares pooled grey-level histograms (fig. 4b and section 3.3 of Guo, Feng and Zhou);
``feature_distance`` compares texture, which a histogram cannot see.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from monai_vessel_uda.errors import InputError

SCALES = (1.0, 2.0, 4.0)
"""Standard deviations (px) of the filter bank: about the half-widths of retinal vessels at working
resolution."""

_BATCH = 32


def intensity_distances(
    images_a: Iterable[ArrayLike], images_b: Iterable[ArrayLike], bins: int = 256
) -> dict[str, float]:
    r"""Distances between the pooled intensity histograms of two image sets.

    With :math:`p, q` the histograms over [-1, 1], each summing to one,

    .. math:: \text{euclidean} = \lVert p - q \rVert_2, \qquad
              \text{cosine} = 1 - \frac{p \cdot q}{\lVert p \rVert_2 \lVert q \rVert_2}.

    Guo, Feng and Zhou report 0.102 and 0.513 between source and target, 0.017 and 0.027 after mining. They do not
    state the number of bins, on which the Euclidean distance depends (it shrinks with more bins): 256 here.

    Args:
        images_a: images or batches of any shape and size, range [-1, 1]; values beyond fall into the end
            bins.
        images_b: the other set.
        bins: number of equal bins over [-1, 1].

    Returns:
        ``{"euclidean": [0, sqrt(2)], "cosine": [0, 1]}``; both 0 for equal histograms.

    Raises:
        InputError: if a set is empty or holds values that are not finite.

    Example:
        >>> distances = intensity_distances([[-1.0, -1.0]], [[1.0, 1.0]])
        >>> round(distances["euclidean"], 3), distances["cosine"]
        (1.414, 1.0)
    """
    p, q = _histogram(images_a, bins, "images_a"), _histogram(images_b, bins, "images_b")
    cosine = 1.0 - float(p @ q / (np.linalg.norm(p) * np.linalg.norm(q)))
    return {"euclidean": float(np.linalg.norm(p - q)), "cosine": max(cosine, 0.0)}


def texture_features(images: Tensor, scales: Sequence[float] = SCALES) -> Tensor:
    r"""Fixed texture statistics of images: no training, no weights, the same numbers everywhere.

    At each scale :math:`\sigma` the image is smoothed by a Gaussian (replicated border) and four maps are
    taken: gradient magnitude :math:`\sigma \lVert \nabla I_\sigma \rVert`, bright and dark ridge strength
    (the negative and positive parts of the extreme Hessian eigenvalues, times :math:`\sigma^2`) and the local
    standard deviation. Each map, and the image itself, is pooled to its mean and standard deviation. All maps
    turn with the image, so the features do not change under flips and 90-degree rotations.

    Args:
        images: shape ``(N, 1, H, W)``, range [-1, 1], side at least 2.
        scales: standard deviations in px.

    Returns:
        float64 tensor, shape ``(N, 2 + 8 * len(scales))``.
    """
    images = images.detach().float()
    centred = images - images.mean(dim=(2, 3), keepdim=True)  # else the variance is a difference of large numbers
    maps = [images]
    for sigma in scales:
        smooth = gaussian_smooth(centred, sigma)
        dy, dx = torch.gradient(smooth, dim=(2, 3))
        dyy, dyx = torch.gradient(dy, dim=(2, 3))
        dxx = torch.gradient(dx, dim=3)[0]
        centre, radius = (dyy + dxx) / 2, torch.hypot((dyy - dxx) / 2, dyx)
        variance = gaussian_smooth(centred.square(), sigma) - smooth.square()
        maps += [
            sigma * torch.hypot(dy, dx),
            sigma**2 * (radius - centre).clamp_min(0),  # bright ridge: minus the smallest eigenvalue
            sigma**2 * (radius + centre).clamp_min(0),  # dark ridge: the largest eigenvalue
            variance.clamp_min(0).sqrt(),
        ]
    stacked = torch.cat(maps, dim=1).flatten(2).double()
    return torch.cat([stacked.mean(dim=2), stacked.std(dim=2, correction=0)], dim=1)


def feature_distance(generated: Tensor, real: Tensor, features: Callable[[Tensor], Tensor] = texture_features) -> float:
    r"""Squared maximum mean discrepancy between the features of generated and real images (as in KID).

    Features are standardised by the mean and standard deviation of the real set, so the result has no unit
    and does not change with the scale of a feature. With the cubic kernel :math:`k(u, v) = (u^T v / d + 1)^3`
    the unbiased estimate is

    .. math:: \frac{1}{m(m-1)} \sum_{i \neq j} k(x_i, x_j) + \frac{1}{n(n-1)} \sum_{i \neq j} k(y_i, y_j)
              - \frac{2}{mn} \sum_{i,j} k(x_i, y_j).

    It is about 0 for sets drawn from one distribution (and may be slightly negative). Compare values only
    between generated sets measured against the same real set with the same features. KID's Inception weights
    are replaced by :func:`texture_features`; MONAI's MMDMetric is not used: its kernel is linear, which
    compares means alone, and it wants both sets to have one size.

    Args:
        generated: shape ``(M, 1, H, W)``, range [-1, 1], M >= 2.
        real: shape ``(N, 1, H, W)``, range [-1, 1], N >= 2; patches of the same size as ``generated``.
        features: maps ``(B, 1, H, W)`` to ``(B, d)``, e.g. pooled activations of a segmenter's encoder.

    Returns:
        The unbiased estimate of the squared discrepancy.

    Raises:
        InputError: on fewer than two images, different patch sizes, or values that are not finite.

    Reference:
        Gretton et al., JMLR 13, 2012 (lemma 6); Binkowski et al., Demystifying MMD GANs, ICLR 2018.
    """
    _check_patches(generated, real)
    x, y = _extract(features, generated), _extract(features, real)
    mean, std = y.mean(dim=0), y.std(dim=0, correction=0).clamp_min(1e-6)
    return unbiased_cubic_mmd2((x - mean) / std, (y - mean) / std)


def unbiased_cubic_mmd2(x: Tensor, y: Tensor) -> float:
    """Unbiased squared discrepancy of two feature sets under the cubic kernel of :func:`feature_distance`.

    Args:
        x: shape ``(m, d)``, m >= 2.
        y: shape ``(n, d)``, n >= 2.

    Returns:
        The estimate; it may be slightly negative.
    """
    from torchmetrics.image.kid import poly_kernel

    # torchmetrics' own estimator wants m == n; its kernel is taken, the sums are here.
    return float(
        _off_diagonal_mean(poly_kernel(x, x)) + _off_diagonal_mean(poly_kernel(y, y)) - 2 * poly_kernel(x, y).mean()
    )


def _off_diagonal_mean(kernel: Tensor) -> Tensor:
    n = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / (n * (n - 1))


def _extract(features: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([features(batch).double().cpu() for batch in images.split(_BATCH)])


def gaussian_smooth(images: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing with replicated borders (padding with zeros would add mid-grey edges).

    Args:
        images: shape ``(N, C, *spatial)``.
        sigma: standard deviation in px, above 0.

    Returns:
        Smoothed images, same shape and dtype.

    Raises:
        InputError: if ``sigma`` is not above 0.
    """
    from monai.networks.layers import gaussian_1d, separable_filtering

    if not sigma > 0:
        raise InputError(f"sigma: expected a value above 0 px, received {sigma}.")
    kernel = gaussian_1d(torch.tensor(float(sigma))).to(images)
    kernel = kernel / kernel.sum()  # float32 weights miss 1 by enough to give a constant image a variance
    return separable_filtering(images, [kernel] * (images.ndim - 2), mode="replicate")


def _histogram(images: Iterable[ArrayLike], bins: int, name: str) -> NDArray[np.float64]:
    counts = np.zeros(bins)
    for i, image in enumerate(images):
        values = np.asarray(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise InputError(f"{name}[{i}]: expected finite intensities in [-1, 1], received NaN or infinity.")
        counts += np.histogram(values.clip(-1, 1), bins=bins, range=(-1, 1))[0]
    if not counts.any():
        raise InputError(f"{name}: expected at least one image, received none.")
    return counts / counts.sum()


def _check_patches(generated: Tensor, real: Tensor) -> None:
    for name, images in (("generated", generated), ("real", real)):
        if images.ndim != 4 or images.shape[1] != 1 or len(images) < 2:
            shape = tuple(images.shape)
            raise InputError(f"{name}: expected shape (N, 1, H, W) with N >= 2, received {shape}.")
        if not torch.isfinite(images).all():
            raise InputError(f"{name}: expected finite intensities in [-1, 1], received NaN or infinity.")
    if generated.shape[2:] != real.shape[2:]:
        raise InputError(
            f"generated: expected patches of the real ones' size {tuple(real.shape[2:])}, "
            f"received {tuple(generated.shape[2:])}; crop both alike."
        )
