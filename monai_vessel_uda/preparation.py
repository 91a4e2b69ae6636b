"""A new workspace: which images there are, and how both domains are brought into one space."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import InputError
from .files import check_path, working_alone

logger = logging.getLogger("monai_vessel_uda")

_SIZES_ALIKE = 1.3
"""Ratio of image sides within one data set up to which one scale is good for all: their calibres differ as much."""


def prepare(
    workspace: str | Path,
    source: Sequence[str | Path],
    target: str | Path,
    evaluation: str | Path | None = None,
    supervised: str | Path | None = None,
    *,
    seed: int = 0,
    **preprocessing: Any,
) -> Path:
    """Write the manifest: find the images, check them, decide how both domains are brought into one space.

    Args:
        workspace: folder to make.
        source: folders of labelled source images, in any known layout.
        target: folder of target images; masks in it are not looked at.
        evaluation: folder of target images with masks, for scores only; of a data set's root its official test part.
        supervised: folder of target images with masks, for the upper bound only; needs ``evaluation``.
        seed: of everything random.
        preprocessing: options of
            :func:`~monai_vessel_uda.transforms.preprocessing.estimate_preprocessing`.

    Returns:
        Path of the manifest.

    Raises:
        InputError: anything that cannot be used; names the file.
    """
    from .data.manifest import build_manifest, save_manifest
    from .progress import Progress
    from .transforms.preprocessing import estimate_preprocessing

    check_path(Path(workspace).resolve())
    path = Path(workspace) / "manifest.json"
    with working_alone(path.parent):  # refused now rather than below, after minutes
        _refuse_begun(path)
    if supervised is not None and evaluation is None:
        raise InputError(f"upper bound {supervised}: expected images to score it on, too (--evaluation)")
    found = find_images(source, target, evaluation, supervised)
    progress = Progress("looking at the images", 100)
    record = estimate_preprocessing(
        found["source"],
        found["target"],
        seed=seed,
        progress=lambda share, what: progress.update(round(100 * share) - progress.done),
        **preprocessing,
    )
    manifest = build_manifest(
        source=found["source"],
        target=found["target"],
        evaluation=found["evaluation"],
        supervised=found["supervised"],
        preprocessing=record,
        seed=seed,
    )
    _warn_of_mixed_sizes(
        manifest["source"],
        "one data set gets one scale; put images of each size into a folder of their own and give each as --source",
    )
    _warn_of_mixed_sizes(
        manifest["target"],
        "all target images get one scale; if those of one size have more pixels "
        "per mm than the others, adapt to each size in a workspace of its own",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with working_alone(path.parent):
        _refuse_begun(path)
        save_manifest(manifest, path)
    return path


def _refuse_begun(path: Path) -> None:
    if path.exists() and any((path.parent / "stages").glob("*")):
        raise InputError(
            f"{path}: this workspace has stages of an earlier adaptation; choose another folder or delete it"
        )


def _warn_of_mixed_sizes(entries: Sequence[Mapping[str, Any]], advice: str) -> None:
    """Warn of data sets whose images are of several kinds: the vessels of all cannot fit one scale."""
    sides: dict[str, list[int]] = {}
    for entry in entries:
        sides.setdefault(entry["dataset"], []).append(max(entry["size"]))
    for dataset, found in sides.items():
        if max(found) > _SIZES_ALIKE * min(found):
            logger.warning(
                "%s: its images have between %d and %d pixels on their longer side, but %s",
                *(dataset, min(found), max(found), advice),
            )


def find_images(
    source: Sequence[str | Path],
    target: str | Path | None,
    evaluation: str | Path | None = None,
    supervised: str | Path | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Items of the manifest's four lists in the folders of :func:`prepare`; none of a list without a folder."""
    from .data.layouts import find_items
    from .data.names import told_apart

    labelled = [item for folder in source for item in find_items(folder, domain="source", labels="required")]
    return {
        "source": told_apart(labelled),
        "target": [] if target is None else find_items(target, domain="target", labels="forbidden"),
        **{
            name: [] if folder is None else find_items(folder, domain="target", labels="required", preferred=part)
            for name, folder, part in (("evaluation", evaluation, "test"), ("supervised", supervised, "train"))
        },
    }


def check_prepared(
    workspace: Path,
    source: Sequence[str | Path],
    target: str | Path | None,
    evaluation: str | Path | None,
    supervised: str | Path | None,
    seed: int | None,
) -> None:
    """Refuse folders or a seed that a workspace was not prepared with: they would be left out in silence.

    Args:
        workspace: folder with a manifest.
        source: folders as in :func:`prepare`; none asks for those that are known.
        target: likewise.
        evaluation: likewise.
        supervised: likewise.
        seed: likewise.

    Raises:
        InputError: another seed, or a folder whose images are not the manifest's.
    """
    from .data.manifest import load_manifest

    manifest = load_manifest(workspace / "manifest.json")
    if seed is not None and seed != manifest["seed"]:
        raise InputError(f"seed {seed}: {workspace} was prepared with {manifest['seed']}; take a new workspace")
    for name, items in find_images(source, target, evaluation, supervised).items():
        given, known = ({os.path.abspath(item["image"]) for item in found} for found in (items, manifest[name]))
        if given and given != known:
            what = "with other images" if known else "without"
            raise InputError(
                f"{'upper bound' if name == 'supervised' else name}: {workspace} was prepared {what} (such as "
                f"{min(given ^ known)}); take a new workspace, or score the finished segmenter with 'vessel-uda "
                "evaluate'"
            )
