import shutil

import pytest
import torch
from torch import nn

from monai_vessel_uda.engines.rounds import candidate_weights
from monai_vessel_uda.engines.stage import Stage, is_finished
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.files import load_json
from monai_vessel_uda.weights import save_weights


def stage(folder, **settings):
    return Stage(folder, "mining", folder / "stages" / "mining", {"sides": (3, 4), **settings}, tracking=False)


def is_done(stage):
    return is_finished(stage.output_dir, stage.settings, stage.inputs)


def test_finished_only_with_the_same_settings(tmp_path):
    assert not is_done(stage(tmp_path))
    begun = stage(tmp_path).start()
    (begun.output_dir / "checkpoint.pt").write_text("x")
    assert not is_done(stage(tmp_path))
    begun.finish({"pairs": 3})
    assert is_done(stage(tmp_path))
    assert not (begun.output_dir / "checkpoint.pt").exists()
    assert load_json(begun.output_dir / "stage.json")["results"] == {"pairs": 3}
    advice = "give those it was begun with .*settings.json.*; only to start anew, delete the folder$"
    with pytest.raises(InputError, match=f"finished with other settings .*steps.*; {advice}"):
        is_finished(begun.output_dir, {"sides": [3, 4], "steps": 9})


def test_an_unfinished_stage_is_not_continued_with_other_settings(tmp_path):
    first = stage(tmp_path, t0=5).start()
    stage(tmp_path, t0=5).start().finish()
    assert load_json(first.output_dir / "stage.json")["continued"] is True
    (first.output_dir / "stage.json").unlink()
    with pytest.raises(InputError, match="begun with other settings .*t0: 5 then, 6 now"):
        stage(tmp_path, t0=6).start()


def test_a_finished_stage_is_not_run_again(tmp_path):
    first = stage(tmp_path).start()
    first.finish()
    assert load_json(first.output_dir / "stage.json")["continued"] is False
    with pytest.raises(InputError, match="stages/mining: this stage was finished before .*, delete the folder$"):
        stage(tmp_path).start()
    shutil.rmtree(first.output_dir)
    imported = stage(tmp_path).start()
    imported.finish({"imported_from": {"file": "theirs.pt"}})
    with pytest.raises(InputError, match="imported from theirs.pt, .* to train one instead, delete the folder$"):
        stage(tmp_path).start()
    assert is_done(imported)


def test_a_finished_stage_that_is_asked_for_more_rounds_is_continued_and_for_fewer_refused(tmp_path):
    stage(tmp_path, rounds=4).start().finish()
    more = stage(tmp_path, rounds=6)
    assert not is_done(more)
    more.start()
    assert is_done(stage(tmp_path, rounds=4)), "the mark counts until the rest is done"
    with pytest.raises(InputError, match="finished with other settings .sides: .3, 4. then, .3, 5. now"):
        stage(tmp_path, rounds=6, sides=(3, 5)).start()
    more.finish()
    assert is_done(stage(tmp_path, rounds=6))
    assert load_json(more.output_dir / "stage.json")["continued"] is True
    with pytest.raises(InputError, match="finished with other settings .rounds: 6 then, 4 now"):
        is_done(stage(tmp_path, rounds=4))


def test_a_stage_whose_inputs_were_made_anew_is_out_of_date(tmp_path):
    """Weights are told by their hash, pairs by what determined their stage, wherever the workspace lies."""
    weights, pairs = tmp_path / "ddpm_target" / "weights.pt", tmp_path / "latent_mining" / "pairs"
    torch.manual_seed(0)
    save_weights(nn.Linear(2, 2), weights)
    mining = Stage(tmp_path, "latent_mining", pairs.parent, {"t0": 5}, [weights], tracking=False).start()
    pairs.mkdir()
    mining.finish()

    def rounds(folder=tmp_path):
        places = [folder / "ddpm_target" / "weights.pt", folder / "latent_mining" / "pairs", folder / "ours" / "pairs"]
        return Stage(folder, "rounds", folder / "rounds", {}, places, tracking=False)

    rounds().start()
    rounds().start().finish()
    assert is_done(rounds())
    shutil.copytree(tmp_path, tmp_path / "elsewhere")
    assert is_done(rounds(tmp_path / "elsewhere"))

    save_weights(nn.Linear(2, 2), weights)
    with pytest.raises(InputError, match="finished with another ddpm_target/weights.pt; put that back, or, .* delete"):
        is_done(rounds())
    (mining.output_dir / "stage.json").unlink()
    with pytest.raises(InputError, match="begun with another ddpm_target/weights.pt"):
        Stage(tmp_path, "latent_mining", pairs.parent, {"t0": 5}, [weights], tracking=False).start()
    (mining.output_dir / "begun.json").unlink()
    Stage(tmp_path, "latent_mining", pairs.parent, {"t0": 5}, [weights], tracking=False).start().finish()
    with pytest.raises(InputError, match="finished with another ddpm_target/weights.pt, latent_mining/pairs"):
        is_done(rounds())


def test_candidates_are_all_there_in_order_of_preference(tmp_path):
    for name in ("negated", "mined"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.pt").write_text("")
    assert list(candidate_weights(tmp_path, ["mined", "negated"])) == ["mined", "negated"]
    assert list(candidate_weights(tmp_path, ["negated"])) == ["negated"]
    left = r"none of aligned, matched; .*--training_set aligned.* out of start_segmenter"
    with pytest.raises(InputError, match=left):
        candidate_weights(tmp_path, ["mined", "aligned", "negated", "matched"])
    (tmp_path / "supervised").mkdir()
    (tmp_path / "supervised" / "weights.pt").write_text("")
    with pytest.raises(InputError, match="no target mask, got 'supervised'"):
        candidate_weights(tmp_path, ["mined", "supervised"])
