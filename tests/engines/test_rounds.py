"""How the rounds of co-optimisation are tracked."""

from monai_vessel_uda.engines.rounds import RoundTracking
from monai_vessel_uda.engines.tracking import StageTracker
from monai_vessel_uda.files import save_json

from .conftest import history, runs, write_losses


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
