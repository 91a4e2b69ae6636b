"""An MLflow store in an otherwise empty workspace, and how to read it."""

import shutil

import pytest
from mlflow.tracking import MlflowClient

from monai_vessel_uda.engines.tracking_store import store_uri, workspace_store


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A workspace with a store and nothing in it: MLflow takes a second to make its tables."""
    folder = tmp_path_factory.mktemp("store")
    workspace_store(folder)
    return folder


@pytest.fixture
def workspace(empty_store, tmp_path):
    """Its copy, in place of the prepared workspace of the other tests."""
    return shutil.copytree(empty_store, tmp_path / "workspace")


@pytest.fixture
def client(workspace):
    return MlflowClient(store_uri(workspace))


def runs(client, workspace):
    """Runs by name without the time of day, newest first."""
    found = client.search_runs([workspace_store(workspace).experiment_id], order_by=["attributes.start_time DESC"])
    return [(run.info.run_name.split(" 20")[0], run) for run in found]


def history(client, run, metric):
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric)]


def write_losses(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("iteration,loss\n" + "".join(f"{step},{loss}\n" for step, loss in rows))
    return path
