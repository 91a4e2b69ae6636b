"""Two trainers: one for noise prediction, one for segmentation.

Both are MONAI ``SupervisedTrainer`` over :class:`~monai_vessel_uda.data.patches.PatchDataset`, save a checkpoint every
epoch (an epoch is a fixed number of iterations) and continue from it when run again. Several processes share each batch
and end with the weights of one process, see :mod:`.distributed`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.handlers import EMAHandler
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..data.patches import PatchDataset, PatchSampler
from ..diffusion import MovingAverage, NoiseSchedule
from ..diffusion.ddim import seeded_noise
from ..errors import InputError
from ..losses import min_snr_weight
from .checkpoint import ResumableCheckpoint
from .distributed import parallel, share_of_batch
from .history import LossHistory

LEFT_OF_THE_START = 0.025
"""Largest share of the weights before the first step in a moving average at the end of a training."""


def moving_average(network: nn.Module, momentum: float, iterations: int) -> MovingAverage:
    r"""Moving average of a network that starts from random weights, which would otherwise spoil a short training's.

    After :math:`n` steps the start still has the share :math:`(1 - m)^n`: 5 % after 30 000 steps of 1e-4.

    Args:
        network: what is averaged.
        momentum: :math:`m`, share of the new weights at each step; raised where the start's share would be above 2.5 %.
        iterations: :math:`n`.

    Returns:
        The handler; its ``ema_model`` is the average.
    """
    return MovingAverage(network, momentum=max(momentum, 1 - LEFT_OF_THE_START ** (1 / iterations)))


class PrepareNoisePrediction:
    """Turns a batch of patches into a noise prediction task, eq. 3, for a MONAI trainer's ``prepare_batch``.

    Timestep and noise of a patch come from the patch's own seed, so they are the same whatever batch or process the
    patch is in. A batch without masks gets the all-zero mask ("unconditional").

    Args:
        schedule: noise levels.
        trained_timesteps: how many of the schedule's timesteps are trained, from the least noisy on; all by default. A
            generator that only ever inverts t0 steps need not learn the others.
        min_snr_gamma: weigh the patches by :func:`~monai_vessel_uda.losses.min_snr_weight`; all alike by default.

    Raises:
        InputError: more timesteps than the schedule has, or none; a ``min_snr_gamma`` that is not positive.
    """

    def __init__(
        self, schedule: NoiseSchedule, trained_timesteps: int | None = None, min_snr_gamma: float | None = None
    ) -> None:
        highest = schedule.num_train_timesteps
        if trained_timesteps is not None and not 1 <= trained_timesteps <= highest:
            raise InputError(f"trained_timesteps: expected 1 to {highest}, got {trained_timesteps}")
        if min_snr_gamma is not None and not min_snr_gamma > 0:
            raise InputError(f"min_snr_gamma: expected null or a positive number, got {min_snr_gamma}")
        self.schedule = schedule
        self.trained_timesteps = trained_timesteps or highest
        self.min_snr_gamma = min_snr_gamma

    def __call__(
        self, batch: dict[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, Tensor], dict]:
        """Return (x_t, (noise, mask[, weight]), (timesteps, mask), {}): input, target, further network arguments."""
        x_0 = batch["image"].to(device, non_blocking=non_blocking).float()
        mask = batch["label"].to(x_0, non_blocking=non_blocking) if "label" in batch else torch.zeros_like(x_0)
        generators = [torch.Generator().manual_seed(int(seed)) for seed in batch["seed"]]
        timesteps = torch.cat([torch.randint(self.trained_timesteps, (1,), generator=g) for g in generators])
        noise = seeded_noise(x_0, generators)
        x_t = self.schedule.add_noise(x_0, noise, timesteps)
        weight = []
        if self.min_snr_gamma is not None:
            ratio = self.schedule.signal_to_noise(timesteps)
            weight = [min_snr_weight(ratio, self.min_snr_gamma).float().to(device, non_blocking=non_blocking)]
        return x_t, (noise, mask, *weight), (timesteps.to(device, non_blocking=non_blocking), mask), {}


class PrepareSegmentation:
    """Image and label of a batch of patches, for a MONAI trainer's ``prepare_batch``.

    Args:
        augmentation: ``(images, seeds) -> images``, by the patches' own seeds; none by default.
        deformation: ``(images, labels, seeds) -> (images, labels)``, before the augmentation; none by default.
    """

    def __init__(
        self,
        augmentation: Callable[[Tensor, Tensor], Tensor] | None = None,
        deformation: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        self.augmentation = augmentation
        self.deformation = deformation

    def __call__(
        self, batch: dict[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Return (image, label) on the device, where they are augmented."""
        image, label = (batch[key].to(device, non_blocking=non_blocking) for key in ("image", "label"))
        if self.deformation is not None:
            image, label = self.deformation(image, label, batch["seed"])
        return (image if self.augmentation is None else self.augmentation(image, batch["seed"])), label


class AutocastInferer(Inferer):
    """Calls a network under bfloat16 autocast, on a CPU as on a GPU; weights, loss and optimiser stay in float32.

    MONAI's own ``amp`` is for CUDA alone, and scales the loss, which bfloat16 with its range of float32 does not need.

    Args:
        inferer: how the network is called; directly by default.
    """

    def __init__(self, inferer: Inferer | None = None) -> None:
        super().__init__()
        self.inferer = inferer or SimpleInferer()

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        """The network's answer, in float32."""
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
            return self.inferer(inputs, network, *args, **kwargs).float()


def noise_trainer(
    network: nn.Module,
    dataset: PatchDataset,
    ema: EMAHandler,
    *,
    schedule: NoiseSchedule,
    loss: Callable[..., Tensor],
    output_dir: str | Path,
    label: str = "generator",
    iterations: int,
    iterations_per_epoch: int,
    batch_size: int,
    learning_rate: float = 1e-4,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
    amp: bool = False,
    inferer: Inferer | None = None,
    max_epochs: int | None = None,
    handlers: Sequence[Any] = (),
    trained_timesteps: int | None = None,
    min_snr_gamma: float | None = None,
) -> SupervisedTrainer:
    """Trainer of a noise prediction network (AdamW, EMA weights).

    Args:
        network: ``network(x_t, timesteps, mask) -> noise``.
        dataset: patches with ``image`` in [-1, 1] and, where masks exist, ``label``.
        ema: moving average of the network's weights; its ``ema_model`` is what samples.
        schedule: noise levels.
        loss: ``loss(prediction, (noise, mask))``, with ``min_snr_gamma`` ``(noise, mask, weight of each patch)``.
        output_dir: where ``checkpoint.pt`` and ``losses.csv`` go.
        label: name in progress lines.
        iterations: optimiser steps in all; a multiple of ``iterations_per_epoch``.
        iterations_per_epoch: steps between checkpoints.
        batch_size: patches in a step, over all processes together.
        learning_rate: of AdamW.
        device: where to train.
        num_workers: processes that load patches.
        amp: call the network under bfloat16 autocast.
        inferer: how the network is called; directly by default.
        max_epochs: epochs after which to stop; all of them by default.
        handlers: further Ignite handlers.
        trained_timesteps: how many timesteps are trained, from the least noisy on; all by default.
        min_snr_gamma: weigh timesteps by :func:`~monai_vessel_uda.losses.min_snr_weight`; all alike by default.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.0, fused=True)
    history = LossHistory(label, Path(output_dir) / "losses.csv")
    objects = {"network": network, "ema": ema.ema_model, "optimizer": optimizer, "history": history}
    ema.ema_model.to(device)
    return SupervisedTrainer(
        prepare_batch=PrepareNoisePrediction(schedule, trained_timesteps, min_snr_gamma),
        optimizer=optimizer,
        train_handlers=[
            history,
            ema,
            _checkpoint(output_dir, objects, dataset, iterations, batch_size),
            *handlers,
        ],
        loss_function=loss,
        inferer=AutocastInferer(inferer) if amp else inferer,
        **_common(network, dataset, iterations, iterations_per_epoch, batch_size, device, num_workers, max_epochs),
    )


def segmentation_trainer(
    network: nn.Module,
    dataset: PatchDataset,
    *,
    loss: Callable[[Tensor, Tensor], Tensor],
    output_dir: str | Path,
    label: str = "segmenter",
    iterations: int,
    iterations_per_epoch: int,
    batch_size: int,
    augmentation: Callable[[Tensor, Tensor], Tensor] | None = None,
    deformation: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    learning_rate: float = 1e-3,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
    amp: bool = False,
    inferer: Inferer | None = None,
    max_epochs: int | None = None,
    handlers: Sequence[Any] = (),
) -> SupervisedTrainer:
    """Trainer of a segmenter (Adam, learning rate decaying as ``(1 - step / iterations) ** 0.9``).

    Args:
        network: ``network(image) -> logits`` of shape (batch, 2, *spatial).
        dataset: patches with ``image`` and ``label``.
        loss: ``loss(logits, label)``.
        output_dir: where ``checkpoint.pt`` and ``losses.csv`` go.
        label: name in progress lines.
        iterations: optimiser steps in all; a multiple of ``iterations_per_epoch``.
        iterations_per_epoch: steps between checkpoints.
        batch_size: patches in a step, over all processes together.
        augmentation: ``(images, seeds) -> images`` for each batch, on the device.
        deformation: ``(images, labels, seeds) -> (images, labels)`` before that.
        learning_rate: of Adam at the start.
        device: where to train.
        num_workers: processes that load patches.
        amp: call the network under bfloat16 autocast.
        inferer: how the network is called; directly by default.
        max_epochs: epochs after which to stop; all of them by default.
        handlers: further Ignite handlers.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)
    decay: Any = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=iterations, power=0.9)
    history = LossHistory(label, Path(output_dir) / "losses.csv")
    objects = {"network": network, "optimizer": optimizer, "decay": decay, "history": history}
    return SupervisedTrainer(
        prepare_batch=PrepareSegmentation(augmentation, deformation),
        optimizer=optimizer,
        loss_function=loss,
        train_handlers=[
            history,
            LrScheduleHandler(decay, print_lr=False, epoch_level=False),
            _checkpoint(output_dir, objects, dataset, iterations, batch_size),
            *handlers,
        ],
        inferer=AutocastInferer(inferer) if amp else inferer,
        **_common(network, dataset, iterations, iterations_per_epoch, batch_size, device, num_workers, max_epochs),
    )


def _checkpoint(
    output_dir: str | Path, objects: dict[str, Any], dataset: PatchDataset, iterations: int, batch_size: int
) -> ResumableCheckpoint:
    fingerprint = f"seed {dataset.seed}, {len(dataset.images)} images, {iterations} iterations of {batch_size}"
    return ResumableCheckpoint(Path(output_dir) / "checkpoint.pt", objects, fingerprint)


def _common(
    network: nn.Module,
    dataset: PatchDataset,
    iterations: int,
    iterations_per_epoch: int,
    batch_size: int,
    device: torch.device | str,
    num_workers: int,
    max_epochs: int | None,
) -> dict[str, Any]:
    if iterations < 1 or iterations_per_epoch < 1 or iterations % iterations_per_epoch:
        raise InputError(
            f"iterations: expected a positive multiple of iterations_per_epoch ({iterations_per_epoch}), "
            f"got {iterations}"
        )
    if batch_size < 1:
        raise InputError(f"batch_size: expected at least 1, got {batch_size}")
    device = torch.device(device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # pinning memory opens a context on the current GPU
    loader = DataLoader(
        dataset,
        batch_size=share_of_batch(batch_size),
        sampler=PatchSampler(iterations_per_epoch * batch_size, idist.get_world_size(), idist.get_rank()),
        num_workers=num_workers,
        persistent_workers=False,  # workers must see the sampler's new epoch
        pin_memory=device.type == "cuda",
    )
    return {
        "device": device,
        "network": parallel(network.to(device)),
        "train_data_loader": loader,
        "max_epochs": min(iterations // iterations_per_epoch, max_epochs or iterations),
        "decollate": False,
        "optim_set_to_none": True,
        "non_blocking": True,  # from pinned memory; nothing changes on a CPU
    }
