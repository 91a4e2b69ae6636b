"""The whole idea in one picture, for the top of a page."""

from collections.abc import Iterable
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from ..files import load_json, load_tensors
from ..preview import overlay, save_contact_sheet

TITLES = ("source", "its mask", "generated", "real target", "prediction")


def write_example(workspace: Path, predictions: Iterable[tuple[Tensor, Tensor]]) -> Path:
    """Source patches, their masks, the images generated for these; real target images, their predicted vessels.

    Args:
        workspace: folder of an adaptation whose rounds are done.
        predictions: one row each: a target image (1, h, w) in [-1, 1], and the mask of its vessels, {0, 1}, (H, W)
            at any resolution. Not iterated over where the picture is newer than the rounds' conclusion.

    Returns:
        The PNG file.
    """
    stages = workspace / "stages"
    path = stages / "co_optimization" / "preview_example.png"
    rounds = stages / "co_optimization" / "rounds.json"
    if path.exists() and path.stat().st_mtime_ns >= rounds.stat().st_mtime_ns:
        return path
    exported = load_json(rounds)["exported_round"]
    mined = stages / "latent_mining"
    generated = stages / "co_optimization" / f"round_{exported:02d}" if exported else mined
    sources, drawn = (load_tensors(folder / "pairs" / "00000.pt") for folder in (mined, generated))
    images, overlays = [], []
    for image, mask in predictions:
        vessels = F.interpolate(mask[None, None].float(), size=image.shape[1:])[0] >= 0.5
        images.append(image)
        overlays.append(overlay(image, vessels))
    columns = [sources["source"], sources["label"], drawn["image"], images, overlays]
    return save_contact_sheet(columns, path, titles=TITLES, tile=160)
