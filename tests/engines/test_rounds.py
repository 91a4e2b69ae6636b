"""How the rounds of co-optimisation are tracked."""

import numpy as np
import pytest
import torch
from PIL import Image

from monai_vessel_uda.engines.rounds import RoundTracking
from monai_vessel_uda.engines.tracking import StageTracker
from monai_vessel_uda.files import save_json, save_tensors
from monai_vessel_uda.methods.co_optimization import save_round_preview

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


@pytest.mark.parametrize(("masks", "grey"), [(torch.tensor([0, 1]).byte(), 255), (torch.tensor([0.0, 0.4]), 102)])
def test_pseudo_masks_are_drawn_on_black_whether_hard_or_soft(tmp_path, masks, grey):
    mask = masks.repeat_interleave(8).expand(1, 16, 16).contiguous()
    save_tensors([mask], tmp_path / "pseudo_masks.pt")
    save_round_preview(tmp_path, [{"image": torch.zeros(1, 16, 16)}])
    drawn = np.asarray(Image.open(tmp_path / "preview_pseudo_masks.png").convert("L"))[:, -18:]
    assert {0, grey} <= set(np.unique(drawn[2:-2, 2:-2])) <= {0, grey}
