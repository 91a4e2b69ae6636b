"""The workspace's own SQLite store, and stores that cannot be used."""

import shutil
import socket
import time

import pytest
from mlflow.tracking import MlflowClient

from monai_vessel_uda.engines.adaptation_tracking import AdaptationTracker
from monai_vessel_uda.engines.tracking import StageTracker
from monai_vessel_uda.engines.tracking_store import store_uri
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.files import save_json

from .conftest import runs


def test_a_server_that_does_not_answer_is_refused_at_once(tmp_path, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{port}")
        began = time.monotonic()
        with pytest.raises(InputError, match=r"MLFLOW_TRACKING_URI.*127\.0\.0\.1.*refused.*track=false") as caught:
            AdaptationTracker(tmp_path).start({})
    assert time.monotonic() - began < 10
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_server_that_is_silent_is_given_up_after_the_time_that_the_environment_allows(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(InputError, match="timed out"):
            AdaptationTracker(tmp_path).start({})
    assert 1 < time.monotonic() - began < 10


@pytest.mark.parametrize("uri", ["sqlite:////nowhere/of/mine/mlflow.db", "ftp://example.invalid"])
def test_a_store_that_cannot_be_is_refused_at_once(tmp_path, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    began = time.monotonic()
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI"):
        StageTracker(tmp_path, "ddpm", {}).start()
    assert time.monotonic() - began < 10
    assert not list(tmp_path.iterdir())


def test_a_copied_workspace_is_another_adaptation_with_its_own_files(workspace, client):
    StageTracker(workspace, "ddpm", {}).start().finish()
    copy = shutil.copytree(workspace, workspace.with_name("copy"))
    tracker = StageTracker(copy, "mining", {}).start()
    tracker.log_config({})
    tracker.finish()
    assert [name for name, _ in runs(client, workspace)] == ["ddpm", "adaptation of workspace"]
    copied = MlflowClient(store_uri(copy))
    assert [name for name, _ in runs(copied, copy)] == ["mining", "adaptation of copy"]
    assert len(list((copy / "mlartifacts").rglob("config.json"))) == 1
    assert not list((workspace / "mlartifacts").rglob("config.json"))


def test_a_run_of_another_store_is_not_taken_for_the_parent(workspace, client):
    save_json({"adaptation_run": "0" * 32, "workspace": str(workspace)}, workspace / "tracking.json")
    StageTracker(workspace, "ddpm", {}).start().finish()
    stage, parent = (run for _, run in runs(client, workspace))
    assert stage.data.tags["mlflow.parentRunId"] == parent.info.run_id
