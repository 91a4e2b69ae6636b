"""Device and precision as asked for, from the generators to the masks; on a GPU with ``GPU_TESTS=1 pytest -m gpu``."""

import pytest
import torch

from monai_vessel_uda import pipeline, scoring, segmenter
from monai_vessel_uda.files import load_json, sha256

from ..conftest import TINY

ON_GPU = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, and GPU_TESTS=1"),
)


@pytest.mark.parametrize(
    ("device", "amp"),
    [("cpu", True), pytest.param("cuda", False, marks=ON_GPU), pytest.param("cuda", True, marks=ON_GPU)],
)
def test_adapts_scores_and_segments(workspace, adapted, phantoms, tmp_path, monkeypatch, device, amp):
    scored_on = []

    def evaluate(*arguments, overrides, **options):
        scored_on.append(overrides["device"])
        return segmenter.evaluate(*arguments, overrides=overrides, **options)

    monkeypatch.setattr(scoring, "evaluate", evaluate)
    bundle = pipeline.adapt(workspace, "demo", {**TINY, "rounds": 1, "amp": amp}, baselines=False, device=device)
    assert set(scored_on) == {f"$torch.device('{device}')"}
    for stage in ("ddpm_source", "segmenters/aligned"):
        weights = f"stages/{stage}/weights.pt"
        assert sha256(workspace / weights) != sha256(adapted / weights), "not what float32 on a CPU gives"
    assert all(0 <= row["scores"]["dice"]["mean"] <= 1 for row in load_json(workspace / "scores.json")["rows"])
    masks = segmenter.segment(phantoms["evaluation"] / "images", tmp_path / "masks", bundle, device=device)
    assert len([path for path in masks.rglob("*") if path.is_file()]) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, and GPU_TESTS=1")
def test_imports_a_generator(workspace, tmp_path):
    pytest.importorskip("generative", reason="needs the extra 'generative' (monai-generative)")
    from ..parity.library import NETWORK, generative_unet

    torch.save(generative_unet(8, 4, **NETWORK).state_dict(), tmp_path / "source.pth")
    folder = pipeline.import_generator(workspace, tmp_path / "source.pth", "source", "demo", TINY, device="cuda")
    assert load_json(folder / "stage.json")["results"]["noise_prediction_error"] > 0.5
