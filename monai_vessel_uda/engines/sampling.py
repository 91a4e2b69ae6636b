"""Drawing images with a trained generator: as a picture of what it has learnt, and through MONAI's evaluator."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..data.patches import PatchDataset
from ..diffusion import NoiseSchedule, stack_inputs
from ..errors import InputError
from ..methods.latent_mining import LatentMining
from ..preview import save_contact_sheet


class MaskToImageInferer(Inferer):
    """Draws images from pure noise under masks; for :class:`~monai_vessel_uda.diffusion.StackedInputUNet`.

    Args:
        mining: generation steps, schedule and seed.
    """

    def __init__(self, mining: LatentMining) -> None:
        super().__init__()
        self.mining = mining

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        r"""Images in [-1, 1] for masks of shape (batch, 1, \*spatial).

        Args:
            inputs: the masks.
            network: generator with stacked inputs, eager or TorchScript.
            args: not used.
            kwargs: ``numbers``, on which the noise of each image depends, and ``clean``, flat images that are
                noised, which matter below the noisiest timesteps.
        """
        steps = self.mining.schedule.num_train_timesteps

        def eps(x_t: Tensor, timesteps: Tensor, mask: Tensor) -> Tensor:
            return network(stack_inputs(x_t, timesteps, mask, steps))

        return self.mining.from_noise(eps, inputs, kwargs["numbers"], kwargs.get("clean"))  # type: ignore[arg-type]


class PrepareMasks:
    """A MONAI engine's ``prepare_batch``: the masks as the network's input; none counts as the all-zero mask."""

    def __call__(
        self, batch: Mapping[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor, None, tuple[()], dict[str, Any]]:
        """Return (masks, no target, no further arguments, the patches' numbers and flat images of their brightness)."""
        mask = batch["label"].float() if "label" in batch else torch.zeros_like(batch["image"])
        options = {"numbers": batch["number"].tolist(), "clean": flat_like(batch["image"])}
        return mask.to(device, non_blocking=non_blocking), None, (), options


def flat_like(images: Tensor) -> Tensor:
    r"""Brightness of each image of shape (batch, 1, \*spatial), as an image of one pixel."""
    return images.mean(dim=tuple(range(1, images.ndim)), keepdim=True)


class NumberedPatches(Dataset):
    """The first patches of an endless dataset, each with its ``number``.

    Args:
        patches: for example a :class:`~monai_vessel_uda.data.patches.PatchDataset`.
        count: how many.

    Raises:
        InputError: a count below one.
    """

    def __init__(self, patches: Dataset, count: int) -> None:
        if count < 1:
            raise InputError(f"count: expected at least 1 image, got {count}")
        self.patches, self.count = patches, count

    def __len__(self) -> int:
        """Number of patches."""
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Patch number ``index``."""
        return {**self.patches[index], "number": torch.tensor(index)}


def save_samples(
    generator: nn.Module,
    schedule: NoiseSchedule,
    patches: PatchDataset,
    path: str | Path,
    *,
    count: int,
    steps: int,
    seed: int,
    trained_timesteps: int | None = None,
    from_flat: bool = True,
    device: torch.device | str = "cpu",
) -> Path:
    """Picture of what a generator has learnt: real patch, its mask (if any), an image generated under that mask.

    The generated image starts at the noisiest timestep that the generator was trained on; at the schedule's last one
    that is pure noise.

    Args:
        generator: network of the noise prediction (EMA weights).
        schedule: noise levels.
        patches: real patches.
        path: picture to write.
        count: patches.
        steps: of DDIM.
        seed: of the noise.
        trained_timesteps: how many timesteps the generator was trained on, from the least noisy on; all by default.
        from_flat: noise a flat image of the real patch's brightness, as the rounds do; else the patch itself, as where
            a generator only inverts.
        device: where to compute.
    """
    real = [patches[i] for i in range(count)]
    images = torch.stack([patch["image"] for patch in real])
    masks = torch.stack([patch["label"] for patch in real]) if "label" in real[0] else torch.zeros_like(images)
    highest = trained_timesteps or schedule.num_train_timesteps
    sampler = LatentMining(
        schedule,
        generation_steps=min(steps, highest),
        generation_timesteps=highest,
        seed=seed,
    )
    clean = flat_like(images) if from_flat else images
    generator.to(device).eval()
    generated = sampler.from_noise(generator, masks.to(device), range(count), clean)
    return save_contact_sheet([images, masks, generated], path, rows=count)
