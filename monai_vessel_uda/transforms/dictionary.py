"""Dictionary transforms around the pure functions of this package: one item in, one item out.

Order in a chain: load, field of view (it needs the colour image), grey, resize, scale intensity; then polarity,
flattening and quantile matching as the variant wants. Everything from grey on is a plain torch tensor (1, H, W).
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import Compose, MapTransform, SpatialPad, Transform
from monai.utils import convert_to_tensor
from numpy.typing import NDArray
from torch import Tensor

from monai_vessel_uda.data.images import check_mask, read_image, read_mask
from monai_vessel_uda.errors import InputError, surfacing_input_errors
from monai_vessel_uda.transforms.background import flatten_background
from monai_vessel_uda.transforms.field_of_view import detect_field_of_view, holds_patch, patch_centres
from monai_vessel_uda.transforms.grey import Grey, to_grey
from monai_vessel_uda.transforms.histogram import match_quantiles
from monai_vessel_uda.transforms.resize import resize_tensor, scaled_size
from monai_vessel_uda.transforms.vesselness import Polarity

Item = dict[Hashable, Any]

_LEAST_SIDE = 4
"""Pixels of a side at the working resolution: fewer are a mistaken scale rather than a picture."""


class RetinalCompose(Compose):
    """MONAI's Compose, except that a user's mistake surfaces as the InputError it is, not wrapped in RuntimeError."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Apply all transforms."""
        with surfacing_input_errors():
            return super().__call__(*args, **kwargs)


class LoadRetinalImaged(Transform):
    """Read ``image``, and ``label`` and ``fov`` where the item has them and ``masks`` asks for them.

    Args:
        masks: keys read as masks when present; other keys with paths to masks are left alone.

    Input: paths. Output: ``image`` as numpy (H, W) or (H, W, C) in the file's dtype; masks as bool (H, W); ``file``,
    the image's path, for messages.

    Raises:
        InputError: for unreadable files, a label without vessel, or a mask whose shape is not the image's.
    """

    def __init__(self, masks: Sequence[str] = ("label", "fov")) -> None:
        self.masks = tuple(masks)

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """Read the files of one item."""
        item: Item = dict(data)
        item["file"] = str(data["image"])
        item["image"] = read_image(item["file"]).array
        for key in self.masks:
            if key in data:
                item[key] = _read_mask_like(data[key], item["image"], item["file"])
        if "label" in self.masks and "label" in data:
            check_mask(item["label"], data["label"])
        return item


class FieldOfViewd(Transform):
    """Add ``fov``, bool (H, W): the item's own where it has one, else detected, else (``detect=False``) everywhere."""

    def __init__(self, detect: bool = True) -> None:
        self.detect = detect

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """Add the field of view of ``image``, numpy (H, W[, C])."""
        item = dict(data)
        if not isinstance(item.get("fov"), np.ndarray):
            image = item["image"]
            item["fov"] = detect_field_of_view(image) if self.detect else np.ones(image.shape[:2], dtype=bool)
        return item


class DropWholeFieldOfViewd(Transform):
    """Leave out ``fov`` (1, H, W) where it is the whole image; of a large image it would be held to the very end."""

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """The same item, perhaps without ``fov``."""
        whole = bool((data["fov"] > 0).all())
        return {key: value for key, value in data.items() if key != "fov" or not whole}


class GreyConversiond(MapTransform):
    """Numpy (H, W[, C]) to float32 tensor (1, H, W) by :func:`to_grey`; masks to float32 {0, 1} (1, H, W)."""

    def __init__(self, keys: KeysCollection = "image", grey: Grey = "luma") -> None:
        super().__init__(keys)
        self.grey = grey

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """Convert the images, and the masks beside them."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = torch.from_numpy(np.ascontiguousarray(to_grey(item[key], self.grey)))[None]
        for key in ("label", "fov"):
            if isinstance(item.get(key), np.ndarray):
                item[key] = torch.from_numpy(item[key].astype(np.float32))[None]
        return item


class ResizeToWorkingResolutiond(Transform):
    """Resize to the working resolution: the image by area mean, the label by area above one half, likewise the fov.

    Args:
        scale: one factor for all items, or one per value of the item's ``dataset``.

    Raises:
        InputError: if the item's dataset has no factor.
    """

    def __init__(self, scale: float | Mapping[str, float]) -> None:
        self.scale = scale

    def factor(self, data: Mapping[Hashable, Any]) -> float:
        """The factor for this item."""
        if not isinstance(self.scale, Mapping):
            return float(self.scale)
        dataset = str(data.get("dataset"))
        if dataset not in self.scale:
            raise InputError(
                f"{_name(data)}: dataset {dataset!r} has no working scale; expected one of {', '.join(self.scale)}. "
                "Estimate the preprocessing with images of this dataset, or give its scale."
            )
        return float(self.scale[dataset])

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """Resize ``image`` and, where present, ``label`` and ``fov``; float32 tensors (1, H, W)."""
        item = dict(data)
        factor = self.factor(data)
        size = scaled_size(tuple(item["image"].shape[-2:]), factor)  # type: ignore[arg-type]
        if min(size) < _LEAST_SIDE:
            raise InputError(
                f"{_name(data)}: {size[1]} x {size[0]} pixels at the working resolution, {factor:g} times its own; "
                f"expected at least {_LEAST_SIDE}; is the scale right?"
            )
        item["image"] = resize_tensor(item["image"], size)
        if isinstance(item.get("label"), Tensor):
            item["label"] = (resize_tensor(item["label"], size) > 0.5).float()
        if isinstance(item.get("fov"), Tensor):
            # only pixels wholly inside: a rim mixed with the black surround would look like a dark vessel
            item["fov"] = (resize_tensor(item["fov"], size) > 0.99).float()
        return item


class ScaleIntensityInFieldOfViewd(MapTransform):
    """Map two percentiles of the intensities within the field of view to -1 and 1, and clip.

    Args:
        keys: float tensors (1, H, W).
        lower: percentile that becomes -1.
        upper: percentile that becomes 1.

    Outside the field of view the image becomes its median within: no edge, hence no ringing.

    Raises:
        InputError: if the two percentiles coincide (an empty image).
    """

    def __init__(self, keys: KeysCollection = "image", lower: float = 0.5, upper: float = 99.5) -> None:
        super().__init__(keys)
        self.lower, self.upper = lower, upper

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """Scale every key."""
        item = dict(data)
        fov = item["fov"][0].numpy() > 0.5
        if not fov.any():
            raise InputError(f"{_name(data)}: the field of view is empty; check the image or give a mask as 'fov'")
        for key in self.key_iterator(item):
            image = item[key][0].numpy()
            inside = image if fov.all() else image[fov]
            # as Python's floats: numpy's own would make the image float64
            low, high = (float(value) for value in np.percentile(inside, [self.lower, self.upper]))
            if not high > low:
                raise InputError(
                    f"{_name(data)}: expected a picture, received a flat image (percentiles {self.lower} and "
                    f"{self.upper} are both {low:g}); remove it"
                )
            scaled = image - low
            scaled *= 2 / (high - low)
            scaled -= 1
            item[key] = _filled(np.clip(scaled, -1, 1, out=scaled), fov)
        return item


class VesselPolarityd(MapTransform):
    """Make vessels bright: negate an image of range [-1, 1] whose vessels are dark."""

    def __init__(self, keys: KeysCollection = "image", polarity: Polarity = "bright") -> None:
        super().__init__(keys)
        self.polarity = polarity

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """Negate every key if vessels are dark."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = -item[key] if self.polarity == "dark" else item[key]
        return item


class FlattenBackgroundd(MapTransform):
    """:func:`flatten_background` within ``fov``; three standard deviations become the range [-1, 1]."""

    def __init__(self, keys: KeysCollection = "image", sigma: float = 20.0) -> None:
        super().__init__(keys)
        self.sigma = sigma

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """Flatten every key."""
        item = dict(data)
        fov = item["fov"][0].numpy() > 0.5
        for key in self.key_iterator(item):
            flat = flatten_background(item[key][0].numpy(), fov, self.sigma)
            item[key] = _filled(np.clip(flat / 3, -1, 1), fov)
        return item


class MatchQuantilesd(MapTransform):
    """:func:`match_quantiles` within ``fov`` to the recorded quantiles, which lie in [-1, 1]."""

    def __init__(self, keys: KeysCollection, quantiles: Sequence[float]) -> None:
        super().__init__(keys)
        self.quantiles = list(quantiles)

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """Match every key."""
        item = dict(data)
        fov = item["fov"][0].numpy() > 0.5
        for key in self.key_iterator(item):
            item[key] = _filled(match_quantiles(item[key][0].numpy(), fov, self.quantiles), fov)
        return item


class PatchCentresd(Transform):
    """Add ``centres``, uint8 {0, 1} (1, H, W), of patches within the field of view (:func:`patch_centres`).

    Args:
        patch_size: side of a patch.
        min_fraction: least share of a patch that lies in the field of view; of a padded image: of the patch's part that
            the image can fill.
        pad: first pad an image that is somewhat smaller than a patch, with what lies outside the field of view.
    """

    def __init__(self, patch_size: int, min_fraction: float = 0.9, pad: bool = False) -> None:
        self.patch_size, self.min_fraction, self.pad = patch_size, min_fraction, pad

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """Add the map of centres."""
        item = dict(data)
        size = item["fov"].shape[-2:]
        fraction = self.min_fraction
        if self.pad and not holds_patch(size, self.patch_size) and holds_patch(size, self.patch_size, padded=True):
            item = _padded(item, self.patch_size)
            fraction *= math.prod(min(1.0, side / self.patch_size) for side in size)
        try:
            centres = patch_centres(item["fov"][0].numpy() > 0.5, self.patch_size, fraction)
        except InputError as error:
            raise InputError(f"{_name(data)}: {error}") from None
        item["centres"] = torch.from_numpy(centres.view(np.uint8))[None]
        return item


def _padded(item: Item, patch_size: int) -> Item:
    """At least a patch on each axis: image at its centre, around it the median of the field of view, masks 0."""
    pad = SpatialPad((patch_size, patch_size))
    outside = float(np.median(item["image"][0].numpy()[item["fov"][0].numpy() > 0.5]))
    values = {"image": outside, "label": 0, "fov": 0}
    padded: Item = {key: convert_to_tensor(pad(item[key], value=values[key])) for key in values if key in item}
    return {**item, **padded}


def _filled(image: NDArray[np.floating], fov: NDArray[np.bool_]) -> Tensor:
    """Float32 tensor (1, H, W) with the median of the field of view outside it."""
    filled = image if fov.all() else np.where(fov, image, np.median(image[fov]))
    return torch.from_numpy(filled.astype(np.float32, copy=False))[None]


def _name(data: Mapping[Hashable, Any]) -> str:
    """What to call an item in a message: its file, else its id."""
    return str(data.get("file") or data.get("id") or "image")


def _read_mask_like(path: Any, image: NDArray, file: str) -> NDArray[np.bool_]:
    mask = read_mask(path)
    if mask.shape != image.shape[:2]:
        raise InputError(
            f"{path}: expected a mask of the shape of {file}, {image.shape[:2]}, received {mask.shape}; "
            "check that the two files belong together"
        )
    return mask
