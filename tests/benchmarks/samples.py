"""How real images from noise look, by solver, steps and start: brightness, contrast, distance to real patches.

    python -m tests.benchmarks.samples WORKSPACE [--preset small] [--patches 64] [--output FOLDER]

For the workspace's pre-trained target generator, without masks. Prints a table and, with --output, draws a contact
sheet: real patches, then the same noise by each way of ``SHOWN``. Ways that ask the generator for timesteps which it
has not learnt are left out. Nothing here is read by the package.
"""

import argparse
import time
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from monai_vessel_uda.config_ids import set_id
from monai_vessel_uda.data.manifest import load_manifest
from monai_vessel_uda.data.patches import PatchDataset
from monai_vessel_uda.diffusion import NoiseSchedule
from monai_vessel_uda.methods.latent_mining import IntensityRange, LatentMining
from monai_vessel_uda.metrics.distributions import feature_distance
from monai_vessel_uda.preview import save_contact_sheet
from monai_vessel_uda.settings import bundle_folder, resolve_settings
from monai_vessel_uda.weights import load_weights, trained_timesteps_of

WAYS = [
    *(("ddim", "trailing", steps, None) for steps in (50, 25, 15)),
    *(("ddim", "trailing", 15, start) for start in (800, 700, 600)),
    *(("dpm-solver", "trailing", steps, start) for start in (800, 700, 600) for steps in (6, 10)),
    *(("dpm-solver", "quadratic", steps, start) for start in (None, 800, 700, 600) for steps in (6, 10)),
]
"""Solver, spacing, steps, timestep to start from (None: pure noise)."""
SHOWN = [("ddim", "trailing", 25, None), ("dpm-solver", "quadratic", 6, 700), ("dpm-solver", "quadratic", 10, 700)]
BATCH = 32
ALL_TIMESTEPS = NoiseSchedule().num_train_timesteps


def statistics(patches: Tensor, real: Tensor) -> str:
    """Mean and spread of the patches' brightness, mean contrast, feature distance to real ones, as table cells."""
    means, deviations = patches.flatten(1).mean(1), patches.flatten(1).std(1)
    distance = feature_distance(patches, real)
    return f"{means.mean():.3f} ± {means.std():.3f} | {deviations.mean():.3f} | {distance:.2f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--patches", type=int, default=64)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    config = ConfigParser()
    config.read_config(bundle_folder("ddpm_pretrain") / "configs" / "train.json")
    values = {**resolve_settings(options.preset, {}), "workspace": str(options.workspace), "domain": "target"}
    for key, value in {**values, "device": "cpu"}.items():
        set_id(config.config, key, value)
    manifest = load_manifest(options.workspace / "manifest.json")
    weights = options.workspace / "stages" / "ddpm_target" / "weights.pt"
    network = load_weights(config.get_parsed_content("generator_def"), weights).eval()
    learnt = trained_timesteps_of(weights) or ALL_TIMESTEPS
    dataset: PatchDataset = config.get_parsed_content("train#dataset")
    real = torch.stack([dataset[i]["image"] for i in range(2 * options.patches)])
    compared, real = real[: options.patches], real[options.patches :]
    levels = IntensityRange.of(real)
    print("| solver | spacing | from timestep | steps | brightness | contrast | feature distance | seconds |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    print(f"| real patches | | | | {statistics(compared, real)} | |")
    columns = [compared]
    for solver, spacing, steps, start in WAYS:
        if (start or ALL_TIMESTEPS) > learnt:
            continue
        mining = LatentMining(
            NoiseSchedule(),
            decoder=solver,
            decoding_spacing=spacing,
            generation_steps=steps,
            generation_timesteps=start,
            seed=manifest["seed"],
        )
        began, drawn = time.perf_counter(), []
        for first in range(0, options.patches, BATCH):
            numbers = range(first, min(first + BATCH, options.patches))
            empty = torch.zeros(len(numbers), *real.shape[1:])
            drawn.append(
                mining.from_noise(network, empty, numbers, levels.brightness(numbers).view(-1, 1, 1, 1)).clamp(-1, 1)
            )
        images, seconds = torch.cat(drawn), time.perf_counter() - began
        way = f"{solver} | {spacing} | {start or ALL_TIMESTEPS} | {steps}"
        print(f"| {way} | {statistics(images, real)} | {seconds:.1f} |", flush=True)
        if (solver, spacing, steps, start) in SHOWN:
            columns.append(images)
    if options.output:
        save_contact_sheet([column[:12] for column in columns], options.output / "samples_by_solver.png", rows=12)


if __name__ == "__main__":
    main()
