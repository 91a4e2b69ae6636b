"""MLflow: one parent run for an adaptation, one child for each start of a stage, one grandchild for each round.

The store is SQLite inside the workspace unless ``MLFLOW_TRACKING_URI`` names another; ``MLFLOW_EXPERIMENT_NAME`` names
the experiment.

===========  ======================================================================================================
run          holds
===========  ======================================================================================================
adaptation   parameters (preset and overrides), test scores of every segmenter, report and score tables, the exported
             bundle, from which a version of the registered model is made
stage        parameters, losses, label-free measures, pictures; ``config.json``: the bundle config that ran (logged by
             the pipeline: a bundle that ``python -m monai.bundle`` runs cannot see its own)
round        label-free measures, losses of both trainings, pictures
===========  ======================================================================================================

A killed run is never appended to: each start of a stage is a new run of a new name under the same parent, and the one
that was killed is marked ``KILLED``. Its successor repeats the losses that the checkpoint brought along, so that each
run that finished shows a whole curve.

A store that does not answer stops an adaptation before its first step (:class:`InputError`), and never later: when it
is lost on the way, one warning is logged and the work goes on. Once it answers again, the losses and the rounds'
measures of the gap follow; its pictures are in the workspace alone. MLflow itself would repeat each call for minutes;
here ``MLFLOW_HTTP_REQUEST_MAX_RETRIES`` is 1 and ``MLFLOW_HTTP_REQUEST_TIMEOUT`` 10 seconds unless the environment says
otherwise.

The registered model is the bundle folder itself, file by file, not a flavour of MLflow around it: what
``mlflow artifacts download --artifact-uri models:/vessel_segmentation/1`` brings runs with ``python -m monai.bundle``,
needs no pickle and no MLflow, and has the hash that was exported.
"""

import atexit
import csv
import functools
import json
import logging
import math
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ignite.distributed as idist
from ignite.engine import Engine, Events

from .. import __version__
from ..errors import InputError
from ..files import load_json, save_json, sha256

logger = logging.getLogger("monai_vessel_uda")

EXPERIMENT = "monai_vessel_uda"
"""The experiment, unless ``MLFLOW_EXPERIMENT_NAME`` names another."""
RECORD = "tracking.json"
"""In a workspace: which run is the adaptation's."""
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

PARENT_TAG, STAGE_TAG, HASH_TAG = "mlflow.parentRunId", "stage", "weights_sha256"
_CLIENT_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_METRICS_IN_A_BATCH, _PARAMETERS_IN_A_BATCH = 1000, 100
"""MLflow's own limits."""


class Store:
    """An MLflow store that has answered once.

    Args:
        uri: of the store, as in ``MLFLOW_TRACKING_URI``.
        experiment: its name; made if it does not exist.

    Raises:
        InputError: the store does not answer, or refuses the experiment.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        self._credentials = urlsplit(uri).netloc.rpartition("@")[0]
        self.address = self._masked(uri)
        self.client: Any = None
        self._lost = False
        try:
            _check_sqlite_folder(uri)
            self.client = _client(uri)
            self.experiment_id = self._experiment(uri, experiment)
        except Exception as error:  # of MLflow, SQLAlchemy or a database driver
            raise InputError(
                f"MLFLOW_TRACKING_URI: no MLflow store can be used at {self.address} ({self._reason(error)}); "
                "start the server, correct the address, or go on without tracking (--set track=false)"
            ) from error

    def _experiment(self, uri: str, name: str) -> str:
        """Id of the experiment; in SQLite, of one whose artifacts lie beside the file, even after a move or copy."""
        place = None
        if uri.startswith("sqlite:///"):
            place = (Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts").as_uri()
        for candidate in (name, f"{name} in {place}"):
            known = self.client.get_experiment_by_name(candidate)
            if known is None:
                return str(self.client.create_experiment(candidate, artifact_location=place))
            if known.lifecycle_stage != "active":
                raise InputError(f"its experiment {candidate!r} was deleted; restore it or set MLFLOW_EXPERIMENT_NAME")
            if place in (None, known.artifact_location):
                break
        return str(known.experiment_id)

    @contextmanager
    def outliving_failures(self) -> Iterator[None]:
        """Hours of training must not end because of their log: warn when the store is lost, once, and go on."""
        try:
            yield
        except Exception as error:  # artifact stores raise errors of their own libraries
            if not self._lost:
                logger.warning("MLflow at %s failed, going on without: %s", self.address, self._reason(error))
            self._lost = True
        else:
            if self._lost:
                logger.warning("MLflow at %s answers again", self.address)
            self._lost = False

    def _reason(self, error: BaseException) -> str:
        """One line that names the cause: MLflow wraps a refused connection three times."""
        while cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
            error = cause
        return self._masked((str(error).strip() or type(error).__name__).splitlines()[0][:300])

    def _masked(self, text: str) -> str:
        return text.replace(f"{self._credentials}@", "") if self._credentials else text

    def create_run(self, name: str, parent: str | None = None, tags: Mapping[str, str] | None = None) -> str:
        """Start a run of a name that no other has; returns its id."""
        tags = {**(tags or {}), **({PARENT_TAG: parent} if parent else {})}
        unique = f"{name} {datetime.now().isoformat(' ', 'milliseconds')}"
        return str(self.client.create_run(self.experiment_id, tags=tags, run_name=unique).info.run_id)

    def has_run(self, run: str) -> bool:
        """Whether the store knows this run and it was not deleted."""
        from mlflow.exceptions import MlflowException

        try:
            return bool(self.client.get_run(run).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False

    def close_children(self, parent: str, status: str, stage: str | None = None) -> None:
        """Mark what is still open below a run (of one stage, if named), with all that is below that."""
        chosen = f"tags.{PARENT_TAG} = '{parent}' and attributes.status = 'RUNNING'"
        for child in self.client.search_runs([self.experiment_id], chosen):
            if stage in (None, child.data.tags.get(STAGE_TAG)):
                self.close_children(child.info.run_id, status)
                self.client.set_terminated(child.info.run_id, status)


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
            self._send(lambda client, run: None)

    def _send(self, call: Callable[[Any, str], Any]) -> bool:
        """Do ``call(client, run)``, after what an earlier failure left undone; returns whether it went."""
        if self._store is None:
            return False
        sent = False
        with self._store.outliving_failures():
            if self.run_id is None:
                self.run_id = self._create(self._store)
            if self._unsent_parameters:
                self._log_parameters(self._store.client, self.run_id)
            call(self._store.client, self.run_id)
            sent = True
        return sent

    def _log_parameters(self, client: Any, run: str) -> None:
        """Log what the run does not have yet: MLflow refuses to change a parameter."""
        from mlflow.entities import Param

        known = client.get_run(run).data.params
        values = {_mlflow_name(name): value for name, value in self._unsent_parameters.items()}
        new = [Param(name, _text(value)) for name, value in values.items() if name not in known]
        for part in _parts(new, _PARAMETERS_IN_A_BATCH):
            client.log_batch(run, params=part)
        self._unsent_parameters = {}

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
            self._send(lambda client, run: client.log_artifact(run, str(path)))

    def log_config(self, config: Mapping[str, Any], name: str = "config.json") -> None:
        """Log what ran, as a JSON artifact.

        Args:
            config: a bundle config with all overrides in it, which ``python -m monai.bundle run`` would run again.
            name: of the artifact.
        """
        self._send(lambda client, run: client.log_dict(run, dict(config), name))

    def finish(self, status: str = "FINISHED") -> None:
        """Close the run; what comes after is not logged.

        Args:
            status: ``FINISHED``, ``FAILED`` or ``KILLED``.
        """
        if self.run_id is not None:
            self._send(lambda client, run: client.set_terminated(run, status))
        self.run_id, self._store = None, None
        atexit.unregister(self.finish)

    def _log_points(self, points: Sequence[tuple[str, float | None, int]]) -> bool:
        """Log (name, value, step); returns whether all went."""
        if self._store is None:
            return False
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        # MLflow would store an infinite value as the largest number there is.
        finite = [
            Metric(_mlflow_name(name), float(v), now, step)
            for name, v, step in points
            if v is not None and math.isfinite(v)
        ]

        def send(client: Any, run: str) -> None:
            for part in _parts(finite, _METRICS_IN_A_BATCH):
                client.log_batch(run, metrics=part)

        return self._send(send)


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
            parent, made = _adaptation_run(store, self.workspace)
            if made:  # the stages run one by one, so nobody else will close it
                store.client.set_terminated(parent)
        store.close_children(parent, "KILLED", self.stage)
        return store.create_run(self.stage, parent, {STAGE_TAG: self.stage})


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
        if status == "FINISHED" and self._store is not None:
            store = self._store
            self._send(lambda client, run: store.close_children(run, status))
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
        self._send(lambda client, run: known.update(client.get_run(run).data.metrics))
        self.log_metrics({name: v for name, v in values.items() if known.get(_mlflow_name(name)) != v})

    def log_bundle(self, bundle: str | Path, model: str) -> None:
        """Log a bundle as artifact and make it a version of a registered model, each once for the same weights.

        Args:
            bundle: the exported folder.
            model: name of the registered model; made if it does not exist.
        """
        if self._store is None:
            return
        digest = sha256(Path(bundle) / "models" / "model.pt")
        place = f"{Path(bundle).name}/{digest[:12]}"  # never overwritten by later weights: versions point to it
        self._send(lambda client, run: self._log_bundle(client, run, bundle, place, model, digest))

    def _log_bundle(self, client: Any, run: str, bundle: str | Path, place: str, model: str, digest: str) -> None:
        if client.get_run(run).data.tags.get(HASH_TAG) != digest:
            client.log_artifacts(run, str(bundle), place)
            client.set_tag(run, HASH_TAG, digest)  # last: an upload that broke off is made again
        if client.search_model_versions(f"name = '{model}' and tags.{HASH_TAG} = '{digest}'"):
            return
        if not client.search_registered_models(f"name = '{model}'"):
            client.create_registered_model(model, description="Vessel segmenters: MONAI bundles of monai_vessel_uda")
        source = f"{client.get_run(run).info.artifact_uri}/{place}"
        tags = {HASH_TAG: digest, "monai_vessel_uda": __version__, "adaptation": self.workspace.resolve().name}
        version = client.create_model_version(model, source, run_id=run, tags=tags)
        logger.info("registered in MLflow: models:/%s/%s", model, version.version)

    def _create(self, store: Store) -> str:
        run, _ = _adaptation_run(store, self.workspace)
        store.client.update_run(run, status="RUNNING")
        return run


def check_model_name(name: str) -> str:
    """Return a name that MLflow's registry takes.

    Raises:
        InputError: it has other characters than letters, digits, dots, dashes, underscores and spaces.
    """
    if not re.fullmatch(r"[\w.\- ]+", name):
        raise InputError(
            f"registered_model: expected letters, digits, dots, dashes, underscores or spaces, got {name!r}"
        )
    return name


def workspace_store(workspace: str | Path) -> Store:
    """The store of a workspace; it must answer the first time that a process asks for it.

    Raises:
        InputError: it does not.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or store_uri(Path(workspace))
    return _open_store(uri, os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT)


def store_uri(workspace: Path) -> str:
    """The workspace's own SQLite store."""
    return f"sqlite:///{(workspace / 'mlruns.db').resolve()}"


@functools.cache
def _open_store(uri: str, experiment: str) -> Store:
    return Store(uri, experiment)


def _client(uri: str) -> Any:
    for name, value in _CLIENT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.store.db_migrations"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it warns at each repetition
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _adaptation_run(store: Store, workspace: Path) -> tuple[str, bool]:
    """Id of a workspace's parent run, and whether it was made just now.

    A copy of a workspace is another adaptation, and a run of another store is none of this one.
    """
    record, here = workspace / RECORD, str(workspace.resolve())
    if record.exists():
        known = load_json(record)
        if known.get("workspace") == here and store.has_run(known["adaptation_run"]):
            return str(known["adaptation_run"]), False
    run = store.create_run(f"adaptation of {workspace.resolve().name}")
    save_json({"adaptation_run": run, "workspace": here}, record)
    return run, True


def _check_sqlite_folder(uri: str) -> None:
    """Refuse at once what SQLAlchemy would try for minutes."""
    if uri.startswith("sqlite:///"):
        folder = Path(uri.removeprefix("sqlite:///")).resolve().parent
        if not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise InputError(f"{folder} is not a folder that can be written")


def _mlflow_name(name: str) -> str:
    """A name with the characters that MLflow allows: ``generator_def#channels`` becomes ``generator_def/channels``."""
    return re.sub(r"[^\w./: -]", "", name.replace("#", "/"))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _parts(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
