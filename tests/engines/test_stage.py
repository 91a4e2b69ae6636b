import csv
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from monai_vessel_uda.engines.rounds import candidate_weights
from monai_vessel_uda.engines.segmentation import (
    Measurements,
    SaveVesselsd,
    images_to_evaluate,
    images_to_segment,
    model_transforms,
)
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


def test_what_to_segment_and_to_evaluate(tmp_path):
    with pytest.raises(InputError, match="no such"):
        images_to_segment(tmp_path / "nowhere")
    with pytest.raises(InputError, match="found none"):
        images_to_segment(tmp_path)
    with pytest.raises(InputError, match="either a folder"):
        images_to_evaluate()
    with pytest.raises(InputError, match="either a folder"):
        images_to_evaluate(tmp_path, tmp_path)


def test_results_of_an_earlier_run_are_not_segmented(tmp_path):
    for name in ("a.png", "a_vessels.png", "a_probability.tif", "a_overlay.png", "b_vessels.png", "sub/a_vessels.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert [item["id"] for item in images_to_segment(tmp_path)] == ["a", "b_vessels"]
    assert [item["id"] for item in images_to_segment(tmp_path / "a_vessels.png")] == ["a_vessels"]
    for name in ("out/a_vessels.png", "out/sub/a_overlay.png", ".writing-x/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("")
    for results in ("out", "out2", "", "elsewhere"):
        assert len(images_to_segment(tmp_path, tmp_path / results)) == 2, "wherever results of any run went"
    (tmp_path / "sub" / "b.png").write_text("")
    (tmp_path / "out" / "sub" / "b_vessels.png").write_text("")
    assert [item["id"] for item in images_to_segment(tmp_path, tmp_path / "out2")] == ["a", "b_vessels", "b"]


def test_folders_behind_links_are_searched_once(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "b.png").write_text("")
    (images / "a.png").write_text("")
    (images / "link").symlink_to(tmp_path / "else", target_is_directory=True)
    (images / "round").symlink_to(images, target_is_directory=True)
    (images / "broken.png").symlink_to(tmp_path / "gone.png")
    assert [item["id"] for item in images_to_segment(images)] == ["a", "b"]


def test_results_of_images_behind_a_link_lie_where_the_link_does(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "else").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "else" / "b.png")
    (tmp_path / "images" / "link").symlink_to(tmp_path / "else", target_is_directory=True)
    (item,) = images_to_segment(tmp_path / "images", tmp_path / "out")
    result = {"pred": torch.ones(1, 8, 8), "fov": torch.ones(1, 8, 8)}
    SaveVesselsd(tmp_path / "out", tmp_path / "images", overlay=False)({"file": item["image"], **result})
    assert (tmp_path / "out" / "link" / "b_vessels.png").exists()


def test_measurements_count_the_field_of_view_alone(tmp_path):
    """Found at the working resolution, here half the image's own; an image in a sub-folder is named with it."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    path = tmp_path / "in" / "sub" / "a.png"
    Image.fromarray(np.zeros((40, 80), np.uint8)).save(path)
    logit, fov = torch.full((1, 20, 40), -9.0), torch.zeros(1, 20, 40, dtype=torch.uint8)
    logit[:, 8:10] = 9
    fov[..., :20] = 1
    table = Measurements(tmp_path / "out")
    table.save()
    assert not table.path.exists()
    SaveVesselsd(tmp_path / "out", tmp_path / "in", measurements=table)({"file": str(path), "pred": logit, "fov": fov})
    table.save()
    (row,) = csv.DictReader(table.path.read_text().splitlines())
    assert (row["image"], row["area_px"], row["vessel_area_density"]) == ("sub/a.png", "1600", "0.1")
    assert row["vessel_diameter_index_um"] == ""


def test_one_image_may_get_its_mask_beside_it(tmp_path):
    (tmp_path / "a.png").write_text("")
    assert [item["id"] for item in images_to_segment(tmp_path / "a.png", tmp_path)] == ["a"]


@pytest.mark.parametrize(
    ("suffix", "probability", "message"),
    [
        (".jpg", False, "NAME_vessels.jpg: .jpg changes pixel values"),
        ("png", False, "NAME_vesselspng: cannot write this format"),
        (".gif", True, "NAME_probability.gif: .gif cannot hold probabilities"),
        (".dcm", False, "results are not written as DICOM"),
    ],
)
def test_formats_that_cannot_hold_results_are_refused_at_once(tmp_path, suffix, probability, message):
    with pytest.raises(InputError, match=message):
        SaveVesselsd(tmp_path, tmp_path, probability=probability, suffix=suffix)


@pytest.mark.parametrize(("suffix", "probability"), [(".gif", False), (".bmp", True), (".nii.gz", True), (None, True)])
def test_formats_that_hold_results(tmp_path, suffix, probability):
    assert SaveVesselsd(tmp_path, tmp_path, probability=probability, suffix=suffix).suffix == suffix


def test_a_model_without_preprocessing_is_refused():
    with pytest.raises(InputError, match="preprocessing"):
        model_transforms({})
    with pytest.raises(InputError, match="scale"):
        model_transforms({"preprocessing": {"target": {}}}, scale=0)
