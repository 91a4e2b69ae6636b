"""Find images and masks in public data sets as they are downloaded, and in plain folders.

One `Layout` describes one data set; `find_items` tries them all. A layout holds alternatives (`Pair`) of where the
images and masks lie below the data set's root, or below each of its official splits.

| name | root holds | source |
|---|---|---|
| fives | train, test: ``Original``, ``Ground truth`` | Jin et al., Scientific Data 9:475, 2022 |
| drive | training, test: ``images``, ``1st_manual``, ``mask`` (field of view) | Staal et al., IEEE TMI 23(4), 2004 |
| chase_db1 | ``Image_01L.jpg``, ``Image_01L_1stHO.png``, all in one folder | Fraz et al., IEEE TBME 59(9), 2012 |
| stare | ``stare-images``, ``labels-ah`` or ``labels-vk`` | Hoover et al., IEEE TMI 19(3), 2000 |
| hrf | ``images``, ``manual1``, ``mask`` (field of view) | Budai et al., Int. J. Biomed. Imaging, 2013 |
| octa500_3m, octa500_6m | ``OCTA_3mm``, ``OCTA_6mm``, ``Label`` | Li et al., Medical Image Analysis 93, 2024 |
| rose1, rose2 | ``SVC/train/img``; ``train/original`` | Ma et al., IEEE TMI 40(3), 2021 |
| rossa | train_manual, train_sam, val, test: ``image``, ``label`` | Ning et al., ICASSP 2024 |
| plain | ``images`` and ``labels`` (or the like), by stem (``eye``, ``eye_mask``); without masks, any folder | – |
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from monai_vessel_uda.data.images import image_size, image_stem, image_suffix
from monai_vessel_uda.errors import InputError

ANY = r"(?P<key>.+)"


@dataclass(frozen=True)
class Pair:
    """Where images and their masks lie, relative to a split; file stems that share ``key`` belong together.

    Attributes:
        images: folder of images; labels: folder of masks; fov: folder of field-of-view masks, if any.
        image: pattern of an image's whole stem, with ``key`` and, if patients have several images, ``group``.
        label: pattern of a mask's whole stem, with ``key``; fov_stem: the same for field-of-view masks.
        labels_shared: the mask folder also serves other data, so masks without an image are no mistake.
    """

    images: str
    labels: str
    image: str = ANY
    label: str = ANY
    fov: str = ""
    fov_stem: str = ANY
    labels_shared: bool = False

    @property
    def flat(self) -> bool:
        """Whether images lie beside other files, so that only their names tell them."""
        return self.images == "."


@dataclass(frozen=True)
class Layout:
    """One data set as it is downloaded.

    Attributes:
        dataset: its name in items; "" means: after the folder.
        pairs: alternatives, the preferred one first.
        splits: official splits and their folders; {"": "."} if there are none.
        sign: a folder that must exist below the root before automatic detection believes in this layout.
        is_test: tells by key which images are the official test split, where one folder holds both.
    """

    dataset: str
    pairs: tuple[Pair, ...]
    splits: Mapping[str, str] = field(default_factory=lambda: {"": "."})
    sign: str = ""
    is_test: Callable[[str], bool] | None = None


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


def _octa500(millimetres: int, first_test: int, last_test: int) -> Layout:
    """OCTA-500 holds one folder per field of view; its masks lie within (older release) or in ``Label``."""
    images = "Projection Maps/OCTA(ILM_OPL)"
    names = [f"OCTA_{millimetres}mm", f"OCTA_{millimetres}M"]
    inside = [Pair(f"{n}/{images}", f"{n}/{gt}") for n in names for gt in ("GT_LargeVessel", "GroundTruth")]
    labels = ["Label/GT_LargeVessel", "Label/Label/GT_LargeVessel", "GT_LargeVessel", "../Label/GT_LargeVessel"]
    beside = [Pair(f"{n}/{images}", gt, labels_shared=True) for n in names for gt in labels]
    return Layout(
        dataset=f"OCTA-500_{millimetres}M",
        pairs=(*inside, *beside),
        is_test=lambda key: key.isdigit() and first_test <= int(key) <= last_test,
    )


_TRAIN_TEST = {"train": "train", "test": "test"}
_PLAIN_SPLITS = {"": ".", **_TRAIN_TEST, "val": "val"}
_IMAGE_FOLDERS = ("images", "image", "img", "imgs")
_LABEL_FOLDERS = ("labels", "label", "masks", "mask", "gt")
_chase = partial(Pair, image=r"(?P<key>Image_(?P<group>\d+)[LR])", label=r"(?P<key>Image_\d+[LR])_1stHO")
_stare = partial(Pair, image=r"(?P<key>im\d{4})")
_STARE_AH, _STARE_VK = r"(?P<key>im\d{4})(\.ah)?", r"(?P<key>im\d{4})(\.vk)?"
_hrf = partial(Pair, image=r"(?P<key>\d+_(dr|g|h))", fov="mask", fov_stem=r"(?P<key>\d+_(dr|g|h))_mask")
_drive = partial(
    Pair,
    image=r"(?P<key>\d+)_(training|test)",
    label=r"(?P<key>\d+)_manual1",
    fov="mask",
    fov_stem=r"(?P<key>\d+)_(training|test)_mask",
)

LAYOUTS: dict[str, Layout] = {
    "fives": Layout("FIVES", (Pair("Original", "Ground truth", r"(?P<key>\d+_[ADGN])"),), _TRAIN_TEST),
    "drive": Layout("DRIVE", (_drive("images", "1st_manual"),), {"train": "training", "test": "test"}),
    "chase_db1": Layout("CHASE_DB1", (_chase(".", "."), _chase("Images", "Masks"))),
    "stare": Layout(
        "STARE",
        (
            _stare("stare-images", "labels-ah", label=_STARE_AH),
            _stare("stare-images", "labels-vk", label=_STARE_VK),
            _stare(".", "labels-ah", label=_STARE_AH),
            _stare(".", "labels-vk", label=_STARE_VK),
            _stare(".", ".", label=r"(?P<key>im\d{4})\.ah"),
            _stare(".", ".", label=r"(?P<key>im\d{4})\.vk"),
        ),
    ),
    "hrf": Layout("HRF", (_hrf("images", "manual1"),)),
    # Official test images: 10451-10500 of the 3 mm set and 10201-10300 of the 6 mm set.
    "octa500_3m": _octa500(3, 10451, 10500),
    "octa500_6m": _octa500(6, 10201, 10300),
    "rose1": Layout("ROSE-1", (Pair("img", "gt"),), {"train": "SVC/train", "test": "SVC/test"}),
    "rose2": Layout("ROSE-2", (Pair("original", "gt", r"(?P<key>(?P<group>\d+)_O[DS]_\w+)"),), _TRAIN_TEST),
    "rossa": Layout(
        "ROSSA",
        (Pair("image", "label"),),
        {"train": "train_manual", "train_sam": "train_sam", "val": "val", "test": "test"},
        sign="train_manual/image",
    ),
    "plain": Layout(
        "", tuple(Pair(i, m) for i in _IMAGE_FOLDERS for m in _LABEL_FOLDERS) + (Pair(".", "."),), _PLAIN_SPLITS
    ),
}

# Folder names that say nothing about which data set they belong to.
_UNTELLING = {*_IMAGE_FOLDERS, "original", "data", "train", "training", "val", "validation", "test", "testing"}
_SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "validation": "val", "test": "test"}
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
            item["id"] = _id_part(dataset) + item["id"].removeprefix(_id_part(item["dataset"]))
            item["dataset"] = dataset
    return made


def _longer_names(folders: list[Path]) -> dict[Path, str]:
    """A name for each folder, of as many of its last parts as tell them apart."""
    parts = [folder.relative_to(folder.anchor).parts for folder in folders]
    enough = next(n for n in range(1, max(map(len, parts)) + 1) if len({part[-n:] for part in parts}) == len(parts))
    return {folder: "-".join(part[-enough:]) for folder, part in zip(folders, parts, strict=True)}


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
    raise InputError(
        f"{root}: found no images{' and masks' if want_labels else ''} laid out as {' or '.join(names)}. Point at "
        "the data set's own folder, or arrange files as images/ and labels/ with equal names, in a format such as "
        ".png, .jpg, .tif, .bmp, .nii.gz, .mha or .dcm."
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
    dataset, split = (found.layout.dataset, found.split) if found.layout.dataset else _named_after(found.images)
    items = []
    for key, path in images.items():
        if not keep(key):
            continue
        match = re.fullmatch(pair.image, image_stem(path))
        group = match.groupdict().get("group", key) if match else key
        name = _id_part("-".join(part for part in (dataset, split, key) if part))
        item = {"image": str(path), "id": name, "domain": domain, "dataset": dataset, "group": group}
        partners = {"label": labels.get(key), "fov": fovs.get(key)}
        item.update({name: str(_same_size(path, mask)) for name, mask in partners.items() if mask})
        items.append(item)
    return items


def _id_part(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)


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


def _named_after(images: Path) -> tuple[str, str]:
    """Return (data set, split) as the folders above the images are called."""
    telling = _telling_folder(images)
    above = [part.name.lower() for part in (images, *images.parents) if telling in part.parents]
    return telling.name or "images", next((_SPLIT_NAMES[name] for name in above if name in _SPLIT_NAMES), "")


def _telling_folder(images: Path) -> Path:
    """The folder, of those above the images, by which a data set is called."""
    folders = [folder for folder in (images, *images.parents) if folder.name]
    return next((folder for folder in folders if folder.name.lower() not in _UNTELLING), images)
