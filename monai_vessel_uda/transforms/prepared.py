"""Images of a manifest, preprocessed once, kept on disk in the workspace and in memory while a stage runs."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import ignite.distributed as idist
from monai.data import Dataset

from .. import __version__
from ..data.manifest import datalist, verify_files
from ..errors import InputError
from ..files import load_tensors, save_tensors
from .dictionary import PatchCentresd, RetinalCompose
from .preprocessing import Variant, source_transforms, target_transforms

ListName = Literal["source", "target", "supervised"]
"""Lists that a training may see; those of ``evaluation`` are read where scores are computed, and nowhere else."""
PREPARATION = 3
"""Raised whenever this package makes other images of the same files and the same record."""


def prepared_images(
    manifest: Mapping[str, Any],
    name: ListName,
    variant: Variant = "aligned",
    patch_size: int | None = None,
    cache_dir: str | Path | None = None,
) -> Dataset:
    """Preprocessed items of one list of the manifest.

    Args:
        manifest: of :func:`~monai_vessel_uda.data.manifest.load_manifest`.
        name: which list. Items of ``target`` never have a label; those of ``supervised`` do.
        variant: preprocessing of the source; the target has only one.
        patch_size: if given, items get ``centres``: where patches of this size avoid the black surround. Images of the
            source and of ``supervised`` that are up to half smaller than a patch are padded to one; the target's scale
            is the user's choice, and its images must be large enough.
        cache_dir: folder of the disk cache, for example the workspace's; None keeps the result in memory only.

    Returns:
        Dataset of dictionaries with ``image``, ``fov`` (and ``label``) of shape (1, height, width).

    Raises:
        InputError: an image cannot be used, is too small for a patch, or is to be prepared and is not the manifest's
            any more; names the file.
    """
    record = manifest["preprocessing"]
    if name == "source":
        chain: list[Any] = [source_transforms(record, variant)]
    else:
        chain = [target_transforms(record, with_label=name != "target")]
    if patch_size is not None:
        chain.append(PatchCentresd(patch_size, pad=name != "target"))
    prepare = RetinalCompose(chain)
    items = datalist(manifest, name)
    if cache_dir is None:
        return Dataset([prepare(item) for item in items])
    files = [[entry.get(key) for key in ("sha256", "label_sha256", "fov_sha256")] for entry in manifest[name]]
    made_by = [__version__, PREPARATION, record, variant if name == "source" else "target", patch_size, files]
    digest = hashlib.sha256(json.dumps(made_by, sort_keys=True, default=str).encode()).hexdigest()
    folder = Path(cache_dir) / f"{name}-{digest[:16]}"
    paths = [folder / f"{number:05d}.pt" for number in range(len(items))]
    if not all(path.exists() for path in paths):
        verify_files(manifest, [name])  # what is kept under these hashes must have been made from these files
    places = list(zip(paths, items, strict=True))
    if idist.get_world_size() > 1:  # each process fills its share of the disk cache, then all read it
        for path, item in places[idist.get_rank() :: idist.get_world_size()]:
            _cached(path, prepare, item)
        idist.barrier()
    return Dataset([_cached(path, prepare, item) for path, item in places])


def _cached(path: Path, prepare: Callable[[Any], Any], item: Mapping[str, Any]) -> Any:
    """What is kept in ``path``, or else the item prepared, and kept there.

    Not MONAI's PersistentDataset: it caches nothing behind a Compose within a Compose, which it takes for random, and
    fails on a file that a killed run left half-written. Not CacheDataset, whose pool of threads once stood still.
    """
    if path.exists():
        try:
            return load_tensors(path)
        except InputError:  # damaged: made anew
            pass
    prepared = prepare(dict(item))
    save_tensors(prepared, path)
    return prepared
