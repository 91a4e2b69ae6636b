"""The whole adaptation on tiny phantoms: what it leaves behind and how it refuses bad input."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from monai_vessel_uda import pipeline, preparation
from monai_vessel_uda.data.images import read_image
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.files import load_json, load_tensors, save_json, working_alone
from monai_vessel_uda.settings import bundle_folder, preset_overrides

from ..conftest import TINY


def test_scores_of_every_baseline_and_round(adapted):
    scores = load_json(adapted / "scores.json")
    names = [row["name"] for row in scores["rows"]]
    assert names == [
        "source-only",
        "source-negated",
        "source matched to target histograms",
        "Fourier amplitude swap (FDA)",
        "aligned, no diffusion",
        "first generation",
        "round 1",
        "round 2",
        "upper bound (target masks)",
    ]
    for row in scores["rows"]:
        assert 0 <= row["scores"]["dice"]["low"] <= row["scores"]["dice"]["mean"] <= row["scores"]["dice"]["high"] <= 1
    (exported,) = (row for row in scores["rows"] if row["exported"])
    for row in scores["rows"]:
        difference = row.get("exported_minus", {}).get("dice", {"mean": 0.0})
        assert difference["mean"] == pytest.approx(exported["scores"]["dice"]["mean"] - row["scores"]["dice"]["mean"])
        assert ("exported_minus" in row) != row["exported"]
    assert "source-negated" in (adapted / "scores.md").read_text()
    assert (adapted / "scores.csv").read_text().count("\n") >= 10
    assert (adapted / "report.html").stat().st_size > 10_000


def test_pictures_and_measures_are_left(adapted):
    stages = adapted / "stages"
    for picture in (
        "ddpm_source/samples.png",
        "ddpm_target/samples.png",
        "latent_mining/preview.png",
        "co_optimization/round_01/preview.png",
        "co_optimization/round_02/preview_pseudo_masks.png",
        "co_optimization/preview_example.png",
    ):
        assert np.asarray(read_image(stages / picture).array).std() > 5, picture
    mined = load_json(stages / "latent_mining" / "measures.json")
    assert {"source_intensity_euclidean", "mined_intensity_cosine", "mined_feature_distance", "corrected"} <= set(mined)
    rounds = load_json(stages / "co_optimization" / "rounds.json")
    assert rounds["started_from"] in ("mined", "aligned", "matched", "negated")
    assert set(rounds["rounds"][0]["scores"]) == {"mined", "aligned", "matched", "negated"}
    assert [record["chosen"] for record in rounds["rounds"]].count(True) == 1
    assert all("worse_than_before" in record for record in rounds["rounds"][1:])


def test_every_segmenter_brings_the_threshold_that_its_masks_are_cut_with(adapted):
    stages = adapted / "stages"
    rounds = load_json(stages / "co_optimization" / "rounds.json")
    for record in rounds["rounds"][:-1]:
        folders = [stages / "co_optimization" / f"round_{record['round'] + step:02d}" for step in (0, 1)]
        threshold = load_json(folders[0] / "segmenter" / "weights.json")["threshold"]
        assert threshold == record["measures"]["threshold"]
        # the next round's pseudo-masks are what this segmenter marks at its own threshold
        masks = load_tensors(folders[1] / "pseudo_masks.pt")
        fraction = sum(float(mask.float().mean()) for mask in masks) / len(masks)
        assert fraction == pytest.approx(record["measures"]["vessel_fraction"], abs=1e-6)
    exported = load_json(adapted / "vessel_segmentation" / "models" / "model.json")
    assert exported["threshold"] == rounds["rounds"][rounds["exported_round"]]["measures"]["threshold"]
    for name in ("raw", "aligned", "supervised"):
        folder = stages / "segmenters" / name
        assert load_json(folder / "evaluation.json")["threshold"] == load_json(folder / "weights.json")["threshold"]


def test_latents_are_floats_not_levels_of_grey(adapted):
    shard = torch.load(adapted / "stages" / "latent_mining" / "pairs" / "00000.pt", weights_only=True)
    assert shard["latent"].dtype == torch.float32
    levels = shard["latent"] * 127.5 + 127.5
    assert ((levels - levels.round()).abs() > 0.01).float().mean() > 0.9
    assert shard["image"].abs().max() <= 1
    assert set(shard["label"].unique().tolist()) <= {0, 1}


def test_tracking_has_one_parent_and_one_child_for_each_stage_and_round(adapted):
    from mlflow.tracking import MlflowClient

    from monai_vessel_uda.engines.tracking_store import EXPERIMENT, store_uri

    client = MlflowClient(store_uri(adapted))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id])
    parents = {run.info.run_id: run.data.tags.get("mlflow.parentRunId") for run in runs}
    roots = [run for run, parent in parents.items() if parent is None]
    assert len(roots) == 1
    named = {run.info.run_name.split(" 20")[0]: run for run in runs}
    stages = {"ddpm_source", "ddpm_target", "latent_mining", "segmenter_mined", "segmenter_aligned", "co_optimization"}
    assert stages <= set(named)
    assert all(parents[named[stage].info.run_id] == roots[0] for stage in stages)
    assert parents[named["round 2"].info.run_id] == named["co_optimization"].info.run_id
    assert "loss" in named["ddpm_source"].data.metrics
    assert named["ddpm_source"].data.params["patch_size"] == "32"
    assert "boundary_contrast" in named["round 1"].data.metrics
    artifacts = [artifact.path for artifact in client.list_artifacts(named["ddpm_target"].info.run_id)]
    assert "samples.png" in artifacts


def test_finished_stages_are_skipped(adapted, tmp_path):
    workspace = Path(shutil.copytree(adapted, tmp_path / "again"))
    before = {path: path.stat().st_mtime_ns for path in workspace.glob("stages/**/*.pt")}
    assert len([path for path in before if path.name == "weights.pt"]) > 11
    pipeline.adapt(workspace, "demo", {**TINY, "track": False}, device="cpu")
    assert {path: path.stat().st_mtime_ns for path in workspace.glob("stages/**/*.pt")} == before


def test_other_settings_for_a_finished_stage_are_refused(adapted, tmp_path):
    workspace = Path(shutil.copytree(adapted, tmp_path / "other"))
    before = (workspace / "settings.json").read_text()
    with pytest.raises(InputError, match="iterations: 4 then, 6 now"):
        pipeline.adapt(workspace, "demo", {**TINY, "iterations": 6}, device="cpu")
    with pytest.raises(InputError, match="rounds: 2 then, 1 now"):  # of the last stage, before the first is looked at
        pipeline.adapt(workspace, "demo", {**TINY, "rounds": 1}, device="cpu")
    assert (workspace / "settings.json").read_text() == before


def test_a_finished_adaptation_that_is_asked_for_another_round_runs_that_one_alone(adapted, tmp_path, caplog):
    workspace = Path(shutil.copytree(adapted, tmp_path / "more"))
    caplog.set_level("INFO", "monai_vessel_uda")
    before = {path: path.stat().st_mtime_ns for path in workspace.glob("stages/**/*.pt")}
    pipeline.adapt(workspace, "demo", {**TINY, "rounds": 3, "track": False}, device="cpu")
    concluded = workspace / "stages" / "co_optimization" / "weights.pt"
    after = {path: path.stat().st_mtime_ns for path in before if path != concluded}
    example = "stages/co_optimization/preview_example.png"
    assert (workspace / example).stat().st_mtime_ns > (adapted / example).stat().st_mtime_ns
    assert after.items() <= before.items()
    rounds = load_json(concluded.with_name("rounds.json"))
    assert [record["round"] for record in rounds["rounds"]] == [0, 1, 2, 3]
    assert load_json(workspace / "settings.json")["settings"]["rounds"] == 3
    rows = load_json(workspace / "scores.json")["rows"]
    assert "round 3" in [row["name"] for row in rows]
    assert {line.split(":")[0] for line in caplog.messages if line.startswith("evaluating")} == {"evaluating round 3"}
    assert sum(row["exported"] for row in rows) == 1
    exported = load_json(workspace / "vessel_segmentation" / "configs" / "metadata.json")["provenance"]
    assert (exported["round"], exported["settings"]["rounds"]) == (rounds["exported_round"], 3)


def test_what_was_made_from_weights_that_are_others_now_is_refused(adapted, tmp_path):
    workspace = Path(shutil.copytree(adapted, tmp_path / "other"))
    shutil.rmtree(workspace / "stages" / "ddpm_source")
    shutil.copytree(workspace / "stages" / "ddpm_target", workspace / "stages" / "ddpm_source")
    mark = workspace / "stages" / "ddpm_source" / "stage.json"
    shutil.copy2(adapted / "stages" / "ddpm_source" / "stage.json", mark)
    with pytest.raises(InputError, match="latent_mining: .* finished with another ddpm_source/weights.pt"):
        pipeline.adapt(workspace, "demo", {**TINY, "track": False}, device="cpu")


def test_masks_that_were_corrected_after_preparing_are_noticed(adapted, phantoms, tmp_path):
    copies = {name: Path(shutil.copytree(folder, tmp_path / name)) for name, folder in phantoms.items()}
    text = (adapted / "manifest.json").read_text()
    for name, folder in copies.items():
        text = text.replace(str(phantoms[name]), str(folder))
    workspace = Path(shutil.copytree(adapted, tmp_path / "other"))
    (workspace / "manifest.json").write_text(text)
    first, second = sorted((copies["evaluation"] / "labels").glob("*.png"))[:2]
    shutil.copy(second, first)
    with pytest.raises(InputError, match=first.name):
        pipeline.adapt(workspace, "demo", {**TINY, "track": False}, device="cpu")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"rounds": 0}, "rounds"),
        ({"t0": 6}, "t0"),
        ({"iterations": 3}, "iterations"),
        ({"itterations": 4}, "did you mean 'iterations'"),
        ({"start_segmenter": ["mined", "raw"]}, "start_segmenter: 'raw' is one of the baselines"),
        ({"generator_def#norm_num_groups": 7}, "generator_def: .* multiple of norm_num_groups"),
        ({"segmenter_def#channels": [8]}, "segmenter_def: .*channels"),
        ({"patch_size": 640}, "at the working resolution, less than half a patch; .* at most 138"),
    ],
)
def test_bad_settings(workspace, overrides, message):
    with pytest.raises(InputError, match=message):
        pipeline.adapt(workspace, "demo", {**TINY, **overrides}, baselines=False, device="cpu")
    assert not (workspace / "vessel_segmentation").exists()


def test_two_adaptations_of_one_workspace_at_once_are_refused(workspace):
    with working_alone(workspace):
        before = {path: path.stat().st_mtime_ns for path in workspace.rglob("*")}
        with pytest.raises(InputError, match=f"^{workspace}: another command works in this folder"):
            pipeline.adapt(workspace, "demo", TINY, device="cpu")
        assert {path: path.stat().st_mtime_ns for path in workspace.rglob("*")} == before


def test_preparing_a_workspace_in_which_another_command_works_is_refused(workspace, phantoms):
    before = (workspace / "manifest.json").read_bytes()
    with working_alone(workspace), pytest.raises(InputError, match="another command works in this folder"):
        preparation.prepare(workspace, [phantoms["source"]], phantoms["target"], seed=9)
    assert (workspace / "manifest.json").read_bytes() == before


def test_masks_that_cannot_be_scored_are_refused_before_anything_is_trained(phantoms, tmp_path):
    evaluation = shutil.copytree(phantoms["evaluation"], tmp_path / "evaluation")
    mask = next((evaluation / "labels").iterdir())
    classes = np.arange(3, dtype=np.uint8).repeat(40).reshape(1, -1)  # background, arteries, veins
    Image.fromarray(np.resize(classes, read_image(mask).array.shape[:2])).save(mask)
    workspace = tmp_path / "workspace"
    preparation.prepare(workspace, [phantoms["source"]], phantoms["target"], evaluation)
    with pytest.raises(InputError, match=mask.name):
        pipeline.adapt(workspace, "demo", TINY, device="cpu")
    assert not (workspace / "stages").exists()


def test_an_adaptation_continues_with_the_options_that_it_was_begun_with(workspace, monkeypatch):
    asked = []

    def stages(*arguments):
        asked.append(arguments)
        raise InputError("enough")

    monkeypatch.setattr(pipeline, "stages", stages)
    save_json({"preset": "demo", "settings": TINY, "baselines": False}, workspace / "settings.json")
    for baselines in (None, True):
        with pytest.raises(InputError, match="enough"):
            pipeline.adapt(workspace, baselines=baselines, device="cpu")
    assert [baselines for baselines, _ in asked] == [False, True]
    save_json({"preset": "demo", "settings": TINY, "registered_model": "a/b"}, workspace / "settings.json")
    with pytest.raises(InputError, match="a/b"):
        pipeline.adapt(workspace, device="cpu")


def test_an_adaptation_works_alone_until_it_ends(adapted, tmp_path, monkeypatch):
    workspace = Path(shutil.copytree(adapted, tmp_path / "workspace"))
    refused, report = [], pipeline.score

    def score(*arguments):
        with pytest.raises(InputError, match="another command"), working_alone(workspace):
            pass
        refused.append(True)
        report(*arguments)

    monkeypatch.setattr(pipeline, "score", score)
    pipeline.adapt(workspace, "demo", {**TINY, "track": False}, device="cpu")
    assert refused
    with working_alone(workspace):
        pass


def published_sizes(nominal_scale_of_hrf):
    """What a manifest of FIVES, HRF and CHASE_DB1 with ROSSA as the target holds of sizes and scales."""
    scales = {"FIVES": (0.2001, 0.1613), "HRF": (0.2577, nominal_scale_of_hrf), "CHASE_DB1": (0.4149, 0.3532)}
    sizes = {"FIVES": [2048, 2048], "HRF": [2336, 3504], "CHASE_DB1": [960, 999]}
    datasets = {name: {"scale": scale, "nominal_scale": nominal} for name, (scale, nominal) in scales.items()}
    rossa = [{"image": "rossa.png", "dataset": "ROSSA", "size": [320, 320]}]
    return {
        "preprocessing": {"source": {"datasets": datasets}, "target": {"scale": 1.0}},
        "source": [{"image": f"{name}.jpg", "dataset": name, "size": size} for name, size in sizes.items()],
        **{name: rossa for name in ("target", "supervised", "evaluation")},
    }


@pytest.mark.parametrize("preset", ["demo", "small", "full", "paper"])
def test_every_preset_takes_the_published_data_sets(preset):
    config = load_json(bundle_folder("latent_mining") / "configs" / "mine.json")
    patch_size = preset_overrides(preset).get("patch_size", config["patch_size"])
    pipeline._check_sizes(published_sizes(0.0995), ["raw", "supervised"], patch_size)


def test_images_smaller_than_half_a_patch_are_refused():
    with pytest.raises(
        InputError, match="HRF.jpg: 175 x 117 pixels at the working resolution, less than half a patch; .* at most 234"
    ):
        pipeline._check_sizes(published_sizes(0.05), [], 256)
    manifest = published_sizes(0.0995)
    manifest["preprocessing"]["target"]["scale"] = 0.79
    with pytest.raises(InputError, match="rossa.png: 253 x 253 pixels"):
        pipeline._check_sizes(manifest, [], 256)


def test_gpu_where_there_is_none(workspace, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no GPU"):
        pipeline.adapt(workspace, "demo", TINY, device="cuda")


def test_workspace_of_another_version(workspace):
    manifest = load_json(workspace / "manifest.json")
    save_json({**manifest, "version": 99}, workspace / "manifest.json")
    with pytest.raises(InputError, match="version"):
        pipeline.adapt(workspace, "demo", TINY, device="cpu")


def test_changed_files_are_noticed(phantoms, tmp_path):
    copies = {name: shutil.copytree(folder, tmp_path / name) for name, folder in phantoms.items()}
    preparation.prepare(tmp_path / "workspace", [copies["source"]], copies["target"], seed=3)
    victim = sorted((copies["target"] / "images").glob("*.png"))[0]
    donor = sorted((copies["evaluation"] / "images").glob("*.png"))[0]
    shutil.copy(donor, victim)
    with pytest.raises(InputError, match=victim.name):
        pipeline.adapt(tmp_path / "workspace", "demo", TINY, device="cpu")


def test_a_path_with_a_hash_sign_is_refused(phantoms, tmp_path):
    with pytest.raises(InputError, match="#"):
        preparation.prepare(tmp_path / "d#1", [phantoms["source"]], phantoms["target"])


def test_preparing_over_an_adaptation_is_refused(adapted, phantoms, tmp_path):
    workspace = Path(shutil.copytree(adapted, tmp_path / "w"))
    with pytest.raises(InputError, match="earlier adaptation"):
        preparation.prepare(workspace, [phantoms["source"]], phantoms["target"])
