"""What a segmenter should not depend on: brightness, contrast, noise, sharpness and bends of its training images."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..seeding import stable_seed
from ..tensors import batch_like, moved_to


class RandAppearance:
    r"""Random changes of appearance of a batch of images in [-1, 1]; shapes stay as they are.

    Gamma, contrast, brightness, then noise and speckle, then blur: noise before blur is sometimes as coarse as
    capillaries are, which a photograph does not show and an OCTA image is full of.

    Each image has its own changes, drawn from its own seed, so they do not depend on the batch or the process it is in.
    These are MONAI's ``RandAdjustContrast``, ``RandScaleIntensity``, ``RandShiftIntensity``, ``RandGaussianNoise`` and
    ``RandGaussianSmooth``, for all images of a batch at once and on its device: called for one patch of 64 x 64 after
    the other, those take as long as a small segmenter's training step.

    Args:
        prob: of each change for each image; 0 leaves everything as it is.
        gamma: range of the exponent of the intensities, scaled to [0, 1] for it.
        contrast: largest relative change of the intensities' scale.
        brightness: largest shift.
        noise: largest standard deviation of the noise, each image's uniform below it.
        speckle: largest standard deviation of noise that grows with the intensity: a factor 1 + n of the intensities,
            scaled to [0, 2] for it.
        blur: range of the Gaussian's standard deviation along each axis, in px.
    """

    def __init__(
        self,
        prob: float = 0.5,
        gamma: tuple[float, float] = (0.6, 1.7),
        contrast: float = 0.4,
        brightness: float = 0.3,
        noise: float = 0.3,
        speckle: float = 0.0,
        blur: tuple[float, float] = (0.3, 1.2),
    ) -> None:
        self.prob, self.speckle = prob, speckle
        self.gamma, self.contrast, self.brightness, self.noise, self.blur = gamma, contrast, brightness, noise, blur

    def __call__(self, images: Tensor, seeds: Tensor) -> Tensor:
        r"""Changed images; they may leave [-1, 1].

        Args:
            images: shape (batch, 1, \*spatial).
            seeds: integers, shape (batch,).
        """
        if self.prob <= 0:
            return images
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        axes = images.ndim - 2
        happens = _uniform(generators, 6, images) < self.prob
        u = _uniform(generators, 5 + axes, images)
        noise = _normal(generators, images.shape[1:], images)
        shape = (-1, *[1] * (images.ndim - 1))

        def value(change: int, low: float, high: float, neutral: float) -> Tensor:
            return torch.where(happens[:, change], low + (high - low) * u[:, change], neutral).view(shape)

        low = images.flatten(1).amin(1).view(shape)
        span = (images.flatten(1).amax(1).view(shape) - low).clamp(min=1e-7)
        images = ((images - low) / span) ** value(0, *self.gamma, neutral=1.0) * span + low
        images = images * value(1, 1 - self.contrast, 1 + self.contrast, neutral=1.0)
        images = images + value(2, -self.brightness, self.brightness, neutral=0.0)
        images = images + value(3, 0.0, self.noise, neutral=0.0) * noise
        if self.speckle > 0:
            factor = value(4, 0.0, self.speckle, neutral=0.0) * _normal(generators, images.shape[1:], images)
            images = images + (images + 1) * factor
        sigmas = torch.where(happens[:, 5:], self.blur[0] + (self.blur[1] - self.blur[0]) * u[:, 5:], 0.0)
        return _smooth(images, sigmas, math.ceil(4 * self.blur[1]))


class RandElastic:
    r"""Random smooth bends of a batch of images and their masks, alike in both.

    Control points about every ``spacing`` pixels move by normal displacements, and all others by their interpolation,
    as in MONAI's ``Rand2DElastic``, for all patches of a batch at once. Each has its own bends, from its own seed.

    Args:
        magnitude: largest standard deviation of the displacements in px, each patch's uniform below it; 0 leaves
            everything as it is.
        spacing: of the control points, px.
        prob: of a patch being bent.
    """

    def __init__(self, magnitude: float, spacing: int = 16, prob: float = 0.5) -> None:
        self.magnitude, self.spacing, self.prob = magnitude, spacing, prob

    def __call__(self, images: Tensor, labels: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        r"""Bent images and masks; pixels from beyond the border take the border's value.

        Args:
            images: shape (batch, 1, \*spatial).
            labels: binary masks, same shape.
            seeds: integers, shape (batch,).
        """
        if self.magnitude <= 0 or self.prob <= 0:
            return images, labels
        # other draws than those of the appearance, which has the same seeds
        generators = [torch.Generator().manual_seed(stable_seed(int(seed), "elastic")) for seed in seeds]
        axes, sides = images.ndim - 2, images.shape[2:]
        u = _uniform(generators, 2, images)
        deviation = torch.where(u[:, 0] < self.prob, self.magnitude * u[:, 1], 0.0)
        points = _normal(generators, (axes, *(max(2, round((side - 1) / self.spacing) + 1) for side in sides)), images)
        smooth = functional.interpolate(points, sides, mode={2: "bicubic", 3: "trilinear"}[axes], align_corners=True)
        # grid_sample wants (x, y): the last axis first, from -1 to 1 between the outer edges of the border pixels
        extent = moved_to(images, torch.tensor(sides[::-1]))
        moved = 2 * deviation.view(-1, *[1] * (axes + 1)) * smooth.flip(1).movedim(1, -1) / extent
        still = functional.affine_grid(
            moved_to(images, torch.eye(axes, axes + 1)).expand(len(images), -1, -1),
            list(images.shape),
            align_corners=False,
        )
        both = torch.cat([images, labels.to(images)], dim=1)
        bent = functional.grid_sample(both, still + moved, padding_mode="border", align_corners=False)
        return bent[:, :1], (bent[:, 1:] >= 0.5).to(labels)


def _uniform(generators: Sequence[torch.Generator], count: int, like: Tensor) -> Tensor:
    return batch_like(like, [torch.rand(count, generator=g) for g in generators])


def _normal(generators: Sequence[torch.Generator], shape: Sequence[int], like: Tensor) -> Tensor:
    return batch_like(like, [torch.randn(tuple(shape), generator=g) for g in generators])


def _smooth(images: Tensor, sigmas: Tensor, radius: int) -> Tensor:
    """Gaussian smoothing of each image by its own deviation along each axis; 0 leaves it as it is.

    A tap is the Gaussian's integral over its pixel, as in MONAI.
    """
    edges = torch.arange(-radius - 0.5, radius + 1, device=images.device)
    batch, axes = sigmas.shape
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[axes - 1]
    x = images.transpose(0, 1)  # an image is a channel with a kernel of its own
    for axis in range(axes):
        kernels = torch.erf(edges / (math.sqrt(2) * sigmas[:, axis, None].clamp(min=1e-3))).diff(dim=1) / 2
        along = [1] * axes
        along[axis] = 2 * radius + 1
        padding = [0] * (2 * axes)
        padding[2 * (axes - 1 - axis)] = padding[2 * (axes - 1 - axis) + 1] = radius
        x = convolve(functional.pad(x, padding, mode="replicate"), kernels.view(batch, 1, *along), groups=batch)
    return x.transpose(0, 1)
