"""The parent run of an adaptation: parameters, test scores, report and the exported bundle."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import load_json, sha256
from .model_registry import register_bundle
from .tracking import RunTracker
from .tracking_store import Store, adaptation_run, mlflow_name

RESULTS = (
    "report.html",
    "scores.json",
    "scores.csv",
    "scores.md",
    "settings.json",
    "stages/co_optimization/rounds.json",
    "stages/co_optimization/preview_example.png",
)
"""What the adaptation's run gets of a finished workspace. Not the manifest: it names patients' files."""


class AdaptationTracker(RunTracker):
    """The parent run: one for a workspace, however often the adaptation is started."""

    def start(self, parameters: Mapping[str, Any]) -> "AdaptationTracker":
        """Open the run, anew or again.

        Raises:
            InputError: the store has never answered in this process.
        """
        self._open(parameters)
        return self

    def finish(self, status: str = "FINISHED") -> None:
        """Close the run; when all went well, also stages whose end the store missed."""
        if status == "FINISHED":
            self._send(lambda store, run: store.close_children(run, status))
        super().finish(status)

    def log_results(self) -> None:
        """Log what the finished workspace holds: report, example, score tables, settings, rounds; and the scores."""
        for name in RESULTS:
            self.log_file(self.workspace / name)
        scores = self.workspace / "scores.json"
        if scores.exists():
            self.log_scores(load_json(scores)["rows"])

    def log_scores(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log the mean test scores of all segmenters, as ``test_<score>/<segmenter>`` and ``…/exported``.

        Those that the run has already are left out: a finished adaptation that is run again must not double its points.

        Args:
            rows: of ``scores.json``: ``name``, ``exported``, ``scores`` {score: {``mean``, …}}.
        """
        values: dict[str, float | None] = {}
        for row in rows:
            names = [row["name"], *(["exported"] if row["exported"] else [])]
            values |= {f"test_{score}/{name}": v["mean"] for score, v in row["scores"].items() for name in names if v}
        known: dict[str, float] = {}
        self._send(lambda store, run: known.update(store.last_metrics(run)))
        self.log_metrics({name: v for name, v in values.items() if known.get(mlflow_name(name)) != v})

    def log_bundle(self, bundle: str | Path, model: str) -> None:
        """Log a bundle as artifact and make it a version of a registered model, each once for the same weights.

        Args:
            bundle: the exported folder.
            model: name of the registered model; made if it does not exist.
        """
        if self._store is None:
            return
        digest = sha256(Path(bundle) / "models" / "model.pt")
        name = self.workspace.resolve().name
        self._send(lambda store, run: register_bundle(store, run, Path(bundle), digest, model, name))

    def _create(self, store: Store) -> str:
        run, _ = adaptation_run(store, self.workspace)
        store.reopen_run(run)
        return run
