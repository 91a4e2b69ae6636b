"""A control for what diffusion adds: rounds of self-training, which is what remains of them without a generator.

Everything else is the same: where the rounds start, the pseudo-masks and their threshold, how long the segmenter is
refined and with what augmentation, and how the exported round is chosen.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_vessel_uda.data.patches import PatchDataset
from monai_vessel_uda.methods.co_optimization import CoOptimization


class SelfTraining(CoOptimization):
    """Rounds whose segmenter is refined on the target images themselves, under its own pseudo-masks."""

    def _generate(self, k: int, folder: Path, items: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        self._items = items
        return {}

    def _refining_set(self, folder: Path, seed: int) -> PatchDataset:
        return PatchDataset(self._items, self.patch_transform, seed)
