"""A checkpoint of monai-generative becomes a result of stage 1, as if that had trained it."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import default_collate

from ..data.patches import PatchDataset
from ..diffusion import MaskConditionedUNet, NoiseSchedule
from ..errors import InputError
from ..files import load_json, replacing, sha256
from ..weights import save_weights
from .generative import load_generative, read_checkpoint
from .sampling import save_samples
from .stage import MARK, Stage, is_finished
from .trainers import PrepareNoisePrediction

logger = logging.getLogger("monai_vessel_uda")

MEASURED = 32
"""Patches on which the noise prediction of an imported network is measured."""

HIGH_ERROR = 0.5
"""From this mean squared error on, half of the noise goes unpredicted and the user is warned."""


def import_generator(content: Callable[[str], Any], checkpoint: str | Path, key: str | None = None) -> bool:
    """Write a checkpoint as the result of the stage that a config describes, as if that had trained it.

    The folder appears whole or not at all. Its ``stage.json`` has the config's settings, so that ``adapt`` skips the
    stage where it is given the same ones, and ``imported_from``, which says that none of them trained it.

    Args:
        content: gives the parsed content of an id of ``ddpm_pretrain``'s train config; the images are asked for last.
        checkpoint: see :func:`read_checkpoint`.
        key: which network in it.

    Returns:
        Whether there was anything to do: False if this very import lies there already.

    Raises:
        InputError: the checkpoint or the settings cannot be used, or the stage's folder is taken.
    """
    output_dir, settings = Path(content("output_dir")), content("settings")
    origin = {"file": str(Path(checkpoint).resolve()), "sha256": sha256(checkpoint), "key": key}
    if is_imported(output_dir, settings, origin):
        return False
    schedule: NoiseSchedule = content("schedule")
    if schedule.name != "linear":
        raise InputError(
            f"schedule_name: expected 'linear' (monai-generative's 'linear_beta') to import, got {schedule.name!r}, "
            "which is another schedule there: its 'cosine' lags ours by one timestep"
        )
    network = load_generative(_network(content), read_checkpoint(checkpoint, key), checkpoint).eval()
    patches, device = content("train#dataset"), content("device")
    error = noise_prediction_error(network.to(device), patches, schedule, MEASURED, device)
    _report_error(error)
    with replacing(output_dir) as making:
        save_weights(network, making / "weights.pt", {**settings, "imported_from": origin})
        save_samples(
            network,
            schedule,
            patches,
            making / "samples.png",
            count=content("sampled_patches"),
            steps=content("sample_steps"),
            seed=content("seed"),
            device=device,
        )
        stage = Stage(content("workspace"), output_dir.name, making, settings, tracking=content("track")).start()
        stage.finish({"imported_from": origin, "noise_prediction_error": error})
    return True


@torch.no_grad()
def noise_prediction_error(
    network: nn.Module, patches: PatchDataset, schedule: NoiseSchedule, count: int, device: torch.device | str = "cpu"
) -> float:
    """Mean squared error of the noise prediction on the first ``count`` patches at their own timesteps, eq. 3.

    1 is the error of predicting no noise at all; a generator after a short training is at 0.1. A network that predicts
    something else than the noise gives itself away. One that was trained on another range of intensities, the other
    polarity or with other groups in its normalisation need not: look at its samples.
    """
    prepare = PrepareNoisePrediction(schedule)
    errors = []
    for i in range(count):
        x_t, (noise, _), (timesteps, mask), _ = prepare(default_collate([patches[i]]), torch.device(device))
        errors.append(nn.functional.mse_loss(network(x_t, timesteps, mask), noise))
    return float(torch.stack(errors).mean())


def is_imported(output_dir: str | Path, settings: Mapping[str, Any], origin: Mapping[str, Any]) -> bool:
    """Whether ``output_dir`` already holds this very import.

    Args:
        output_dir: of the stage.
        settings: of the stage.
        origin: ``file``, ``sha256`` and ``key`` of the checkpoint; the same content under another name is the same.

    Raises:
        InputError: it holds another import, a trained stage or an unfinished one.
    """
    if not Path(output_dir).exists():
        return False
    mark = Path(output_dir) / MARK
    before = load_json(mark)["results"].get("imported_from", {}) if mark.exists() else {}
    if any(before.get(name) != origin[name] for name in ("sha256", "key")):
        raise InputError(
            f"{output_dir}: expected no stage here, found {_what(mark, before)}; delete the folder to import instead"
        )
    return is_finished(output_dir, settings)


def _what(mark: Path, before: Mapping[str, Any]) -> str:
    if not mark.exists():
        return "an unfinished one"
    return f"an import of {before['file']}" if before else "a finished one"


def _network(content: Callable[[str], Any]) -> MaskConditionedUNet:
    try:
        network: MaskConditionedUNet = content("network_def")
        return network
    except RuntimeError as error:  # MONAI wraps what the network says of its arguments
        raise InputError(f"generator_def: {error.__cause__ or error}") from error


def _report_error(error: float) -> None:
    logger.info("error of the noise prediction on %d patches: %.3f (1: of predicting none)", MEASURED, error)
    if error > HIGH_ERROR:
        logger.warning("far above a trained generator's: was this network trained to predict the noise (epsilon)?")
