"""Images of a manifest, preprocessed once, kept on disk in the workspace and in memory while a stage runs."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import ignite.distributed as idist
from monai.data import Dataset, PersistentDataset
from monai.data.utils import json_hashing
from monai.transforms import Compose

from .. import __version__
from ..data.manifest import datalist
from .dictionary import PatchCentresd, RetinalCompose
from .preprocessing import Variant, source_transforms, target_transforms

ListName = Literal["source", "target", "evaluation", "supervised"]


def prepared_images(
    manifest: Mapping[str, Any],
    name: ListName,
    variant: Variant = "aligned",
    patch_size: int | tuple[int, int] | None = None,
    cache_dir: str | Path | None = None,
) -> Dataset:
    """Preprocessed items of one list of the manifest.

    Args:
        manifest: of :func:`~monai_vessel_uda.data.manifest.load_manifest`.
        name: which list. Items of ``target`` never have a label; those of ``evaluation`` and ``supervised`` do.
        variant: preprocessing of the source; the target has only one.
        patch_size: if given, items get ``centres``: where patches of this size avoid the black surround.
        cache_dir: folder of the disk cache, for example the workspace's; None keeps the result in memory only.

    Returns:
        Dataset of dictionaries with ``image``, ``fov`` (and ``label``) of shape (1, height, width).

    Raises:
        InputError: an image cannot be used, or is smaller than a patch; names the file.
    """
    record = manifest["preprocessing"]
    if name == "source":
        chain: list[Any] = [source_transforms(record, variant)]
    else:
        chain = [target_transforms(record, with_label=name != "target")]
    if patch_size is not None:
        size = patch_size if isinstance(patch_size, int) else tuple(patch_size)
        chain.append(PatchCentresd(size))
    items = datalist(manifest, name)
    transform: Compose = RetinalCompose(chain)
    if cache_dir is not None:
        files = [[entry.get(name) for name in ("sha256", "label_sha256", "fov_sha256")] for entry in manifest[name]]
        made_by = [__version__, record, variant if name == "source" else "target", patch_size, files]
        key = json.dumps(made_by, sort_keys=True, default=str)
        folder = Path(cache_dir) / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        prepared: Dataset = PersistentDataset(items, transform, folder, hash_func=json_hashing)
    else:
        prepared = Dataset(items, transform)
    with idist.one_rank_first():  # of several processes one fills the disk cache, the others read it
        # not CacheDataset, whose pool of threads once stood still for ever
        return Dataset([prepared[number] for number in range(len(prepared))])
