"""Tracking in the workspace's own SQLite store; against a server: tests/end_to_end/test_mlflow_server.py."""

import shutil
import socket
import subprocess
import sys
import time

import ignite.distributed as idist
import pytest
from ignite.engine import Engine, Events
from mlflow.tracking import MlflowClient

from monai_vessel_uda.engines import tracking
from monai_vessel_uda.engines.rounds import RoundTracking
from monai_vessel_uda.engines.tracking import AdaptationTracker, StageTracker, check_model_name, store_uri
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.files import load_json, save_json, sha256


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A workspace with a store and nothing in it: MLflow takes a second to make its tables."""
    folder = tmp_path_factory.mktemp("store")
    tracking.workspace_store(folder)
    return folder


@pytest.fixture
def workspace(empty_store, tmp_path):
    return shutil.copytree(empty_store, tmp_path / "workspace")


@pytest.fixture
def client(workspace):
    return MlflowClient(store_uri(workspace))


def experiment_of(workspace):
    return tracking.workspace_store(workspace).experiment_id


def runs(client, workspace):
    """Runs by name without the time of day, newest first."""
    found = client.search_runs([experiment_of(workspace)], order_by=["attributes.start_time DESC"])
    return [(run.info.run_name.split(" 20")[0], run) for run in found]


def history(client, run, metric):
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric)]


def write_losses(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("iteration,loss\n" + "".join(f"{step},{loss}\n" for step, loss in rows))
    return path


def test_parameters_metrics_and_config_of_a_stage(workspace, client):
    settings = {"domain": "target", "patch_size": 32, "generator_def#channels": [8, 16]}
    tracker = StageTracker(workspace, "ddpm", settings).start()
    tracker.log_metrics({"distance": 0.5, "missing": None, "degenerate": float("inf"), "FDA (amplitude)": 1.0})
    tracker.log_config({"iterations": 4, "trainer": {"_target_": "x.y"}})
    tracker.finish()
    (_, run), (_, parent) = runs(client, workspace)
    assert run.data.params == {"domain": "target", "patch_size": "32", "generator_def/channels": "[8, 16]"}
    assert run.data.metrics == {"distance": 0.5, "FDA amplitude": 1.0}
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (run.info.status, parent.info.status) == ("FINISHED", "FINISHED")
    (written,) = (workspace / "mlartifacts").rglob("config.json")
    assert load_json(written) == {"iterations": 4, "trainer": {"_target_": "x.y"}}
    assert run.info.run_id in written.parts


def test_loss_of_each_epoch_is_the_mean_that_the_history_wrote(workspace, client):
    losses = workspace / "losses.csv"
    tracker = StageTracker(workspace, "ddpm", {}, losses=losses).start()
    engine = Engine(lambda engine, batch: None)
    rows = []

    @engine.on(Events.EPOCH_COMPLETED)
    def write(engine):
        rows.append((engine.state.iteration, 1 / engine.state.epoch))
        write_losses(losses, *rows)

    tracker.attach(engine)
    engine.run([0, 0, 0], max_epochs=2)
    assert history(client, runs(client, workspace)[0][1], "loss") == [(3, 1.0), (6, 0.5)]
    tracker.finish()


def test_a_killed_run_is_marked_and_never_appended_to(workspace, client):
    losses = write_losses(workspace / "losses.csv", (2, 0.9))
    killed = StageTracker(workspace, "ddpm", {"seed": 3}).start()
    killed.log_losses(losses)
    nested = killed.child("round 1", {}).start()
    other = StageTracker(workspace, "mining", {}).start()
    again = StageTracker(workspace, "ddpm", {"seed": 3}).start()
    write_losses(losses, (2, 0.9), (4, 0.8))
    again.log_losses(losses)
    again.finish()
    old, new = client.get_run(killed.run_id), runs(client, workspace)[0][1]
    assert old.info.run_id != new.info.run_id and old.info.run_name != new.info.run_name
    assert (old.info.status, new.info.status) == ("KILLED", "FINISHED")
    assert client.get_run(nested.run_id).info.status == "KILLED"
    assert client.get_run(other.run_id).info.status == "RUNNING"
    assert history(client, old, "loss") == [(2, 0.9)]
    assert history(client, new, "loss") == [(2, 0.9), (4, 0.8)]
    assert old.data.tags["mlflow.parentRunId"] == new.data.tags["mlflow.parentRunId"]
    for tracker in (nested, killed, other):
        tracker.finish()


def test_a_process_that_fails_marks_its_run(workspace, client):
    script = (
        "import sys; from monai_vessel_uda.engines.tracking import *;"
        "AdaptationTracker(sys.argv[1]).start({}); StageTracker(sys.argv[1], 'ddpm', {}).start(); 1 / 0"
    )
    result = subprocess.run([sys.executable, "-c", script, str(workspace)], capture_output=True, text=True)
    assert "ZeroDivisionError" in result.stderr
    assert result.stdout == "", "the standard output belongs to the command"
    assert [(name, run.info.status) for name, run in runs(client, workspace)] == [
        ("ddpm", "FAILED"),
        ("adaptation of workspace", "FAILED"),
    ]


def test_disabled_or_not_the_first_process(tmp_path, monkeypatch):
    off = StageTracker(tmp_path, "ddpm", {}, enabled=False).start()
    monkeypatch.setattr(idist, "get_rank", lambda: 1)
    second = StageTracker(tmp_path, "ddpm", {}).start()
    parent = AdaptationTracker(tmp_path).start({"seed": 3})
    for tracker in (off, off.child("round 1", {}).start(), second, second.child("round 1", {}).start(), parent):
        tracker.log_metrics({"loss": 1.0})
        tracker.log_config({})
        tracker.log_losses(write_losses(tmp_path / "losses.csv", (1, 1.0)))
        tracker.finish()
    parent.log_bundle(tmp_path / "nowhere", "vessel_segmentation")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["losses.csv"]


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


def test_a_store_lost_on_the_way_is_one_warning_and_no_gap_in_the_losses(workspace, client, caplog, monkeypatch):
    losses = write_losses(workspace / "losses.csv", (2, 0.9))
    tracker = StageTracker(workspace, "ddpm", {"seed": 3}).start()
    tracker.log_losses(losses)
    store = tracking.workspace_store(workspace)
    with monkeypatch.context() as outage:
        outage.setattr(store, "client", None)
        for epoch in (2, 3):
            write_losses(losses, *((2 * i, 0.9) for i in range(1, epoch + 1)))
            tracker.log_losses(losses)
        tracker.log_config({})
        late = StageTracker(workspace, "mining", {"pairs": 8}).start()
        late.log_metrics({"corrected": 0.5})
    assert caplog.text.count("going on without") == 1
    write_losses(losses, *((2 * i, 0.9) for i in range(1, 5)))
    tracker.log_losses(losses)
    late.log_metrics({"corrected": 0.25})
    assert caplog.text.count("answers again") == 1
    by_name = dict(runs(client, workspace))
    assert history(client, by_name["ddpm"], "loss") == [(2, 0.9), (4, 0.9), (6, 0.9), (8, 0.9)]
    assert by_name["mining"].data.params == {"pairs": "8"}
    assert by_name["mining"].data.metrics == {"corrected": 0.25}
    tracker.finish()
    late.finish()


def test_an_end_that_the_store_missed_is_made_up_for_by_the_adaptation(workspace, client, monkeypatch):
    adaptation = AdaptationTracker(workspace).start({"preset": "demo"})
    stage = StageTracker(workspace, "ddpm", {}).start()
    with monkeypatch.context() as outage:
        outage.setattr(tracking.workspace_store(workspace), "client", None)
        stage.finish()
    assert [run.info.status for _, run in runs(client, workspace)] == ["RUNNING", "RUNNING"]
    adaptation.finish()
    assert [run.info.status for _, run in runs(client, workspace)] == ["FINISHED", "FINISHED"]


def test_the_adaptation_is_one_run_however_often_it_is_started(workspace, client):
    rows = [
        {"name": "round 1", "exported": True, "scores": {"dice": {"mean": 0.5}, "ahd_px": {"mean": None}}},
        {"name": "source-only", "exported": False, "scores": {"dice": {"mean": 0.25}}},
    ]
    (workspace / "report.html").write_text("<p>report</p>")
    save_json({"rows": rows}, workspace / "scores.json")
    for preset in ("demo", "small"):
        adaptation = AdaptationTracker(workspace).start({"preset": preset})
        StageTracker(workspace, "ddpm", {}).start().finish()
        adaptation.log_results()
        adaptation.finish()
    names = [name for name, _ in runs(client, workspace)]
    assert sorted(names) == ["adaptation of workspace", "ddpm", "ddpm"]
    parent = dict(runs(client, workspace))["adaptation of workspace"]
    assert parent.data.params == {"preset": "demo"}
    assert parent.data.metrics == {
        "test_dice/round 1": 0.5,
        "test_dice/exported": 0.5,
        "test_dice/source-only": 0.25,
    }
    assert history(client, parent, "test_dice/exported") == [(0, 0.5)]
    assert {"report.html", "scores.json"} == {file.path for file in client.list_artifacts(parent.info.run_id)}


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


def test_a_bundle_is_registered_once_for_each_weights(workspace, client):
    bundle = workspace / "vessel_segmentation"
    (bundle / "models").mkdir(parents=True)
    (bundle / "configs").mkdir()
    (bundle / "configs" / "inference.json").write_text("{}")
    hashes = []
    for weights in ("first", "first", "second"):
        (bundle / "models" / "model.pt").write_text(weights)
        hashes.append(sha256(bundle / "models" / "model.pt"))
        adaptation = AdaptationTracker(workspace).start({})
        adaptation.log_bundle(bundle, "clinic A")
        adaptation.finish()
    versions = sorted(client.search_model_versions("name = 'clinic A'"), key=lambda version: int(version.version))
    assert [version.tags["weights_sha256"] for version in versions] == [hashes[0], hashes[2]]
    for version, weights in zip(versions, ("first", "second"), strict=True):
        folder = version.source.removeprefix("file://")
        with open(f"{folder}/models/model.pt") as file:
            assert file.read() == weights
        with open(f"{folder}/configs/inference.json") as file:
            assert file.read() == "{}"
        assert version.run_id == runs(client, workspace)[0][1].info.run_id


@pytest.mark.parametrize("name", ["", "a/b", "models:/x", "it's"])
def test_names_that_the_registry_would_refuse(name):
    with pytest.raises(InputError, match="registered_model"):
        check_model_name(name)
    assert check_model_name("Clinic A_2.1-b") == "Clinic A_2.1-b"


def test_a_resumed_stage_shows_all_rounds(workspace, client, monkeypatch):
    folder = workspace / "stages" / "co_optimization"
    for k in range(3):
        measures = {"consistency": 0.1 * k, "threshold": 0.5}
        start = {"candidates": {"mined": measures, "negated": {"consistency": 0.7}}} if k == 0 else {}
        save_json({"round": k, "measures": measures, **start}, folder / f"round_{k:02d}" / "measures.json")
    write_losses(folder / "round_02" / "generator" / "losses.csv", (2, 0.9), (4, 0.8))
    write_losses(folder / "round_02" / "segmenter" / "losses.csv", (2, 0.7))
    (folder / "round_02" / "preview.png").write_bytes(b"picture")
    monkeypatch.setattr("monai_vessel_uda.engines.rounds.save_round_preview", lambda folder, target: None)
    tracker = StageTracker(workspace, "co_optimization", {}).start()
    RoundTracking(tracker, [])(2, {"consistency": 0.2}, folder / "round_02")
    tracker.finish()
    by_name = dict(runs(client, workspace))
    stage, second = by_name["co_optimization"], by_name["round 2"]
    assert history(client, stage, "consistency") == [(0, 0.0), (1, 0.1), (2, 0.2)]
    assert stage.data.metrics["start_consistency/negated"] == 0.7
    assert second.data.tags["mlflow.parentRunId"] == stage.info.run_id
    assert history(client, second, "generator_loss") == [(2, 0.9), (4, 0.8)]
    assert history(client, second, "segmenter_loss") == [(2, 0.7)]
    assert [file.path for file in client.list_artifacts(second.info.run_id)] == ["preview.png"]
