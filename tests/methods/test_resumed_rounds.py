"""Rounds that are continued end with the same bits."""

import shutil

import pytest

from monai_vessel_uda.methods.confidence import ConfidentCentres

from .rounds import CONCLUSION, REFINEMENTS, Rounds, contents, modified


def continued(finished, folder, *removed):
    """The same rounds over a copy of their folder in which something is missing."""
    shutil.copytree(finished.folder / "rounds", folder / "rounds")
    for name in removed:
        path = folder / "rounds" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return Rounds(folder, refinements=REFINEMENTS, **finished.options)


def test_finished_rounds_are_skipped_and_nothing_is_written_again(finished, tmp_path):
    again = continued(finished, tmp_path)
    before = modified(tmp_path / "rounds")
    again.run()
    assert (again.log, again.told) == ([], []), "no network is asked"
    after = modified(tmp_path / "rounds")
    assert {path.name for path in before if before[path] != after[path]} <= CONCLUSION
    assert contents(tmp_path / "rounds") == contents(finished.folder / "rounds")


def test_a_further_round_continues_where_the_last_ended(finished, tmp_path):
    more = continued(finished, tmp_path, "round_02", *CONCLUSION)
    before = modified(tmp_path / "rounds")
    more.run()
    assert more.told == [2]
    after = modified(tmp_path / "rounds")
    assert {path: after[path] for path in before} == before
    assert contents(tmp_path / "rounds") == contents(finished.folder / "rounds")


@pytest.mark.parametrize(
    ("step", "fine_tunings"), [("train_generator", 1), ("train_segmenter", 0)], ids=["fine-tuning", "refining"]
)
def test_an_interrupted_round_continues_after_its_last_step(finished, tmp_path, monkeypatch, step, fine_tunings):
    def killed(**arguments):
        raise KeyboardInterrupt

    part = continued(finished, tmp_path / "part", "round_02", *CONCLUSION)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(part.rounds, step, killed)
        part.run()
    rest = continued(part, tmp_path / "rest")
    rest.run()
    assert len(rest.of("fine-tune")) == fine_tunings
    assert len(rest.of("refine")) == 1
    assert contents(tmp_path / "rest" / "rounds") == contents(finished.folder / "rounds")


@pytest.mark.parametrize(
    "options",
    [{"ensemble": 2}, {"confident": ConfidentCentres((16, 16), 0.5)}, {"with_mined": True}],
    ids=["ensemble", "sure patches", "mined pairs"],
)
def test_rounds_with_other_training_sets_are_continued_alike(tmp_path, monkeypatch, options):
    whole = Rounds(tmp_path / "whole", refinements=REFINEMENTS, **options)
    whole.run()
    part = continued(whole, tmp_path / "part", "round_02/segmenter", "round_02/pairs", "round_02/measures.json")
    part.run()
    assert len(part.of("fine-tune")) == 0
    assert contents(tmp_path / "part" / "rounds") == contents(tmp_path / "whole" / "rounds")
