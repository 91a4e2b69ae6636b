"""How public data sets, and plain folders, are laid out as they are downloaded.

One `Layout` describes one data set. It holds alternatives (`Pair`) of where the
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

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

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
IMAGE_FOLDERS = ("images", "image", "img", "imgs")
LABEL_FOLDERS = ("labels", "label", "masks", "mask", "gt")
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
        "", tuple(Pair(i, m) for i in IMAGE_FOLDERS for m in LABEL_FOLDERS) + (Pair(".", "."),), _PLAIN_SPLITS
    ),
}
