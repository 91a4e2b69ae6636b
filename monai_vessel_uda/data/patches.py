"""Random patches whose every draw can be repeated alone.

Patch number i of a :class:`PatchDataset` depends on (seed, i) and nothing else: not on the patches before it, not on
the number of loader workers or processes. So a run that was killed continues with exactly the patches that it would
have seen, and two processes together see what one would.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import get_track_meta, set_track_meta
from monai.transforms import Compose, MapTransform, Randomizable, Transform
from monai.utils import MAX_SEED
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

from ..errors import InputError
from ..files import load_tensors
from ..seeding import stable_seed


class Items(Protocol):
    """Anything with a length and dictionaries at its indices: a list, a MONAI dataset, :class:`ShardedPairs`."""

    def __len__(self) -> int:
        """Number of items."""

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """One item."""


class PatchDataset(Dataset):
    """Draws patch i from a random image, both determined by (seed, i).

    Args:
        images: prepared items (dictionaries of tensors), or whole patches.
        transform: random transforms from one item to one patch, for example a random crop and flips.
        seed: seed of all draws.

    Each patch gets the key ``seed``, from which later code may draw what belongs to this patch (its noise).

    Raises:
        InputError: no images.
    """

    def __init__(self, images: Items, transform: Transform, seed: int) -> None:
        if len(images) == 0:
            raise InputError("patches: expected at least one image, got none")
        self.images = images
        self.transform = (transform if isinstance(transform, Compose) else Compose([transform])).flatten()
        self.seed = seed
        self._random = np.random.RandomState()
        self._randomizable = [part for part in self.transform.transforms if isinstance(part, Randomizable)]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Patch number ``index``, any index from 0 on."""
        patch_seed = stable_seed(self.seed, "patch", index)
        random = self._random
        random.seed(patch_seed & 0xFFFFFFFF)
        image = self.images[random.randint(len(self.images))]
        for part in self._randomizable:  # not through Compose, which makes a new generator for itself
            part.set_random_state(seed=int(random.randint(2**31)))
        with _untracked():
            patch = self.transform(dict(image))
        patch = patch[0] if isinstance(patch, list) else patch
        return {**_plain(patch), "seed": torch.tensor(patch_seed)}


class PatchSampler(DistributedSampler):
    """Patch numbers of one epoch: epoch e (from 1) is [(e - 1) n, e n), shared out between processes.

    MONAI's engines call ``set_epoch`` of every ``DistributedSampler`` when an epoch starts, so an epoch that is
    repeated after an interruption sees the same patches.

    Args:
        patches_per_epoch: n, over all processes together.
        num_replicas: number of processes.
        rank: which of them this is.
    """

    def __init__(self, patches_per_epoch: int, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(range(patches_per_epoch), num_replicas, rank, shuffle=False)  # type: ignore[arg-type]
        self.patches_per_epoch = patches_per_epoch
        self.epoch = 1

    def __iter__(self) -> Iterator[int]:
        """Patch numbers of the current epoch that belong to this process."""
        first = (self.epoch - 1) * self.patches_per_epoch
        return iter(range(first + self.rank, first + self.patches_per_epoch, self.num_replicas))


class ShardedPairs(Sequence):
    r"""The image and mask pairs that a folder of shards holds, in order, read lazily through memory mapping.

    A shard is a file of plain tensors of shape (pairs, 1, \*spatial) under the keys ``image`` and ``label``.

    Args:
        folder: where the shards ``*.pt`` lie.

    Raises:
        InputError: the folder holds no shard, or a damaged one.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        paths = sorted(Path(folder).glob("*.pt"))
        if not paths:
            raise InputError(f"{folder}: expected shards of generated pairs (*.pt), found none; run the mining first")
        self._shards = [load_tensors(path, mmap=True) for path in paths]
        self._places = [(s, i) for s, shard in enumerate(self._shards) for i in range(len(shard["image"]))]

    def __reduce__(self) -> Any:
        """Loader processes that are not forked open the shards themselves: each tensor sent would take a descriptor."""
        return ShardedPairs, (self._folder,)

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        """Pair number ``index`` as a dictionary of tensors of shape (1, *spatial)."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        shard, place = self._places[index]
        return {key: self._shards[shard][key][place].float() for key in ("image", "label")}


class _Reseeded(Randomizable):
    """Seeds the random generator that it has: making a new one takes longer than cropping a small patch."""

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> Randomizable:
        """As MONAI's, with the same draws for the same seed."""
        if seed is None or "R" not in vars(self):  # at first it has MONAI's, which all transforms share
            return super().set_random_state(seed, state)
        self.R.seed(seed % MAX_SEED)
        return self


class RandPatchd(_Reseeded, MapTransform):
    r"""Random window of a given size whose centre lies where ``centres`` allows it.

    The windows that avoid the black surround of a photograph are found once, by a deterministic transform before
    (``PatchCentresd``); this one only draws. Unlike MONAI's ``RandCropByPosNegLabeld`` it keeps no index arrays, whose
    memory exceeds the image's own.

    Args:
        keys: what to crop, each of shape (channel, \*spatial).
        spatial_size: sides of the window.
        centres_key: binary map of allowed centres, shape (1, \*spatial); without the key every window is allowed.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spatial_size: Sequence[int],
        centres_key: str = "centres",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.spatial_size = tuple(spatial_size)
        self.centres_key = centres_key
        self._centre: tuple[int, ...] = ()

    def randomize(self, data: torch.Tensor) -> None:
        """Draw one centre that the map ``data`` allows."""
        self._centre = self._draw(data)

    def _draw(self, centres: torch.Tensor) -> tuple[int, ...]:
        """Rejection sampling, then an exhaustive list if allowed centres are rare."""
        bounds = [
            (side // 2, extent - side + side // 2)
            for side, extent in zip(self.spatial_size, centres.shape, strict=True)
        ]
        for _ in range(64):
            centre = tuple(int(self.R.randint(low, high + 1)) for low, high in bounds)
            if centres[centre]:
                return centre
        inside = tuple(slice(low, high + 1) for low, high in bounds)
        allowed = torch.nonzero(centres[inside])
        if len(allowed) == 0:
            return tuple((low + high) // 2 for low, high in bounds)
        drawn = allowed[self.R.randint(len(allowed))]
        return tuple(int(c) + low for c, (low, _) in zip(drawn, bounds, strict=True))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Crop every key to the same random window."""
        item = dict(data)
        first = item[self.first_key(item)]
        if any(extent < side for extent, side in zip(first.shape[1:], self.spatial_size, strict=True)):
            raise InputError(
                f"{item.get('id', 'an image')}: patch size {self.spatial_size} exceeds the image "
                f"{tuple(first.shape[1:])} at working resolution; choose smaller patches or pad first"
            )
        centres = item.get(self.centres_key)
        self.randomize(torch.ones(first.shape[1:], dtype=torch.uint8) if centres is None else centres[0])
        window = (
            ...,
            *(
                slice(c - side // 2, c - side // 2 + side)
                for c, side in zip(self._centre, self.spatial_size, strict=True)
            ),
        )
        for key in self.key_iterator(item):
            item[key] = item[key][window]
        return item


class RandSymmetryd(_Reseeded, MapTransform):
    r"""One of the symmetries of the grid: a random flip of each spatial axis, then a random order of the axes.

    In two dimensions these are the eight that MONAI's ``RandFlipd`` (twice) and ``RandRotate90d`` reach together, here
    in one indexing step: for small patches those three cost more than the patch's share of a training step.

    Args:
        keys: tensors of shape (channel, \*spatial) with equal spatial sides (the order of unequal axes is kept).
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self._flipped: list[int] = []
        self._order: list[int] = []

    def randomize(self, data: torch.Tensor) -> None:
        """Draw the axes to flip and the order of all axes."""
        spatial = list(range(1, data.ndim))
        self._flipped = [axis for axis in spatial if self.R.random_sample() < 0.5]
        order = (1 + self.R.permutation(len(spatial))).tolist()
        self._order = [0, *(order if len(set(data.shape[1:])) == 1 else spatial)]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply the same symmetry to every key."""
        item = dict(data)
        self.randomize(item[self.first_key(item)])
        for key in self.key_iterator(item):
            item[key] = torch.flip(item[key], self._flipped).permute(self._order)
        return item


@contextmanager
def _untracked() -> Iterator[None]:
    """Without MONAI's metadata, which random patches do not need and which costs more than cropping them."""
    before = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(before)


def _plain(patch: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors without metadata, contiguous, so that collating them is one copy."""
    return {
        key: (value.as_tensor() if hasattr(value, "as_tensor") else value).contiguous()
        if isinstance(value, torch.Tensor)
        else value
        for key, value in patch.items()
    }
