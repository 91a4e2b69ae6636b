"""Find images and masks in public data sets as they are downloaded, and in plain folders.

Which data sets are known is a table in `data.known_layouts`; `find_items` tries them all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from monai_vessel_uda.data.images import image_size, image_stem, image_suffix
from monai_vessel_uda.data.known_layouts import ANY, LAYOUTS, Layout, Pair
from monai_vessel_uda.data.names import id_part, named_after
from monai_vessel_uda.errors import InputError


@dataclass(frozen=True)
class _Found:
    """A pair of folders that exists: below `base`, in official split `split`."""

    layout: Layout
    split: str
    base: Path
    pair: Pair

    @property
    def images(self) -> Path:
        """The folder of images."""
        return self.base / self.pair.images


_LIKE_MASK = re.compile(r"(?P<key>.+)[_. -](mask|label|gt|seg|vessels?|manual\d?|1stHO|2ndHO|ah|vk)", re.IGNORECASE)


def find_items(
    folder: str | Path,
    *,
    domain: str,
    labels: str,
    layout: str = "auto",
    split: str | None = None,
    preferred: str = "train",
) -> list[dict[str, Any]]:
    """List the images of a data set, with or without their masks, sorted by id.

    Args:
        folder: the data set's root, one of its splits, its image folder, or any folder of images.
        domain: "source" or "target".
        labels: "required": every image must have its mask; "forbidden": masks are never looked for, and no item
            has a ``label`` key.
        layout: a key of `LAYOUTS`, or "auto".
        split: an official split ("train", "test", …) or "all". By default what `folder` points at; for a root
            with several splits, `preferred` and, where that is not among them or has no images, "train".
        preferred: see `split`.

    Returns:
        Items with ``image``, ``id``, ``domain``, ``dataset``, ``group`` and, where they apply, ``label`` and
        ``fov`` (a mask of the field of view).

    Raises:
        InputError: the folder is missing or holds no images; the layout or split is unknown; two files share a
            stem; with labels required, an image or mask is alone or their sizes differ.
    """
    root = Path(os.path.abspath(folder))
    if domain not in ("source", "target") or labels not in ("required", "forbidden"):
        raise InputError(f"domain={domain!r}, labels={labels!r}: expected source|target and required|forbidden.")
    if layout != "auto" and layout not in LAYOUTS:
        raise InputError(f"layout={layout!r} is unknown; expected auto, {', '.join(LAYOUTS)}.")
    if not root.is_dir() or not os.access(root, os.R_OK | os.X_OK):
        raise InputError(f"{root}: no such folder, or it may not be read; check the path.")
    want_labels = labels == "required"
    found = _detect(root, layout, want_labels)
    for wanted in dict.fromkeys([preferred, "train"]):
        chosen = _choose_split(root, found, split, wanted)
        items = [item for choice, keep in chosen for item in _items(choice, domain, want_labels, keep)]
        if items:
            return sorted(items, key=lambda item: item["id"])
    raise InputError(f"{root}: no image belongs to split {split or preferred!r}; choose another split.")


def _detect(root: Path, layout: str, want_labels: bool) -> list[_Found]:
    """Return what exists of the first layout that fits, one entry per split.

    If no layout has all its masks, one without them is still recognised, so that the error can name the image.
    """
    names = list(LAYOUTS) if layout == "auto" else [layout]
    for with_labels in (True, False) if want_labels else (False,):
        fits = {name: _search(root, LAYOUTS[name], with_labels, layout == "auto") for name in names}
        fits = {name: found for name, found in fits.items() if found}
        if want_labels and not with_labels:
            fits.pop("plain", None)  # images alone
        if fits:
            _check_one_data_set(root, fits)
            return next(iter(fits.values()))
    beside = want_labels and any(path.match("*_mask.*") for path in root.iterdir())
    raise InputError(
        f"{root}: found no images{' and masks' if want_labels else ''} laid out as {' or '.join(names)}. "
        + ("Masks lie beside their images: move them into labels/ and the images into images/. " if beside else "")
        + "Point at the data set's own folder, or arrange files as images/ and labels/ with equal names, in a format "
        "such as .png, .jpg, .tif, .bmp, .nii.gz, .mha or .dcm."
    )


def _check_one_data_set(root: Path, fits: dict[str, list[_Found]]) -> None:
    """Raise InputError if layouts fit different images, or one layout fits twice; several may fit the same images."""
    first = {f.images for f in next(iter(fits.values()))}
    others = [name for name, found in fits.items() if first.isdisjoint(f.images for f in found) and name != "plain"]
    twice = [name for name, found in fits.items() if len({f.split for f in found}) < len(found)]
    if others or twice:
        raise InputError(
            f"{root}: holds several data sets ({', '.join([next(iter(fits)), *others])}); point at one of them."
        )


def _search(folder: Path, layout: Layout, with_labels: bool, automatic: bool) -> list[_Found]:
    """Look for `layout` with its root at `folder`, just below, or up to three levels above it.

    What lies outside `folder` is never returned: pointing at one split, or at its images, selects these.
    """
    below = sorted(path for path in folder.iterdir() if path.is_dir()) if layout.dataset else []
    for roots in ([folder], below, *([parent] for parent in list(folder.parents)[:3])):
        found = [
            _Found(layout, split, root / base, pair)
            for root in roots
            if os.path.isdir(root / layout.sign) or not automatic
            for split, base in layout.splits.items()
            if (pair := _first_pair(layout, root / base, with_labels, only_folders=root != folder))
        ]
        if inside := [f for f in found if folder in (f.images, *f.images.parents)]:
            return inside
    # One split, copied elsewhere under another name: believed if asked for, or if the file names tell.
    alone = None if "" in layout.splits else _first_pair(layout, folder, with_labels)
    return [_Found(layout, "", folder, alone)] if alone and (alone.image != ANY or not automatic) else []


def _first_pair(layout: Layout, base: Path, with_labels: bool, only_folders: bool = False) -> Pair | None:
    """Return the first pair of `layout` that exists below `base`; in plain folders "Images" is as good as "images"."""
    for pair in layout.pairs if layout.dataset else _as_spelt(layout.pairs, base):
        if pair.flat and (only_folders or (with_labels and pair.image == pair.label)):
            continue
        images = _listed(base / pair.images, pair.image)
        if pair.flat and not _all_known(base, pair):
            continue
        if images and (not with_labels or _listed(base / pair.labels, pair.label)):
            return pair
    return None


def _as_spelt(pairs: Iterable[Pair], base: Path) -> list[Pair]:
    """`pairs` with their folders as they are called below `base`, whatever the case of the letters."""
    listable = os.path.isdir(base) and os.access(base, os.R_OK)  # folders above the data set need not be
    names = sorted(os.listdir(base)) if listable else []
    spelt = {name.lower(): name for name in names} | {name: name for name in names}  # exactly as asked for, if there
    return [replace(p, images=spelt.get(p.images, p.images), labels=spelt.get(p.labels, p.labels)) for p in pairs]


def _all_known(folder: Path, pair: Pair) -> bool:
    """Tell whether every image file of `folder` is one of the data set's, so that none would be passed over."""
    patterns = (pair.image, pair.label, _LIKE_MASK)
    return all(any(re.fullmatch(p, stem) for p in patterns) for stem in _listed(folder, ANY))


def _listed(folder: Path, pattern: str, keep_others: bool = False) -> dict[str, list[Path]]:
    """Return the image files of `folder` by the ``key`` of `pattern`; others by their stem, if they are kept."""
    files: dict[str, list[Path]] = {}
    folder = Path(os.path.normpath(folder))
    for path in sorted(folder.iterdir()) if os.path.isdir(folder) else []:
        if not image_suffix(path) or path.name.startswith(".") or not path.is_file():
            continue
        match = re.fullmatch(pattern, image_stem(path))
        if match or keep_others:
            files.setdefault(match["key"] if match else image_stem(path), []).append(path)
    return files


def _choose_split(
    root: Path, found: list[_Found], split: str | None, preferred: str
) -> list[tuple[_Found, Callable[[str], bool]]]:
    """Return what to read, each with a rule that tells which keys belong to the split."""
    is_test = found[0].layout.is_test
    if is_test is not None:  # one folder holds all
        return [(found[0], _rule(root, is_test, split or preferred))]
    names = [f.split for f in found if f.split]
    if split is None:
        split = next((name for name in (preferred, "train") if name in names), None)
        if split is None and (len(found) == 1 or not found[0].split):
            split = found[0].split
    chosen = [f for f in found if split in ("all", f.split, f.layout.splits.get(f.split))]
    if not chosen:
        raise _not_there(root, split, [*names, "all"])
    return [(f, lambda key: True) for f in chosen]


def _rule(root: Path, is_test: Callable[[str], bool], split: str) -> Callable[[str], bool]:
    rules = {"train": lambda key: not is_test(key), "test": is_test, "all": lambda key: True}
    if split not in rules:
        raise _not_there(root, split, rules)
    return rules[split]


def _not_there(root: Path, split: str | None, names: Iterable[str]) -> InputError:
    return InputError(f"{root}: split={split!r} is not there; choose one of {', '.join(names)}.")


def _items(found: _Found, domain: str, want_labels: bool, keep: Callable[[str], bool]) -> list[dict[str, Any]]:
    """Make the items of one split, complete or not at all."""
    pair, base = found.pair, found.base
    images = _one_each(_listed(found.images, pair.image, keep_others=not pair.flat))
    fovs = _one_each(_listed(base / pair.fov, pair.fov_stem)) if pair.fov else {}
    labels: dict[str, Path] = {}
    if want_labels:
        labels = _one_each(_listed(base / pair.labels, pair.label, keep_others=not pair.flat))
        if not found.layout.dataset:
            labels = _named_like(images, labels)
        _check_partners(images, labels, base / pair.labels, pair.labels_shared)
    elif not found.layout.dataset:
        _check_no_masks_among(images)
    dataset, split = (found.layout.dataset, found.split) if found.layout.dataset else named_after(found.images)
    items = []
    for key, path in images.items():
        if not keep(key):
            continue
        match = re.fullmatch(pair.image, image_stem(path))
        group = match.groupdict().get("group", key) if match else key
        name = id_part("-".join(part for part in (dataset, split, key) if part))
        item = {"image": str(path), "id": name, "domain": domain, "dataset": dataset, "group": group}
        partners = {"label": labels.get(key), "fov": fovs.get(key)}
        item.update({name: str(_same_size(path, mask)) for name, mask in partners.items() if mask})
        items.append(item)
    return items


def _one_each(files: dict[str, list[Path]]) -> dict[str, Path]:
    for paths in files.values():
        if len(paths) > 1:
            names = " and ".join(path.name for path in paths)
            raise InputError(f"{paths[0].parent}: {names} are two files of one name; keep one of them.")
    return {key: paths[0] for key, paths in files.items()}


def _named_like(images: Mapping[str, Path], labels: Mapping[str, Path]) -> dict[str, Path]:
    """`labels` by the names of their images: of ``eye.png`` the mask may be ``eye_mask.png``, if it has no other."""
    named: dict[str, Path] = {}
    for key, path in labels.items():
        match = _LIKE_MASK.fullmatch(key)
        free = match and key not in images and match["key"] in images and match["key"] not in {*labels, *named}
        named[match["key"] if match and free else key] = path
    return named


def _check_partners(images: dict[str, Path], labels: dict[str, Path], folder: Path, labels_shared: bool) -> None:
    without_mask = [str(path) for key, path in images.items() if key not in labels]
    without_image = [] if labels_shared else [str(path) for key, path in labels.items() if key not in images]
    for alone, missing, where in ((without_mask, "mask", folder), (without_image, "image", "its data set")):
        if alone:
            more = f" and {len(alone) - 5} more" if len(alone) > 5 else ""
            raise InputError(
                f"{', '.join(alone[:5])}{more}: no {missing} found in {where}; "
                f"add the {missing}, equally named, or remove the file."
            )


def _check_no_masks_among(images: dict[str, Path]) -> None:
    """Refuse a folder in which masks would pass for images."""
    for key, path in images.items():
        match = _LIKE_MASK.fullmatch(key)
        if match and match["key"] in images:
            raise InputError(
                f"{path}: looks like the mask of {images[match['key']].name}, where only images are expected; "
                "move masks to a folder of their own."
            )


def _same_size(image: Path, mask: Path) -> Path:
    expected, received = image_size(image), image_size(mask)
    if expected != received:
        raise InputError(
            f"{mask}: its size (height, width) is {received}, that of {image} is {expected}; they must be equal. "
            "Export both at the same resolution."
        )
    return mask
