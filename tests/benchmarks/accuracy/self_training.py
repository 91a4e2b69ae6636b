"""Controls for what diffusion adds: rounds of self-training, which is what remains of them without a generator.

Everything else is the same: where the rounds start, the pseudo-masks and their threshold, how many pairs a round has,
how long the segmenter is refined on them and with what augmentation, and how the exported round is chosen.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monai_vessel_uda.data.patches import PatchDataset, ShardedPairs
from monai_vessel_uda.files import load_tensors, save_tensors
from monai_vessel_uda.methods.co_optimization import CoOptimization
from monai_vessel_uda.methods.pairs import write_shards
from monai_vessel_uda.seeding import stable_seed

BATCH = 32
"""Patches in a shard."""


class SelfTraining(CoOptimization):
    """Rounds whose pairs are patches of the target images under their own pseudo-masks."""

    def _generate(self, k: int, folder: Path, items: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        patches = PatchDataset(items, self.patch_transform, stable_seed(self.seed, "self-training", k))

        def shard(numbers: Sequence[int]) -> dict[str, Tensor]:
            drawn = [patches[number] for number in numbers]
            image, label = (torch.stack([patch[key] for patch in drawn]) for key in ("image", "label"))
            return {"label": label.byte(), "image": image.float(), "corrected": torch.zeros(len(drawn), dtype=bool)}

        pairs = self.pairs or len(ShardedPairs(str(self.mined)))
        write_shards(shard, folder / "pairs", pairs, BATCH, f"round {k}: patches of the target")
        return self._measure_generated(self._segmenter_of(k - 1), ShardedPairs(str(folder / "pairs")))


class SelfTrainingBesideSource(SelfTraining):
    """The same, beside as many patches of the prepared source images under their own masks.

    So the source's masks, which no pseudo-mask can spoil, take part in every round as they do with a generator.
    """

    def _generate(self, k: int, folder: Path, items: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        measures = super()._generate(k, folder, items)
        for path in sorted(Path(self.mined).glob("*.pt")):
            mined = load_tensors(path)
            save_tensors({"image": mined["source"], "label": mined["label"]}, folder / "pairs" / f"source_{path.name}")
        return measures
