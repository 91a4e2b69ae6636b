"""What images and their data set are called after the folders in which they lie."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monai_vessel_uda.data.known_layouts import IMAGE_FOLDERS, LAYOUTS

# Folder names that say nothing about which data set they belong to.
_UNTELLING = {*IMAGE_FOLDERS, "original", "data", "train", "training", "val", "validation", "test", "testing"}
_SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "validation": "val", "test": "test"}


def told_apart(items: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Items of several folders, of which those of equal last names become data sets of their own.

    ``siteA/fundus`` and ``siteB/fundus`` would both be "fundus", with one scale for two cameras; they become
    "siteA-fundus" and "siteB-fundus". Known data sets keep their names, in however many folders they lie.

    Args:
        items: as from `find_items`.
    """
    known = {layout.dataset for layout in LAYOUTS.values()}
    made = [dict(item) for item in items]
    folders: dict[str, dict[str, Path]] = {}  # by data set, and where the folder really lies
    for item in made:
        if item["dataset"] not in known:
            folder = _telling_folder(Path(item["image"]).parent)
            folders.setdefault(item["dataset"], {}).setdefault(os.path.realpath(folder), folder)
    names = {dataset: _longer_names(list(places.values())) for dataset, places in folders.items() if len(places) > 1}
    for item in made:
        if dataset := names.get(item["dataset"], {}).get(_telling_folder(Path(item["image"]).parent)):
            item["id"] = id_part(dataset) + item["id"].removeprefix(id_part(item["dataset"]))
            item["dataset"] = dataset
    return made


def _longer_names(folders: list[Path]) -> dict[Path, str]:
    """A name for each folder, of as many of its last parts as tell them apart."""
    parts = [folder.relative_to(folder.anchor).parts for folder in folders]
    enough = next(n for n in range(1, max(map(len, parts)) + 1) if len({part[-n:] for part in parts}) == len(parts))
    return {folder: "-".join(part[-enough:]) for folder, part in zip(folders, parts, strict=True)}


def named_after(images: Path) -> tuple[str, str]:
    """Return (data set, split) as the folders above the images are called."""
    telling = _telling_folder(images)
    above = [part.name.lower() for part in (images, *images.parents) if telling in part.parents]
    return telling.name or "images", next((_SPLIT_NAMES[name] for name in above if name in _SPLIT_NAMES), "")


def _telling_folder(images: Path) -> Path:
    """The folder, of those above the images, by which a data set is called."""
    folders = [folder for folder in (images, *images.parents) if folder.name]
    return next((folder for folder in folders if folder.name.lower() not in _UNTELLING), images)


def id_part(name: str) -> str:
    """A name with nothing in it that an id may not hold."""
    return re.sub(r"[^\w.-]+", "_", name)
