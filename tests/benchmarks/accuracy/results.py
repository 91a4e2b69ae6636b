"""The results file: one row for each segmenter of each run."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

SCORES = ("dice", "dice_at_half", "roc_auc", "pr_auc", "cldice", "ahd_px", "hd95_px")
KEY = ("configuration", "settings", "seed", "split", "preset", "scale", "segmenter")
"""What a row is about; ``settings`` is the :func:`~.configurations.fingerprint` of the configuration."""
MEASURES = {
    "boundary_contrast": 1,
    "consistency": 1,
    "mask_prior_distance": -1,
    "uncertain_band_px": -1,
    "prediction_entropy": -1,
    "feature_distance": -1,
    "faithfulness": 1,
}
"""Label-free measures, and the sign that makes more of them better; the last two know rounds alone."""
COLUMNS = (
    *KEY,
    "exported",
    *(f"{score}{end}" for score in SCORES for end in ("", "_low", "_high")),
    *MEASURES,
    "seconds",
    "threads",
    "machine",
    "commit",
    "date",
)


def read(results: Path) -> list[dict[str, str]]:
    """Rows of a results file."""
    with results.open(newline="") as file:
        return list(csv.DictReader(file))


def append(results: Path, found: Iterable[Mapping[str, Any]]) -> None:
    """Add rows to the results, all or none of them; several benchmarks may write to one file."""
    results.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(results.with_suffix(".lock")):
        before = read(results) if results.exists() else []
        temporary = results.with_suffix(".new")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
            writer.writeheader()
            for row in [*before, *found]:
                writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
        temporary.replace(results)
