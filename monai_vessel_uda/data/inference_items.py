"""Which images a segmenter is run on: those of a folder without results of earlier runs, or those that have masks."""

import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import load_json
from .images import IMAGE_SUFFIXES, image_size, image_stem, image_suffix
from .known_layouts import LABEL_FOLDERS
from .layouts import find_items
from .manifest import datalist, load_manifest

logger = logging.getLogger("monai_vessel_uda")

RESULTS = ("vessels", "probability", "overlay")
"""What is written beside ``<stem>``: ``<stem>_vessels`` and so on."""
OTHER_SIZE = 1.5
"""How many times larger or smaller than the training's an image is before its resolution is doubted."""


def images_to_segment(source: str | Path, output_dir: str | Path | None = None) -> list[dict[str, Any]]:
    """Items for one image file or all images below a folder, without masks and results of an earlier run.

    Folders of masks beside images, known by their names, and files of other formats are logged and passed over.

    Args:
        source: image or folder.
        output_dir: where results go; what lies there is no image to segment, unless it is ``source`` itself: then
            results are known by their names, as those beside any other image are.

    Raises:
        InputError: no such file or folder, no image in it, or two images that would write the same result.
    """
    source = Path(source)
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    paths = [source] if source.is_file() else _images_below(source, output_dir)
    if not paths:
        raise InputError(f"{source}: expected images ({', '.join(sorted(IMAGE_SUFFIXES))}), found none")
    seen: dict[tuple[Path, str], Path] = {}
    for path in paths:
        other = seen.setdefault((path.parent, image_stem(path)), path)
        if other != path:
            raise InputError(f"{path}: two files with one stem ({other.name}); results would overwrite each other")
    return [{"image": str(path), "id": image_stem(path), "domain": "target"} for path in paths]


def images_to_evaluate(
    folder: str | Path | None = None,
    manifest: str | Path | None = None,
    split: str | None = None,
) -> list[dict[str, Any]]:
    """Items with masks, from a folder in any known layout, or the manifest's evaluation list.

    Of a data set's root this is its official ``split``; by default the test part, where there is one.

    Raises:
        InputError: neither or both are given, or there is nothing to evaluate.
    """
    if (folder is None) == (manifest is None):
        raise InputError("evaluation: give either a folder (evaluation_dir) or a manifest, not both")
    if folder is not None:
        return find_items(folder, domain="target", labels="required", split=split, preferred="test")
    assert manifest is not None
    items = datalist(load_manifest(manifest), "evaluation")
    if not items:
        raise InputError(f"{manifest}: the manifest lists no evaluation images")
    return items


def warn_of_other_sizes(items: Iterable[Mapping[str, Any]], bundle: str | Path) -> None:
    """Say so where images are much larger or smaller than those of the training, and so may be of another resolution.

    Args:
        items: with ``image``, the path; what has no readable header is left to whoever reads it.
        bundle: exported bundle; one that does not say how large its training images were gives no warning.
    """
    provenance = load_json(Path(bundle) / "configs" / "metadata.json").get("provenance", {})
    trained = sorted(provenance.get("target_size_px", {}).values(), key=_side)
    if not trained:
        return
    sizes = {item["image"]: _readable_size(item["image"]) for item in items}
    low, high = _side(trained[0]) / OTHER_SIZE, _side(trained[-1]) * OTHER_SIZE
    other = {path: size for path, size in sizes.items() if size is not None and not low <= _side(size) <= high}
    if other:
        path, (height, width) = next(iter(other.items()))
        logger.warning(
            "%d of %d images are more than %g times larger or smaller than those of the training, %d x %d to %d x %d; "
            "the first is %s, %d x %d. If they have more or fewer pixels per mm, give --scale: working pixels for one "
            "pixel, %.4g in the training; half of that for twice as many pixels per mm",
            *(len(other), len(sizes), OTHER_SIZE, *trained[0], *trained[-1], path, height, width),
            provenance["working_scale"],
        )


def _images_below(folder: Path, output_dir: str | Path | None) -> list[Path]:
    files = sorted(path for path in _files(folder) if path.is_file() and not _is_hidden(path, folder))
    if output_dir is not None and (results := Path(output_dir).resolve()) != folder.resolve():
        files = [path for path in files if results not in path.resolve().parents]
    images = [path for path in files if image_suffix(path)]
    if others := [path for path in files if not image_suffix(path)]:
        logger.info("%d files of other formats passed over, such as %s", len(others), others[0])
    written = {path.with_name(f"{image_stem(path)}_{result}") for path in images for result in RESULTS}
    images = [path for path in images if written.isdisjoint(_may_be_result_beside(path, folder))]
    masks = [path for path in images if _lies_among_masks(path, folder)]
    if not masks or masks == images:
        return images
    logger.info("%d files passed over as masks, such as %s", len(masks), masks[0])
    return [path for path in images if not _lies_among_masks(path, folder)]


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, also through links to other folders, each of which is entered once."""
    entered = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in entered:
            folders.clear()
            continue
        entered.add(real)
        yield from (Path(place) / name for name in names)


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _lies_among_masks(path: Path, folder: Path) -> bool:
    return any(part.lower() in LABEL_FOLDERS for part in path.relative_to(folder).parts[:-1])


def _may_be_result_beside(path: Path, folder: Path) -> set[Path]:
    """Where the image would lie that this file is named as a result of, without the suffix.

    Results of an earlier run lie beside their image, or in any folder within, which repeats the images' sub-folders.
    """
    *parents, _ = path.relative_to(folder).parts
    return {Path(folder, *parents[skipped:], image_stem(path)) for skipped in range(len(parents) + 1)}


def _readable_size(path: str) -> tuple[int, int] | None:
    try:
        return image_size(path)
    except InputError:
        return None


def _side(size: Sequence[int]) -> float:
    """Side of the square with as many pixels."""
    return math.sqrt(size[0] * size[1])
