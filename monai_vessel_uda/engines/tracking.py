"""MLflow: one parent run for an adaptation, one child for each start of a stage, one grandchild for each round.

===========  ======================================================================================================
run          holds
===========  ======================================================================================================
adaptation   parameters (preset and overrides), test scores of every segmenter, report and score tables, the exported
             bundle, from which a version of the registered model is made (:mod:`.adaptation_tracking`)
stage        parameters, losses, label-free measures, pictures; ``config.json``: the bundle config that ran (logged by
             the pipeline: a bundle that ``python -m monai.bundle`` runs cannot see its own)
round        label-free measures, losses of both trainings, pictures
===========  ======================================================================================================

A killed run is never appended to: each start of a stage is a new run of a new name under the same parent, and the one
that was killed is marked ``KILLED``. Its successor repeats the losses that the checkpoint brought along, so that each
run that finished shows a whole curve.

When the store is lost on the way (:mod:`.tracking_store`) and answers again, the losses and the rounds' measures of the
gap follow; its pictures are in the workspace alone.
"""

import atexit
import csv
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from .tracking_store import STAGE_TAG, Store, adaptation_run, workspace_store


class RunTracker(ABC):
    """One MLflow run. Subclasses say how it is made.

    Nothing is logged before :meth:`start`, after :meth:`finish`, when disabled, or by any process but the first of a
    distributed job.

    Args:
        workspace: folder of the adaptation.
        enabled: off makes every call return at once.
    """

    def __init__(self, workspace: str | Path, enabled: bool = True) -> None:
        self.workspace, self.enabled = Path(workspace), enabled
        self.run_id: str | None = None
        self._store: Store | None = None
        self._unsent_parameters: Mapping[str, Any] = {}
        self._sent: dict[str, float] = {}

    @abstractmethod
    def _create(self, store: Store) -> str:
        """Make the run in the store; returns its id."""

    def _open(self, parameters: Mapping[str, Any]) -> None:
        """Connect, make the run and log its parameters.

        Raises:
            InputError: the store has never answered in this process.
        """
        if self._store is None and self.enabled and idist.get_rank() == 0:
            self._store = workspace_store(self.workspace)
            self._unsent_parameters = parameters
            atexit.register(self.finish, "FAILED")  # an exception or an interrupt ends the process before finish()
            self._send(lambda store, run: None)

    def _send(self, call: Callable[[Store, str], Any]) -> bool:
        """Do ``call(store, run)``, after what an earlier failure left undone; returns whether it went."""
        if self._store is None:
            return False
        sent = False
        with self._store.outliving_failures():
            if self.run_id is None:
                self.run_id = self._create(self._store)
            if self._unsent_parameters:
                self._store.log_parameters(self.run_id, self._unsent_parameters)
                self._unsent_parameters = {}
            call(self._store, self.run_id)
            sent = True
        return sent

    def log_metrics(self, metrics: Mapping[str, float | None], step: int = 0) -> None:
        """Log numbers; those that are missing or not finite are left out."""
        self._log_points([(name, value, step) for name, value in metrics.items()])

    def log_losses(self, table: str | Path, name: str = "loss") -> None:
        """Log the rows of a ``losses.csv`` (columns iteration, loss) that were not logged before.

        After a resumed start these are the epochs before it, too; after an outage of the store, those of the outage.
        """
        if not Path(table).exists():
            return
        with open(table, newline="") as file:
            rows = [(int(row["iteration"]), float(row["loss"])) for row in csv.DictReader(file)]
        self.log_new({step: {name: loss} for step, loss in rows}, name)

    def log_new(self, rows: Mapping[int, Mapping[str, float | None]], series: str) -> None:
        """Log those rows (step → metrics) of a growing series that were not logged before."""
        new = {step: metrics for step, metrics in rows.items() if step > self._sent.get(series, -math.inf)}
        if new and self._log_points([(name, v, step) for step, row in new.items() for name, v in row.items()]):
            self._sent[series] = max(new)

    def log_file(self, path: str | Path) -> None:
        """Log a figure, a table or a page as artifact, if it exists."""
        if Path(path).exists():
            self._send(lambda store, run: store.log_file(run, path))

    def log_config(self, config: Mapping[str, Any], name: str = "config.json") -> None:
        """Log what ran, as a JSON artifact.

        Args:
            config: a bundle config with all overrides in it, which ``python -m monai.bundle run`` would run again.
            name: of the artifact.
        """
        self._send(lambda store, run: store.log_json(run, config, name))

    def finish(self, status: str = "FINISHED") -> None:
        """Close the run; what comes after is not logged.

        Args:
            status: ``FINISHED``, ``FAILED`` or ``KILLED``.
        """
        if self.run_id is not None:
            self._send(lambda store, run: store.end_run(run, status))
        self.run_id, self._store = None, None
        atexit.unregister(self.finish)

    def _log_points(self, points: Sequence[tuple[str, float | None, int]]) -> bool:
        """Log (name, value, step); returns whether all went."""
        if self._store is None:
            return False
        # MLflow would store an infinite value as the largest number there is.
        finite = [(name, float(v), step) for name, v, step in points if v is not None and math.isfinite(v)]
        return self._send(lambda store, run: store.log_points(run, finite))


class StageTracker(RunTracker):
    """One start of one stage. Also an Ignite handler that logs the mean loss of each epoch.

    Args:
        workspace: folder of the adaptation.
        stage: name of the stage.
        settings: parameters to log.
        enabled: off makes every call return at once.
        losses: the CSV file that :class:`~monai_vessel_uda.engines.history.LossHistory` writes.
        parent: tracker of the run to nest in; by default the workspace's adaptation.
    """

    def __init__(
        self,
        workspace: str | Path,
        stage: str,
        settings: Mapping[str, Any],
        enabled: bool = True,
        losses: str | Path | None = None,
        parent: "StageTracker | None" = None,
    ) -> None:
        super().__init__(workspace, enabled)
        self.stage, self.settings, self.losses, self.parent = stage, settings, losses, parent

    def start(self) -> "StageTracker":
        """Open a run, log the settings, and mark an earlier run of this stage that never ended.

        Raises:
            InputError: the store has never answered in this process.
        """
        self._open(self.settings)
        return self

    def child(self, stage: str, settings: Mapping[str, Any]) -> "StageTracker":
        """Tracker of a part of this stage, not yet started."""
        return StageTracker(self.workspace, stage, settings, self.enabled and self.run_id is not None, parent=self)

    def attach(self, engine: Engine) -> None:
        """Log ``loss`` at the end of each epoch of a trainer; attach after the handler that writes the CSV file."""
        # At the end, too: a training that was killed after its last epoch has no epoch left when it is resumed.
        engine.add_event_handler(Events.EPOCH_COMPLETED | Events.COMPLETED, self._log_epoch)

    def _log_epoch(self, engine: Engine) -> None:
        if self.losses is not None:
            self.log_losses(self.losses)

    def _create(self, store: Store) -> str:
        parent = self.parent.run_id if self.parent else None
        if parent is None:
            parent, made = adaptation_run(store, self.workspace)
            if made:  # the stages run one by one, so nobody else will close it
                store.end_run(parent)
        store.close_children(parent, "KILLED", self.stage)
        return store.create_run(self.stage, parent, {STAGE_TAG: self.stage})
