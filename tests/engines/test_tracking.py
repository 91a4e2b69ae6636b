"""Tracking in the workspace's own SQLite store; against a server: tests/end_to_end/test_mlflow_server.py."""

import subprocess
import sys

import ignite.distributed as idist
from ignite.engine import Engine, Events

from monai_vessel_uda.engines.adaptation_tracking import AdaptationTracker
from monai_vessel_uda.engines.tracking import StageTracker
from monai_vessel_uda.engines.tracking_store import workspace_store
from monai_vessel_uda.files import load_json

from .conftest import history, runs, write_losses


def test_parameters_metrics_and_config_of_a_stage(workspace, client):
    settings = {"domain": "target", "patch_size": 32, "generator_def#channels": [8, 16]}
    settings["augmentation"] = {"noise": 0.3, "blur": [0.3, 1.2]}
    tracker = StageTracker(workspace, "ddpm", settings).start()
    tracker.log_metrics({"distance": 0.5, "missing": None, "degenerate": float("inf"), "FDA (amplitude)": 1.0})
    tracker.log_config({"iterations": 4, "trainer": {"_target_": "x.y"}})
    tracker.finish()
    (_, run), (_, parent) = runs(client, workspace)
    logged = {"domain": "target", "patch_size": "32", "generator_def/channels": "[8, 16]"}
    assert run.data.params == {**logged, "augmentation/noise": "0.3", "augmentation/blur": "[0.3, 1.2]"}
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
        "import sys; from monai_vessel_uda.engines.adaptation_tracking import AdaptationTracker;"
        "from monai_vessel_uda.engines.tracking import StageTracker;"
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


def test_a_store_lost_on_the_way_is_one_warning_and_no_gap_in_the_losses(workspace, client, caplog, monkeypatch):
    losses = write_losses(workspace / "losses.csv", (2, 0.9))
    tracker = StageTracker(workspace, "ddpm", {"seed": 3}).start()
    tracker.log_losses(losses)
    store = workspace_store(workspace)
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
