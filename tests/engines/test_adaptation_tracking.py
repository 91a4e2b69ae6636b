"""The parent run of an adaptation."""

from monai_vessel_uda.engines.adaptation_tracking import AdaptationTracker
from monai_vessel_uda.engines.tracking import StageTracker
from monai_vessel_uda.engines.tracking_store import workspace_store
from monai_vessel_uda.files import save_json

from .conftest import history, runs


def test_an_end_that_the_store_missed_is_made_up_for_by_the_adaptation(workspace, client, monkeypatch):
    adaptation = AdaptationTracker(workspace).start({"preset": "demo"})
    stage = StageTracker(workspace, "ddpm", {}).start()
    with monkeypatch.context() as outage:
        outage.setattr(workspace_store(workspace), "client", None)
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
