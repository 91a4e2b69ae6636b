"""What a segmenter should not depend on: brightness, contrast, noise and sharpness of its training images."""

import math

import torch
from torch import Tensor
from torch.nn import functional


class RandAppearance:
    r"""Random changes of appearance of a batch of images in [-1, 1]; shapes stay as they are.

    Gamma, contrast, brightness, then noise, then blur: noise before blur is sometimes as coarse as capillaries are,
    which a photograph does not show and an OCTA image is full of. Geometry is left alone, since the calibre has been
    matched between the domains.

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
        blur: range of the Gaussian's standard deviation along each axis, in px.
    """

    def __init__(
        self,
        prob: float = 0.5,
        gamma: tuple[float, float] = (0.6, 1.7),
        contrast: float = 0.4,
        brightness: float = 0.3,
        noise: float = 0.3,
        blur: tuple[float, float] = (0.3, 1.2),
    ) -> None:
        self.prob = prob
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
        happens = self._drawn(generators, 5, images) < self.prob
        u = self._drawn(generators, 4 + axes, images)
        noise = torch.stack([torch.randn(images.shape[1:], generator=g) for g in generators]).to(images)
        shape = (-1, *[1] * (images.ndim - 1))

        def value(change: int, low: float, high: float, neutral: float) -> Tensor:
            return torch.where(happens[:, change], low + (high - low) * u[:, change], neutral).view(shape)

        low = images.flatten(1).amin(1).view(shape)
        span = (images.flatten(1).amax(1).view(shape) - low).clamp(min=1e-7)
        images = ((images - low) / span) ** value(0, *self.gamma, neutral=1.0) * span + low
        images = images * value(1, 1 - self.contrast, 1 + self.contrast, neutral=1.0)
        images = images + value(2, -self.brightness, self.brightness, neutral=0.0)
        images = images + value(3, 0.0, self.noise, neutral=0.0) * noise
        sigmas = torch.where(happens[:, 4:], self.blur[0] + (self.blur[1] - self.blur[0]) * u[:, 4:], 0.0)
        return _smooth(images, sigmas, math.ceil(4 * self.blur[1]))

    @staticmethod
    def _drawn(generators: list[torch.Generator], count: int, like: Tensor) -> Tensor:
        return torch.stack([torch.rand(count, generator=g) for g in generators]).to(like)


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
