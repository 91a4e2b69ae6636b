"""MLflow: one parent run for an adaptation, one child for each stage, one grandchild for each round.

The store is SQLite inside the workspace unless ``MLFLOW_TRACKING_URI`` points elsewhere. A run that was killed is
never appended to: each start gets a new run of a new name under the same parent.
"""

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from ..files import load_json, save_json

EXPERIMENT = "monai_vessel_uda"


class StageTracker:
    """One stage's run. Also an Ignite handler that logs the mean loss of each epoch.

    Args:
        workspace: folder of the adaptation.
        stage: name of the stage.
        settings: parameters to log.
        enabled: off makes every call return at once.
        parent_run: id of the run to nest in; by default the workspace's adaptation run.
    """

    def __init__(
        self,
        workspace: str | Path,
        stage: str,
        settings: Mapping[str, Any],
        enabled: bool = True,
        parent_run: str | None = None,
    ) -> None:
        self.workspace, self.stage, self.settings = Path(workspace), stage, settings
        self.enabled = enabled
        self.parent_run = parent_run
        self.run_id: str | None = None
        self._client: Any = None

    def start(self) -> "StageTracker":
        """Open the run and log the settings."""
        if self.enabled and self.run_id is None:
            self._client = _client(self.workspace)
            parent = self.parent_run or _adaptation_run(self._client, self.workspace)
            self.run_id = _create_run(self._client, self.stage, parent)
            for name, value in self.settings.items():
                self._client.log_param(self.run_id, name, json.dumps(value, default=str)[:500])
        return self

    def child(self, stage: str, settings: Mapping[str, Any]) -> "StageTracker":
        """Tracker of a part of this stage, not yet started."""
        return StageTracker(self.workspace, stage, settings, self.enabled, self.run_id)

    def log_metrics(self, metrics: Mapping[str, float | None], step: int = 0) -> None:
        """Log numbers; those that are missing are left out."""
        if self.run_id is None:
            return
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        known = [Metric(name, float(v), now, step) for name, v in metrics.items() if v is not None]
        self._client.log_batch(self.run_id, metrics=known)

    def log_file(self, path: str | Path) -> None:
        """Log a figure, a table or a config as artifact, if it exists."""
        if self.run_id is not None and Path(path).exists():
            self._client.log_artifact(self.run_id, str(path))

    def attach(self, engine: Engine) -> None:
        """Log ``loss`` at the end of each epoch of a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._log_loss)

    def finish(self) -> None:
        """Close the run."""
        if self.run_id is not None:
            self._client.set_terminated(self.run_id)
            self.run_id = None

    def _log_loss(self, engine: Engine) -> None:
        state: Any = engine.state
        self.log_metrics({"loss": float(state.output["loss"].detach())}, step=state.iteration)


def _client(workspace: Path) -> Any:
    from mlflow.tracking import MlflowClient

    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.store.db_migrations"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or store_uri(workspace))


def store_uri(workspace: Path) -> str:
    """The workspace's own SQLite store."""
    return f"sqlite:///{(workspace / 'mlruns.db').resolve()}"


def _adaptation_run(client: Any, workspace: Path) -> str:
    record = workspace / "tracking.json"
    if record.exists():
        return str(load_json(record)["adaptation_run"])
    run = _create_run(client, f"adaptation of {workspace.resolve().name}", None)
    save_json({"adaptation_run": run}, record)
    return run


def _create_run(client: Any, name: str, parent: str | None) -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    experiment_id = experiment.experiment_id if experiment else _create_experiment(client)
    tags = {"mlflow.parentRunId": parent} if parent else {}
    unique = f"{name} {time.strftime('%Y-%m-%d %H:%M:%S')} {os.getpid()}"
    return str(client.create_run(experiment_id, tags=tags, run_name=unique).info.run_id)


def _create_experiment(client: Any) -> str:
    uri = client.tracking_uri
    location = None
    if uri.startswith("sqlite:///"):  # keep artifacts beside the store, not in the current folder
        location = (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts").as_uri()
    return str(client.create_experiment(EXPERIMENT, artifact_location=location))
