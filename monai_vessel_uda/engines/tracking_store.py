"""An MLflow store: where it is, the runs in it, and what happens when it does not answer.

It is SQLite inside the workspace unless ``MLFLOW_TRACKING_URI`` names another; ``MLFLOW_EXPERIMENT_NAME`` names the
experiment.

A store that does not answer stops an adaptation before its first step (:class:`InputError`), and never later: when it
is lost on the way, one warning is logged and the work goes on. MLflow itself would repeat each call for minutes; here
``MLFLOW_HTTP_REQUEST_MAX_RETRIES`` is 1 and ``MLFLOW_HTTP_REQUEST_TIMEOUT`` 10 seconds unless the environment says
otherwise.
"""

import functools
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import InputError
from ..files import load_json, save_json

logger = logging.getLogger("monai_vessel_uda")

EXPERIMENT = "monai_vessel_uda"
"""The experiment, unless ``MLFLOW_EXPERIMENT_NAME`` names another."""
RECORD = "tracking.json"
"""In a workspace: which run is the adaptation's."""
PARENT_TAG, STAGE_TAG = "mlflow.parentRunId", "stage"

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

    def end_run(self, run: str, status: str = "FINISHED") -> None:
        """Close a run: ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self.client.set_terminated(run, status)

    def reopen_run(self, run: str) -> None:
        """Mark a run as running."""
        self.client.update_run(run, status="RUNNING")

    def log_parameters(self, run: str, parameters: Mapping[str, Any]) -> None:
        """Log what the run does not have yet: MLflow refuses to change a parameter.

        Parts of dictionaries are parameters of their own.
        """
        from mlflow.entities import Param

        known = self.client.get_run(run).data.params
        values = {mlflow_name(name): value for name, value in _leaves(parameters)}
        new = [Param(name, _text(value)) for name, value in values.items() if name not in known]
        for part in _parts(new, _PARAMETERS_IN_A_BATCH):
            self.client.log_batch(run, params=part)

    def log_points(self, run: str, points: Sequence[tuple[str, float, int]]) -> None:
        """Log metrics: (name, finite value, step)."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(mlflow_name(name), value, now, step) for name, value, step in points]
        for part in _parts(metrics, _METRICS_IN_A_BATCH):
            self.client.log_batch(run, metrics=part)

    def last_metrics(self, run: str) -> dict[str, float]:
        """The last value of each metric of a run, by the name that :func:`mlflow_name` gave it."""
        return dict(self.client.get_run(run).data.metrics)

    def log_file(self, run: str, path: str | Path) -> None:
        """Log a file as artifact."""
        self.client.log_artifact(run, str(path))

    def log_json(self, run: str, content: Mapping[str, Any], name: str) -> None:
        """Log a mapping as JSON artifact."""
        self.client.log_dict(run, dict(content), name)


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


def adaptation_run(store: Store, workspace: Path) -> tuple[str, bool]:
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


def mlflow_name(name: str) -> str:
    """A name with the characters that MLflow allows: ``generator_def#channels`` becomes ``generator_def/channels``."""
    return re.sub(r"[^\w./: -]", "", name.replace("#", "/"))


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


def _check_sqlite_folder(uri: str) -> None:
    """Refuse at once what SQLAlchemy would try for minutes."""
    if uri.startswith("sqlite:///"):
        folder = Path(uri.removeprefix("sqlite:///")).resolve().parent
        if not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise InputError(f"{folder} is not a folder that can be written")


def _leaves(parameters: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names such as ``augmentation#noise`` and values of what is not a dictionary itself."""
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}#{part}", leaf) for part, leaf in _leaves(value))
        else:
            yield name, value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _parts(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
