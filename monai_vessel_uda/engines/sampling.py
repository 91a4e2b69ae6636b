"""Drawing images with a trained generator through MONAI's evaluator."""

from collections.abc import Mapping
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..diffusion import stack_inputs
from ..errors import InputError
from ..methods.latent_mining import LatentMining


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
            kwargs: ``numbers``, on which the noise of each image depends.
        """
        steps = self.mining.schedule.num_train_timesteps

        def eps(x_t: Tensor, timesteps: Tensor, mask: Tensor) -> Tensor:
            return network(stack_inputs(x_t, timesteps, mask, steps))

        return self.mining.from_noise(eps, inputs, kwargs["numbers"])  # type: ignore[arg-type]


class PrepareMasks:
    """A MONAI engine's ``prepare_batch``: the masks as the network's input; none counts as the all-zero mask."""

    def __call__(
        self, batch: Mapping[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor, None, tuple[()], dict[str, Any]]:
        """Return (masks, no target, no further arguments, the patches' numbers)."""
        mask = batch["label"].float() if "label" in batch else torch.zeros_like(batch["image"])
        return mask.to(device, non_blocking=non_blocking), None, (), {"numbers": batch["number"].tolist()}


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
