"""The package's own stages at the scale of a preset: their configs, trainer and mining, and data to run them on."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.engines import SupervisedTrainer
from PIL import Image
from torch import nn

from monai_vessel_uda import preparation
from monai_vessel_uda.data.patches import PatchDataset, RandSymmetryd
from monai_vessel_uda.data.phantoms import fundus_phantom, write_phantoms
from monai_vessel_uda.diffusion import MovingAverage, NoiseSchedule
from monai_vessel_uda.engines.trainers import noise_trainer
from monai_vessel_uda.losses import VesselWeightedNoiseLoss
from monai_vessel_uda.methods.latent_mining import IntensityRange, LatentMining
from monai_vessel_uda.methods.pairs import mine_pairs
from monai_vessel_uda.settings import bundle_folder, preset_overrides
from monai_vessel_uda.workflows import bundle_workflow

from .measure import Options


def stage_parser(bundle: str, config: str, options: Options, **overrides: Any) -> Any:
    """Parser of a stage's config, from which its parts can be had as the stage makes them."""
    values = {"seed": 0, "track": False, "device": f"$torch.device('{options.device}')"}
    root = bundle_folder(bundle)
    settings = {**preset_overrides(options.preset), **options.overrides, **values, **overrides}
    parser = bundle_workflow([root / "configs" / config], root, settings).parser
    parser.parse(True)
    return parser


def generator_definition(options: Options) -> dict[str, Any]:
    """Arguments of the preset's generator."""
    config = stage_parser("ddpm_pretrain", "train.json", options).get("generator_def")
    return {key: value for key, value in config.items() if key != "_target_"}


def generator_trainer(
    network: nn.Module, options: Options, folder: str | Path, iterations: int = 1
) -> SupervisedTrainer:
    """The trainer of a generator, on patches of noise, of the preset's size and batch."""
    config = stage_parser("ddpm_pretrain", "train.json", options)
    return noise_trainer(
        network,
        random_patches(config.get("patch_size")),
        MovingAverage(network, momentum=config.get("ema_momentum")),
        schedule=NoiseSchedule(),
        loss=VesselWeightedNoiseLoss(),
        output_dir=folder,
        iterations=iterations,
        iterations_per_epoch=iterations,
        batch_size=config.get("batch_size"),
        device=options.device,
    )


def mine(network: nn.Module, options: Options, folder: str | Path, pairs: int, batch_size: int, t0: int) -> Path:
    """Mine pairs with one network for both generators, writing included."""
    patches = random_patches(stage_parser("latent_mining", "mine.json", options).get("patch_size"))
    return mine_pairs(
        LatentMining(NoiseSchedule(), steps=50, t0=t0),
        network,
        network,
        patches,
        IntensityRange.of_dataset(patches, 8),
        output_dir=Path(folder) / "pairs",
        pairs=pairs,
        batch_size=batch_size,
        device=options.device,
    )


def random_patches(side: int, count: int = 16) -> PatchDataset:
    """Patches of noise with masks, in memory."""
    generator = torch.Generator().manual_seed(0)
    images = [
        {
            "image": 2 * torch.rand(1, side, side, generator=generator) - 1,
            "label": (torch.rand(1, side, side, generator=generator) < 0.1).float(),
        }
        for _ in range(count)
    ]
    return PatchDataset(images, RandSymmetryd(["image", "label"]), 0)


def phantom_workspace(folder: Path, image_side: int, photograph_side: int) -> Path:
    """A workspace prepared on angiograms of one size, photographs that match them, and one large photograph."""
    sets = write_phantoms(folder, source=3, target=4, evaluation=0, supervised=0, size=image_side)
    picture, mask = fundus_phantom(np.random.default_rng(0), photograph_side)
    for part, array in (("images", picture), ("labels", np.uint8(255) * mask)):
        Image.fromarray(array).save(sets["source"] / part / "large.png")
    preparation.prepare(folder / "workspace", [sets["source"]], sets["target"])
    return folder / "workspace"
