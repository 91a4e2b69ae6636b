"""A look at some images of a domain, and what it tells: grey conversion, polarity, calibres."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from monai_vessel_uda.errors import InputError
from monai_vessel_uda.transforms.calibre import calibre_from_mask, calibre_from_vesselness
from monai_vessel_uda.transforms.dictionary import FieldOfViewd, LoadRetinalImaged, RetinalCompose
from monai_vessel_uda.transforms.field_of_view import field_of_view_diameter
from monai_vessel_uda.transforms.grey import GREYS, Grey, best_contrast_grey, has_colour, to_grey, vessel_contrast
from monai_vessel_uda.transforms.polarity import polarity_from_vesselness
from monai_vessel_uda.transforms.resize import reduce_to_side, resize_tensor, scaled_size
from monai_vessel_uda.transforms.vesselness import Polarity

MASK_SIDE = 2048  # pixels; masks are measured at most at this size, their skeleton being slow beyond
SURVEY_SIDE = 1024  # pixels; longer side of the copies that are kept: vessels stay several pixels wide
CALIBRE_IMAGES = 6  # per dataset; what the label-free calibre is read on, the slowest of the measurements
_SMALL_SIDE = 512  # pixels; main vessels of a photograph are about five pixels wide there


@dataclass(frozen=True)
class Glance:
    """A reduced copy of one image, and what was measured on the original.

    Attributes:
        name: the image's file.
        dataset: of the item.
        image: (h, w[, C]) float32, native units, longer side at most ``SURVEY_SIDE``.
        fov: (h, w) bool.
        mask: (h, w) bool, or None.
        factor: size of this copy over the native size.
        native_size: (H, W).
        fov_diameter: in native pixels.
        calibre_mask: in native pixels; None without mask.
    """

    name: str
    dataset: str
    image: NDArray[np.float32]
    fov: NDArray[np.bool_]
    mask: NDArray[np.bool_] | None
    factor: float
    native_size: tuple[int, int]
    fov_diameter: int
    calibre_mask: float | None

    def grey(self, grey: Grey) -> NDArray[np.float32]:
        """Grey version of the copy, (h, w)."""
        return to_grey(self.image, grey)


Survey = list[Glance]


def sample(items: Sequence[Mapping[str, Any]], max_images: int, seed: int) -> list[dict[str, Any]]:
    """At most ``max_images`` items, at least one per dataset, drawn evenly from the datasets; in their order."""
    if not items:
        raise InputError("expected at least one image in each domain, received none")
    by_dataset: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        by_dataset.setdefault(str(item["dataset"]), []).append(index)
    rng = np.random.default_rng(seed)
    each = max(1, max_images // len(by_dataset))
    chosen = [rng.choice(indices, min(each, len(indices)), replace=False) for indices in by_dataset.values()]
    return [dict(items[index]) for index in sorted(int(i) for i in np.concatenate(chosen))]


def survey(
    items: Sequence[Mapping[str, Any]], *, with_masks: bool, looked_at: Callable[[str], None] | None = None
) -> Survey:
    """Read the items once and keep reduced copies. Labels are read only ``with_masks``.

    Raises:
        InputError: for unreadable files, or a label that is missing although asked for or has no vessel.
    """
    load = RetinalCompose([LoadRetinalImaged(("label", "fov") if with_masks else ("fov",)), FieldOfViewd()])
    glances = []
    for item in items:
        if with_masks and "label" not in item:
            raise InputError(f"{item['image']}: expected a vessel mask ('label') for this source image, received none")
        loaded = load(dict(item))
        try:
            glances.append(_glance(loaded, with_masks))
        except InputError as error:
            raise InputError(f"{item['image']}: {error}") from error
        if looked_at is not None:
            looked_at(str(item["image"]))
    return glances


def decide_grey(look: Survey, asked: str) -> tuple[Grey, str, dict[str, float]]:
    """Grey conversion, who decided, and the evidence."""
    if asked in get_args(Grey):
        return asked, "given", {}  # type: ignore[return-value]
    if asked != "auto":
        raise InputError(f"grey: expected 'auto' or one of {', '.join(GREYS)}, received {asked!r}")
    if not any(has_colour(glance.image) for glance in look):
        return "luma", "no colour", {}
    small = [_small(g.image, g.mask) for g in look if g.mask is not None]
    drawn = [(image, mask) for image, mask in small if mask.any()]  # thin vessels may be lost at this size
    if drawn:
        images, masks = zip(*drawn, strict=True)
        grey, evidence = best_contrast_grey(images, masks)
        return grey, "by mask", evidence
    return "green", "by default for colour without masks", {}


def decide_polarity(look: Survey, grey: Grey, asked: str) -> tuple[Polarity, str, dict[str, Any]]:
    """Polarity, who decided, and the evidence: masks where there are any, else vesselness."""
    if asked in get_args(Polarity):
        return asked, "given", {}  # type: ignore[return-value]
    masked = [g for g in look if g.mask is not None]
    if masked:
        contrasts = [vessel_contrast(g.grey(grey), g.mask) for g in masked]  # type: ignore[arg-type]
        mean = float(np.mean(contrasts))
        agreement = float(np.mean([(c > 0) == (mean > 0) for c in contrasts]))
        evidence = {"cohens_d": mean, "agreement": agreement, "images": len(contrasts)}
        return ("bright" if mean > 0 else "dark"), "by mask", evidence
    small = [reduce_to_side(g.grey(grey), _SMALL_SIDE) for g in look]
    fovs = [reduce_to_side(g.fov.astype(np.float32), _SMALL_SIDE) > 0.99 for g in look]
    polarity, evidence = polarity_from_vesselness(small, fovs)
    return polarity, "by vesselness", evidence


def measure_datasets(look: Survey, grey: Grey, polarity: Polarity) -> dict[str, dict[str, Any]]:
    """Per dataset: number of images, median native size, field-of-view diameter and calibres in native pixels."""
    measured: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(g.dataset for g in look):
        glances = [g for g in look if g.dataset == name]
        readings = [calibre_from_vesselness(g.grey(grey), polarity, g.fov) / g.factor for g in glances[:CALIBRE_IMAGES]]
        entry: dict[str, Any] = {
            "images": len(glances),
            "native_size": [int(n) for n in np.median([g.native_size for g in glances], axis=0)],
            "fov_diameter": float(np.median([g.fov_diameter for g in glances])),
            "calibre_vesselness": float(np.nanmedian(readings)),
        }
        by_mask = [g.calibre_mask for g in glances if g.calibre_mask is not None]
        if by_mask:
            entry["calibre_mask"] = float(np.median(by_mask))
        measured[name] = entry
    return measured


def _glance(item: Mapping[Any, Any], with_masks: bool) -> Glance:
    image, fov = item["image"], item["fov"]
    native = (int(image.shape[0]), int(image.shape[1]))
    factor = min(1.0, SURVEY_SIDE / max(native))
    size = scaled_size(native, factor)
    item_mask = item["label"] if with_masks else None
    mask = None if item_mask is None else _reduced(item_mask, size) > 0.5
    if mask is not None and not mask.any():
        raise InputError(
            f"nothing is left of its vessel mask at {size[1]} x {size[0]} pixels, at which images are compared; draw "
            "vessels as wide as they are, not as lines"
        )
    return Glance(
        name=str(item["file"]),
        dataset=str(item["dataset"]),
        image=_reduced(image, size),
        fov=_reduced(fov, size) > 0.99,
        mask=mask,
        factor=factor,
        native_size=native,
        fov_diameter=field_of_view_diameter(fov),
        calibre_mask=None if item_mask is None else _mask_calibre(item_mask),
    )


def _mask_calibre(mask: NDArray[np.bool_]) -> float:
    """:func:`calibre_from_mask` in native pixels, read on a copy of bounded size."""
    small = reduce_to_side(mask.astype(np.float32), MASK_SIDE) > 0.5
    return calibre_from_mask(small) * max(mask.shape) / max(small.shape)


def _small(image: NDArray, mask: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    size = scaled_size((mask.shape[0], mask.shape[1]), min(1.0, _SMALL_SIDE / max(mask.shape)))
    return _reduced(image, size), _reduced(mask, size) > 0.5


def _reduced(array: NDArray, size: tuple[int, int]) -> NDArray[np.float32]:
    """(H, W[, C]) of any dtype to float32 (h, w[, C])."""
    channels = np.moveaxis(np.atleast_3d(array), 2, 0).astype(np.float32)
    small = resize_tensor(torch.from_numpy(np.ascontiguousarray(channels)), size).numpy()
    return np.moveaxis(small, 0, 2) if array.ndim == 3 else small[0]
