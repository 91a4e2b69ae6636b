"""What every adaptation is compared with: the same segmenter, trained on something simpler.

============  ==============================================================================================
name          trained on
============  ==============================================================================================
raw           source images as they are ("source-only")
negated       source images with the vessels' polarity of the target
matched       negated, and with the target's distribution of intensities
fda           negated, with the target's low-frequency Fourier amplitudes (Yang & Soatto 2020)
aligned       negated, flattened, matched, at a resolution where vessel calibres agree; no diffusion
mined         the first generation of :mod:`.latent_mining`
supervised    target images with masks of a separate split: the upper bound, never part of the method
============  ==============================================================================================
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.transforms import Compose, Transform

from ..data.patches import PatchDataset, ShardedPairs
from ..errors import InputError
from ..seeding import stable_seed
from ..training_sets import TRAINING_SETS
from ..transforms.fourier import RandFourierAmplitudeSwapd
from ..transforms.prepared import prepared_images


def segmenter_patches(
    name: str,
    manifest: Mapping[str, Any],
    *,
    patch_size: int,
    patch_transform: Transform,
    pair_transform: Transform,
    pairs_dir: str | Path,
    cache_dir: str | Path,
    seed: int,
    fda_beta: float = 0.01,
) -> PatchDataset:
    """Patches that one segmenter trains on.

    Args:
        name: one of ``TRAINING_SETS``.
        manifest: the workspace's.
        patch_size: side of a patch.
        patch_transform: random patch of a whole image.
        pair_transform: random flips of a mined pair.
        pairs_dir: shards of mined pairs.
        cache_dir: disk cache of prepared images.
        seed: of the patches.
        fda_beta: share of the spectrum that FDA swaps.

    Raises:
        InputError: an unknown name, or ``supervised`` where the manifest lists no masks for it.
    """
    if name not in TRAINING_SETS:
        raise InputError(f"training set: expected one of {', '.join(TRAINING_SETS)}, got {name!r}")
    draws = stable_seed(seed, "segmenter", name)
    if name == "mined":
        return PatchDataset(ShardedPairs(str(pairs_dir)), pair_transform, draws)
    if name == "supervised":
        if not manifest["supervised"]:
            raise InputError("supervised: the manifest lists no target images with masks for the upper bound")
        images = prepared_images(manifest, "supervised", patch_size=patch_size, cache_dir=cache_dir)
        return PatchDataset(images, patch_transform, draws)
    if name == "fda":
        target = prepared_images(manifest, "target", patch_size=patch_size, cache_dir=cache_dir)
        swap = RandFourierAmplitudeSwapd("image", [target[i]["image"] for i in range(len(target))], fda_beta)
        patch_transform = Compose([patch_transform, swap])
    variant: Any = "negated" if name == "fda" else name
    images = prepared_images(manifest, "source", variant, patch_size=patch_size, cache_dir=cache_dir)
    return PatchDataset(images, patch_transform, draws)
