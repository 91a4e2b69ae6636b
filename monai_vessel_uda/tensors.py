"""Moving tensors to where others are."""

import torch
from torch import Tensor


def moved_to(like: Tensor, tensor: Tensor) -> Tensor:
    """``tensor`` with the dtype and on the device of ``like``; the host does not wait for its way to a GPU.

    A copy from ordinary memory to a GPU waits until all that was asked of the GPU before is done. One from page-locked
    memory does not, and PyTorch keeps that memory until the copy is over.
    """
    if like.is_cuda and not tensor.is_cuda:
        return tensor.to(like.dtype).pin_memory().to(like.device, non_blocking=True)
    return tensor.to(like)


def batch_like(like: Tensor, draws: list[Tensor]) -> Tensor:
    """One batch of what was drawn for each image, with the dtype and on the device of ``like``."""
    return moved_to(like, torch.stack(draws))
