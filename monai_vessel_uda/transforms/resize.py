"""Resampling by torch: means over areas when shrinking to half or less, else bilinear; without aliasing."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate


def scaled_size(shape: tuple[int, int], factor: float) -> tuple[int, int]:
    """Rows and columns after scaling by ``factor``, at least one pixel each."""
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def resize_tensor(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample (C, H, W) float to ``size``; each output pixel is a mean of the area it covers when shrinking.

    PyTorch's area means are those of whole pixels, so that structures move by up to half an input pixel. When
    shrinking to half or less this is less than a quarter of an output pixel; nearer to the input's size it is seen in
    thin vessels, and the bilinear filter, which is as wide as an output pixel, is used instead.
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    if 2 * size[0] <= image.shape[-2] and 2 * size[1] <= image.shape[-1]:
        return interpolate(image[None], size=size, mode="area")[0]
    return interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]


def resize(image: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """:func:`resize_tensor` for a numpy image (H, W)."""
    return resize_tensor(torch.from_numpy(np.ascontiguousarray(image))[None], size)[0].numpy()


def reduce_to_side(image: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Shrink (H, W) until its longer side is at most ``side`` pixels; smaller images are returned as they are."""
    longer = max(image.shape)
    return image if longer <= side else resize(image, scaled_size(image.shape, side / longer))  # type: ignore[arg-type]
