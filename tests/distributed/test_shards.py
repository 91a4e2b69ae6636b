"""What two processes share out comes together to the bits of one process."""

from pathlib import Path

import pytest
import torch

from monai_vessel_uda.engines.stage import MARK

from .launch import copy_without, losses, run_bundle

NOT_THE_STAGES = {MARK, "evaluation.json"}
"""Files with times in them, and those that the scoring adds."""


def files_below(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in NOT_THE_STAGES
    }


def assert_same_files(got, expected):
    got, expected = files_below(got), files_below(expected)
    assert got.keys() == expected.keys()
    assert not [str(name) for name in expected if got[name] != expected[name]]


@pytest.mark.slow
def test_mined_pairs_are_those_of_a_single_process(adapted, tmp_path):
    workspace = copy_without(adapted, tmp_path / "workspace", "latent_mining")
    result = run_bundle("latent_mining", "mine.json", "multi_gpu_mine.json", workspace=workspace)
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(list((workspace / "stages" / "latent_mining" / "pairs").glob("*.pt"))) > 1
    assert_same_files(workspace / "stages" / "latent_mining", adapted / "stages" / "latent_mining")


@pytest.mark.slow
def test_rounds_are_those_of_a_single_process(adapted, tmp_path):
    """Two processes continue a stage that one began: what round 1 computes with its networks is the same to the bit.

    Round 2 is trained anew, so its weights and losses differ by rounding.
    """
    computed = ("pseudo_masks.pt", "measures.json", "pairs/*", "*.png")
    removed = [f"co_optimization/round_01/{name}" for name in computed]
    removed += [f"co_optimization/{name}" for name in ("round_00/measures.json", "round_02/*", "rounds.json", MARK)]
    workspace = copy_without(adapted, tmp_path / "workspace", *removed)
    result = run_bundle("co_optimization", "train.json", "multi_gpu_train.json", workspace=workspace)
    assert result.returncode == 0, result.stderr[-3000:]
    got, expected = (folder / "stages" / "co_optimization" for folder in (workspace, adapted))
    for name in ("round_00", "round_01"):
        assert_same_files(got / name, expected / name)
    assert files_below(got).keys() == files_below(expected).keys()
    for training in ("generator", "segmenter"):
        folder = Path("round_02") / training
        torch.testing.assert_close(losses(got / folder), losses(expected / folder), atol=0, rtol=1e-5)
