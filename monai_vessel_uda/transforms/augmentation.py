"""What a segmenter should not depend on: brightness, contrast, noise and sharpness of its training images."""

from collections.abc import Sequence

from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
)


def rand_appearance(keys: Sequence[str], prob: float = 0.5) -> Compose:
    """Random changes of appearance for images in [-1, 1]; shapes and labels stay as they are.

    Gamma, contrast, brightness, then noise, then blur: noise before blur is sometimes as coarse as capillaries are,
    which a photograph does not show and an OCTA image is full of. Geometry is left alone, since the calibre has been
    matched between the domains.

    Args:
        keys: of the images, each (1, height, width).
        prob: of each change; 0 leaves everything as it is.

    Returns:
        The chain; values may leave [-1, 1].
    """
    return Compose(
        [
            RandAdjustContrastd(keys, prob=prob, gamma=(0.6, 1.7)),
            RandScaleIntensityd(keys, factors=0.4, prob=prob),
            RandShiftIntensityd(keys, offsets=0.3, prob=prob),
            RandGaussianNoised(keys, prob=prob, std=0.3),
            RandGaussianSmoothd(keys, prob=prob, sigma_x=(0.3, 1.2), sigma_y=(0.3, 1.2)),
        ]
        if prob > 0
        else []
    )
