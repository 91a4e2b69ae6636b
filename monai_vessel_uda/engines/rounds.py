"""Around the rounds of co-optimisation: which segmenters it may start from, and how each round is tracked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..methods.co_optimization import save_round_preview
from .tracking import StageTracker


def candidate_weights(folder: str | Path, names: Sequence[str]) -> dict[str, Path]:
    """Weights of those candidates that exist, in order of preference.

    Raises:
        InputError: none exists.
    """
    found = {name: Path(folder) / name / "weights.pt" for name in names}
    found = {name: path for name, path in found.items() if path.exists()}
    if not found:
        raise InputError(
            f"{folder}: expected the weights of at least one of {', '.join(names)}; train a segmenter first"
        )
    return found


class RoundTracking:
    """Called after each round: one MLflow run for it, nested in the stage's, and a picture of its pseudo-masks.

    Args:
        tracker: the stage's.
        target: prepared target items, for the picture.
    """

    def __init__(self, tracker: StageTracker, target: Sequence[Mapping[str, Any]]) -> None:
        self.tracker, self.target = tracker, target

    def __call__(self, k: int, measures: Mapping[str, float | None], folder: Path) -> None:
        """Log round ``k``."""
        save_round_preview(folder, self.target)
        self.tracker.log_metrics(measures, step=k)
        run = self.tracker.child(f"round {k}", {"round": k}).start()
        run.log_metrics(measures)
        for picture in sorted(folder.glob("*.png")):
            run.log_file(picture)
        run.finish()
