import pytest

from monai_vessel_uda import demo, pipeline, preparation, segmenter

SUMMARY = {"dice": {"mean": 0.5312, "low": 0.5, "high": 0.56, "n": 2}, "roc_auc": {"mean": None}}


@pytest.fixture(autouse=True)
def _logging_restored(logging_restored):
    """Every command sets logging up."""


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """What reached the functions behind the commands: (function, positional, keyword) for each call."""
    made = []
    functions = {
        "run_demo": (demo, "| Dice |"),
        "prepare": (preparation, tmp_path / "manifest.json"),
        "adapt": (pipeline, tmp_path / "vessel_segmentation"),
        "segment": (segmenter, tmp_path / "out"),
        "evaluate": (segmenter, {"per_image": [{}, {}], "summary": SUMMARY, "threshold": 0.5}),
    }

    def recorder(name, result):
        def record(*args, **kwargs):
            made.append((name, args, kwargs))
            return result

        return record

    for name, (module, result) in functions.items():
        monkeypatch.setattr(module, name, recorder(name, result))
    return made
