"""Around the rounds of co-optimisation: which segmenters it may start from, and how each round is tracked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import load_json
from ..methods.co_optimization import CoOptimization, save_round_preview
from .tracking import StageTracker


def candidate_weights(folder: str | Path, names: Sequence[str]) -> dict[str, Path]:
    """Weights of the candidates, in order of preference.

    Raises:
        InputError: one is not trained, or the one that is trained on target masks is among them.
    """
    if "supervised" in names:
        raise InputError("start_segmenter: expected segmenters that saw no target mask, got 'supervised'")
    found = {name: Path(folder) / name / "weights.pt" for name in names}
    missing = [name for name, path in found.items() if not path.exists()]
    if missing:
        raise InputError(
            f"{folder}: expected the weights of all segmenters in start_segmenter, found none of {', '.join(missing)}; "
            f"train each first (latent_mining's train.json, --training_set {missing[0]}) or leave it out of "
            "start_segmenter"
        )
    return found


class RoundsTrainer:
    """The rounds as MONAI's tools expect a trainer; an epoch is a round.

    Args:
        co_optimization: what :meth:`run` runs.
        max_epochs: K, as the rounds have it.

    Raises:
        InputError: another number than the rounds' own.
    """

    def __init__(self, co_optimization: CoOptimization, max_epochs: int) -> None:
        if max_epochs != co_optimization.rounds:
            raise InputError(f"max_epochs: expected rounds = {co_optimization.rounds}, got {max_epochs}; set 'rounds'")
        self.co_optimization, self.max_epochs = co_optimization, max_epochs

    def run(self) -> dict[str, Any]:
        """Run or resume all rounds; returns their summary."""
        return self.co_optimization.run()


class RoundTracking:
    """Called after each round: an MLflow run for it, nested in the stage's, and a picture of its pseudo-masks.

    The stage's run gets the measures of every round, also of those before it was resumed, and what the choice of the
    start was made by: ``start_<measure>/<candidate>``.

    Args:
        tracker: the stage's.
        target: prepared target items, for the picture.
    """

    def __init__(self, tracker: StageTracker, target: Sequence[Mapping[str, Any]]) -> None:
        self.tracker, self.target = tracker, target

    def __call__(self, k: int, measures: Mapping[str, float | None], folder: Path) -> None:
        """Log round ``k``, whose results are in ``folder``."""
        save_round_preview(folder, self.target)
        self.tracker.log_new(_measures_so_far(folder.parent, k), "round")
        run = self.tracker.child(f"round {k}", {"round": k}).start()
        run.log_metrics(measures)
        for network in ("generator", "segmenter"):
            run.log_losses(folder / network / "losses.csv", f"{network}_loss")
        for picture in sorted(folder.glob("*.png")):
            run.log_file(picture)
        run.finish()


def _measures_so_far(folder: Path, last: int) -> dict[int, dict[str, float | None]]:
    """Round → label-free measures; round 0 also has those of all candidates."""
    records = {k: load_json(folder / f"round_{k:02d}" / "measures.json") for k in range(last + 1)}
    rows = {k: dict(record["measures"]) for k, record in records.items()}
    for name, measures in records[0]["candidates"].items():
        rows[0] |= {f"start_{measure}/{name}": value for measure, value in measures.items()}
    return rows
