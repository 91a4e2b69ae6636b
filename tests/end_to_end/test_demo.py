"""The demo's seeds, one after the other and side by side, and that the method works on one of them."""

import os
import shutil

import pytest
import torch

from monai_vessel_uda import demo, pipeline
from monai_vessel_uda.errors import InputError


def test_one_table_for_all_seeds(tmp_path, monkeypatch, adapted):
    def adapt(workspace, preset):
        assert preset == "demo"
        shutil.copy(adapted / "scores.json", workspace / "scores.json")

    monkeypatch.setattr(pipeline, "adapt", adapt)
    table = demo.run_demo(tmp_path, seeds=[4, 5], jobs=1)
    assert table == (tmp_path / "demo.md").read_text()
    assert "| seed 4 | seed 5 |" in table
    assert "final (exported)" in table


def scored_elsewhere(folder, seed):
    """Stands for an adaptation: says where it ran, and that its Dice is its seed."""
    demo.logger.info("adapting")
    (folder / f"process_{seed}").write_text(f"{os.getpid()} {torch.get_num_threads()}")
    if seed == 9:
        raise InputError("seed_9: in the way")
    return {"rows": [{"name": "round 1", "exported": True, "scores": {"dice": {"mean": seed / 100}}}]}


def test_side_by_side(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(demo, "adapt_phantoms", scored_elsewhere)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    table = demo.run_demo(tmp_path, seeds=[4, 5], jobs=2)
    assert "| **final (exported)** | 4.0 | 5.0 |" in table
    processes, threads = zip(*((tmp_path / f"process_{seed}").read_text().split() for seed in (4, 5)), strict=True)
    assert str(os.getpid()) not in processes
    assert threads == ("2", "2"), "the threads are shared"
    assert {line[10:] for line in capfd.readouterr().err.splitlines()} >= {"seed 4: adapting", "seed 5: adapting"}


def test_an_error_side_by_side_reaches_the_caller(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "adapt_phantoms", scored_elsewhere)
    with pytest.raises(InputError, match="seed_9: in the way"):
        demo.run_demo(tmp_path, seeds=[4, 9], jobs=2)
    assert not (tmp_path / "demo.md").exists()


@pytest.mark.slow
def test_the_method_works(tmp_path, logging_restored):
    """A wrong sign or polarity somewhere leaves shapes alone, and ruins this.

    The seed gives 3.1 (source-only), 70.4 (negated), 68.7 (aligned), 71.0 (first generation) and 78.5 % (exported).
    """
    rows = demo.adapt_phantoms(tmp_path, 0)["rows"]
    dice = {row["name"]: row["scores"]["dice"]["mean"] for row in rows}
    (exported,) = (row["name"] for row in rows if row["exported"])
    assert exported.startswith("round ")
    assert dice["source-only"] < 0.1
    assert dice[exported] > 0.74
    assert dice[exported] - max(dice["source-negated"], dice["aligned, no diffusion"]) > 0.05
    assert dice[exported] > dice["first generation"]
