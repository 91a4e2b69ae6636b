"""The manifest: which files an adaptation uses, in which role, and how they looked when it began.

A manifest is a plain dictionary, saved as JSON in the workspace.

| key | value |
|---|---|
| format, version | ``"monai_vessel_uda/manifest"``, 1 |
| created, seed, packages | ISO date; the seed of everything random; versions of Python and the packages |
| preprocessing | the record that the transforms read |
| source | labelled images of the source domain |
| target | images of the target domain; no ``label`` key, by construction |
| evaluation | labelled target images for scores, read by the evaluator alone |
| supervised | labelled target images for the supervised upper bound alone |

Each entry is an item (``image``, ``label``, ``fov``, ``id``, ``domain``, ``dataset``, ``group``) with ``size``
[height, width], ``spacing`` [row, column] in mm, and for each of its files a SHA-256 (``sha256``,
``label_sha256``, ``fov_sha256``) and ``stat``, [bytes, modification time in ns].
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import monai_vessel_uda
from monai_vessel_uda.data.images import check_image, check_mask, image_stem, read_image, read_mask
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.files import load_json, save_json, sha256

logger = logging.getLogger("monai_vessel_uda")

FORMAT, VERSION = "monai_vessel_uda/manifest", 1
LISTS = ("source", "target", "evaluation", "supervised")

_FILE_KEYS = {"image": "sha256", "label": "label_sha256", "fov": "fov_sha256"}
_TARGET_FILE_KEYS = ("image", "fov")
_ITEM_KEYS = ("image", "label", "fov", "id", "domain", "dataset", "group", "size")
_TARGET_ITEM_KEYS = tuple(key for key in _ITEM_KEYS if key != "label")

Items = Iterable[Mapping[str, Any]]


def build_manifest(
    *,
    source: Items,
    target: Items,
    evaluation: Items = (),
    supervised: Items = (),
    preprocessing: Mapping[str, Any],
    seed: int,
    created: str | None = None,
) -> dict[str, Any]:
    """Describe the files of one adaptation, reading every image once.

    Two files that share an id are told apart by the start of their hash; a target image that also serves the
    supervised upper bound keeps its id in both lists.

    Args:
        source: items with masks, as from ``find_items``.
        target: items of which only the images are used; a ``label`` key is dropped unread.
        evaluation: target items with masks, for scores.
        supervised: target items with masks, for the supervised upper bound.
        preprocessing: JSON-able record of the transforms.
        seed: seed of everything random.
        created: ISO date; now, if None.

    Raises:
        InputError: a file cannot be read, an image is blank, a mask of `source` or `supervised` is empty, a mask
            is missing, `source` or `target` is empty, an image is listed twice, a source image is also a target
            image, or an image or patient of `evaluation` is also used for training.
    """
    given = {"source": source, "target": target, "evaluation": evaluation, "supervised": supervised}
    lists = {name: [_entry(item, name) for item in items] for name, items in given.items()}
    for name in ("source", "target"):
        if not lists[name]:
            raise InputError(f"{name}: expected at least one image, received none.")
    _check_lists_are_apart(lists)
    _make_ids_unique(lists)
    packages = {name: version(name) for name in ("torch", "monai", "pytorch-ignite")}
    return {
        "format": FORMAT,
        "version": VERSION,
        "created": created or datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seed": int(seed),
        "packages": {
            "monai_vessel_uda": monai_vessel_uda.__version__,
            "python": platform.python_version(),
            **packages,
        },
        "preprocessing": dict(preprocessing),
        **lists,
    }


def save_manifest(manifest: Mapping[str, Any], path: str | Path) -> None:
    """Write `manifest` as JSON with sorted keys, all or nothing; files below its folder get relative paths.

    Raises:
        InputError: the file cannot be written; then `path` is as it was before.
    """
    path = Path(os.path.abspath(path))
    saved = {key: value for key, value in manifest.items() if key not in LISTS}
    for name in LISTS:
        saved[name] = [_with_paths(entry, lambda file: _relative(file, path.parent)) for entry in manifest[name]]
    save_json(saved, path)


def load_manifest(path: str | Path) -> dict[str, Any]:
    """Read a manifest; paths come back absolute. The images themselves are not looked at: see `verify_files`.

    Raises:
        InputError: there is no such file, it is no manifest, or one of another version.
    """
    path = Path(os.path.abspath(path))
    if not path.exists():
        raise InputError(f"{path}: no such manifest; check the path, or prepare the workspace first.")
    try:
        manifest = load_json(path)
    except InputError as error:
        raise InputError(f"{error}; prepare the workspace again.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{path}: not a manifest; expected a JSON object with format {FORMAT!r}.")
    if manifest.get("version") != VERSION:
        raise InputError(
            f"{path}: a workspace of another version; expected manifest version {VERSION}, "
            f"received {manifest.get('version')!r}. Prepare the workspace again."
        )
    _check_structure(manifest, path)
    for name in LISTS:
        manifest[name] = [
            _with_paths(entry, lambda file: os.path.normpath(path.parent / file)) for entry in manifest[name]
        ]
    return manifest


def verify_files(manifest: Mapping[str, Any], lists: Sequence[str] | None = None) -> None:
    """Check that files are there and unchanged: by size and modification time, and only if these differ by hash.

    Args:
        manifest: as from `load_manifest`.
        lists: the lists to check, with their masks. By default source and target: masks of the target domain are
            not looked at, and may be absent, until evaluation or supervised is asked for.

    Raises:
        InputError: names files that are missing or have changed.
    """
    missing, changed = [], []
    for name in ("source", "target") if lists is None else lists:
        for entry in _entries(manifest, name):
            for key in _file_keys(name):
                if key not in entry:
                    continue
                path = Path(entry[key])
                if not path.is_file():
                    missing.append(str(path))
                elif _stat(path) != entry["stat"][key] and sha256(path) != entry[_FILE_KEYS[key]]:
                    changed.append(str(path))
    for files, what in ((missing, "missing"), (changed, "not what they were when the workspace was prepared")):
        if files:
            more = f" and {len(files) - 5} more" if len(files) > 5 else ""
            raise InputError(f"{', '.join(files[:5])}{more}: {what}; put them back, or prepare a new workspace.")


def datalist(manifest: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return a list of `manifest` as MONAI's data sets take it.

    Returns:
        Items with ``image``, ``label``, ``fov``, ``id``, ``domain``, ``dataset``, ``group`` and ``size``; for "target"
        never a ``label``, whatever the manifest holds.

    Raises:
        InputError: `name` is not a list of the manifest.
    """
    keys = _TARGET_ITEM_KEYS if name == "target" else _ITEM_KEYS
    return [{key: entry[key] for key in keys if key in entry} for entry in _entries(manifest, name)]


def _file_keys(name: str) -> Iterable[str]:
    return _TARGET_FILE_KEYS if name == "target" else _FILE_KEYS


def _entry(item: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Describe one item; for the target list, nothing of its label is copied or read."""
    if name != "target" and "label" not in item:
        raise InputError(f"{item['image']}: {name} images need a mask, and this one has none.")
    image = read_image(item["image"])
    check_image(image)
    if name in ("source", "supervised"):
        check_mask(read_mask(item["label"]), item["label"])
    keys = _TARGET_ITEM_KEYS if name == "target" else _ITEM_KEYS
    entry: dict[str, Any] = {key: item[key] for key in keys if key in item}
    entry["size"] = list(image.array.shape[:2])
    entry["spacing"] = list(image.spacing)
    entry["stat"] = {}
    for key in _file_keys(name):
        if key in item:
            path = Path(os.path.abspath(item[key]))
            entry[key] = str(path)
            entry["stat"][key] = _stat(path)
            entry[_FILE_KEYS[key]] = sha256(path)
    return entry


def _stat(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _check_lists_are_apart(lists: Mapping[str, list[dict[str, Any]]]) -> None:
    evaluation, target = (
        {entry["sha256"]: entry["image"] for entry in lists[name]} for name in ("evaluation", "target")
    )
    for entry in lists["source"]:
        if entry["sha256"] in target:
            raise InputError(
                f"{entry['image']} (source) and {target[entry['sha256']]} (target) are the same image; expected images "
                "of two modalities."
            )
    for name in ("source", "target", "supervised"):
        for entry in lists[name]:
            if entry["sha256"] in evaluation:
                raise InputError(
                    f"{entry['image']} ({name}) and {evaluation[entry['sha256']]} (evaluation) are the same image; "
                    "scores need images that training has not seen. Remove it from one of the two."
                )
    _check_patients_are_apart(lists)


def _check_patients_are_apart(lists: Mapping[str, list[dict[str, Any]]]) -> None:
    """Refuse patients of both training and evaluation; between parts that a data set's authors made, warn of them."""
    scored: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in lists["evaluation"]:
        if patient := _patient(entry):
            scored.setdefault(patient, []).append(entry)
    for name in ("source", "target", "supervised"):
        pairs = [
            (entry, other) for entry in lists[name] if (patient := _patient(entry)) for other in scored.get(patient, [])
        ]
        pairs.sort(key=lambda pair: _part(pair[0]) != _part(pair[1]))  # what is refused comes first
        for entry, other in pairs[:1]:
            same = f"{entry['image']} ({name}) and {other['image']} (evaluation) are of the same patient"
            if _part(entry) == _part(other):
                raise InputError(
                    f"{same}; scores need patients that training has not seen. Leave the patient out of one of the two."
                )
            logger.warning("%s; scores may come out too good", same)


def _patient(entry: Mapping[str, Any]) -> tuple[str, str] | None:
    """Data set and patient, where file names tell the patient; otherwise ``group`` is but what the file is called."""
    known = entry.get("group", "") not in ("", image_stem(entry["image"]))
    return (entry["dataset"], entry["group"]) if known else None


def _part(entry: Mapping[str, Any]) -> str:
    """Data set and official split, as an id begins with them."""
    return entry["id"].removesuffix(image_stem(entry["image"]))


def _make_ids_unique(lists: Mapping[str, list[dict[str, Any]]]) -> None:
    """Append the start of the hash to an id that another image has already."""
    owner: dict[str, str] = {}
    for name in LISTS:
        within: dict[tuple[str, str], str] = {}
        for entry in lists[name]:
            if owner.get(entry["id"], entry["sha256"]) != entry["sha256"]:
                entry["id"] += f"-{entry['sha256'][:8]}"
            same = (image_stem(entry["image"]), entry["sha256"])  # in folders of other names its id is another
            if same in within:
                raise InputError(f"{name}: {within[same]} and {entry['image']} are one image; list it once.")
            owner[entry["id"]] = entry["sha256"]
            within[same] = entry["image"]


def _with_paths(entry: Mapping[str, Any], change: Any) -> dict[str, Any]:
    return {key: change(value) if key in _FILE_KEYS else value for key, value in entry.items()}


def _relative(file: str, folder: Path) -> str:
    path = Path(file)
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _check_structure(manifest: Mapping[str, Any], path: Path) -> None:
    for name in LISTS:
        entries = manifest.get(name)
        needed = {"image", "id", "stat", "sha256"} | (set() if name == "target" else {"label"})
        if not isinstance(entries, list) or not all(isinstance(e, dict) and needed <= e.keys() for e in entries):
            raise InputError(f"{path}: {name} is not a list of images; prepare the workspace again.")
    if any("label" in key for entry in manifest["target"] for key in entry):
        raise InputError(f"{path}: target images must not have masks, but some entries name one; remove them.")
    if not isinstance(manifest.get("preprocessing"), dict) or not isinstance(manifest.get("seed"), int):
        raise InputError(f"{path}: expected a preprocessing record and an integer seed; prepare the workspace again.")


def _entries(manifest: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    if name not in LISTS:
        raise InputError(f"list {name!r} is unknown; expected one of {', '.join(LISTS)}.")
    return manifest[name]
