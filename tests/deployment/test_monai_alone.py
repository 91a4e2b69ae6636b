"""The exported bundle where MONAI is and this package is not: masks, scores, training on, and mistakes."""

import pickle
import shutil
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from monai_vessel_uda import segmenter
from monai_vessel_uda.data.images import read_mask
from monai_vessel_uda.deployment.archive import package_bundle
from monai_vessel_uda.deployment.exported_bundle import check_bundle
from monai_vessel_uda.files import load_json

from ..permissions import give_up_override
from .conftest import AFFINE, COLOUR, COLOUR_709, EVERY, GREY, INVERTED

THRESHOLD = 0.485
"""About the median probability of the barely trained segmenter, so that masks are neither empty nor full."""


def run_bundle(without_package, configs, cwd, processes=1, **overrides):
    arguments = [part for key, value in overrides.items() for part in (f"--{key}", str(value))]
    files = str(configs if isinstance(configs, Path) else [str(path) for path in configs])
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"] if processes > 1 else []
    return without_package("-m", *torchrun, "monai.bundle", "run", "--config_file", files, *arguments, cwd=cwd)


@pytest.mark.slow
def test_the_zip_alone_gives_the_masks_of_the_command_line_for_every_format(
    bundle, every_format, without_package, tmp_path
):
    """Unpacked, and run from another folder."""
    zipfile.ZipFile(package_bundle(bundle, tmp_path)).extractall(tmp_path / "zip")
    config = tmp_path / "zip" / "vessel_segmentation" / "configs" / "inference.json"
    run_bundle(without_package, config, tmp_path, dataset_dir=every_format, threshold=THRESHOLD)
    (tmp_path / "zip" / "vessel_segmentation" / "eval").rename(tmp_path / "monai")
    segmenter.segment(every_format, tmp_path / "ours", bundle, threshold=THRESHOLD, suffix=".png")
    theirs, ours = (
        {path.stem.removesuffix("_vessels"): read_mask(path) for path in (tmp_path / by).rglob("*.png")}
        for by in ("monai", "ours")
    )
    assert theirs.keys() == ours.keys() == EVERY, "all that have a suffix"
    for name in EVERY - COLOUR_709 - INVERTED:
        assert np.array_equal(theirs[name], ours[name]), name
    for names, reference in ((GREY, "grey"), (COLOUR, "luma"), (COLOUR_709, "luma_709")):
        assert theirs[reference].shape == (64, 50) and 0.05 < theirs[reference].mean() < 0.95
        for name in names:
            assert np.array_equal(theirs[name], theirs[reference]), name
    for names, reference in ((COLOUR_709 - {"luma_709"}, "luma"), (INVERTED, "grey")):
        for name in names:  # the differences that the bundle's page states
            assert np.array_equal(ours[name], ours[reference]) and not np.array_equal(theirs[name], ours[name]), name
    assert len({theirs[name].tobytes() for name in ("grey", "luma", "luma_709")}) == 3, "colours that cannot show it"
    assert theirs["wide"].shape == (40, 64)


@pytest.mark.slow
def test_geometry_survives(bundle, every_format, without_package, tmp_path):
    only = tmp_path / "in"
    only.mkdir()
    shutil.copy(every_format / "nifti.nii.gz", only)
    options = {"bundle_root": bundle, "dataset_dir": only, "output_dir": tmp_path / "out", "output_ext": ".nii.gz"}
    run_bundle(without_package, [bundle / "configs" / "inference.json"], tmp_path, threshold=THRESHOLD, **options)
    mask = nibabel.load(tmp_path / "out" / "nifti_vessels.nii.gz")
    assert np.allclose(mask.affine, AFFINE)
    segmenter.segment(only, tmp_path / "ours", bundle, threshold=THRESHOLD, suffix=".png")
    assert np.array_equal(np.asarray(mask.dataobj).T > 0, read_mask(tmp_path / "ours" / "nifti_vessels.png"))
    assert set(np.unique(mask.dataobj)) <= {0, 1}


@pytest.mark.slow
def test_evaluate_gives_the_dice_of_the_command_line(bundle, phantoms, without_package, tmp_path):
    configs = [bundle / "configs" / "inference.json", bundle / "configs" / "evaluate.json"]
    options = {"bundle_root": bundle, "dataset_dir": phantoms["evaluation"], "output_dir": tmp_path / "out"}
    run_bundle(without_package, configs, tmp_path, **options)
    rows = (tmp_path / "out" / "val_mean_dice_raw.csv").read_text().splitlines()[1:]
    ours = segmenter.evaluate(bundle, phantoms["evaluation"], tmp_path / "evaluation.json")
    expected = [row["scores"]["dice"] for row in ours["per_image"]]
    assert [float(row.split(",")[-1]) for row in rows] == pytest.approx(expected, abs=1e-5)
    assert "val_hausdorff_95" in (tmp_path / "out" / "metrics.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_fine_tuning_on_masks(copy, phantoms, without_package, tmp_path, processes):
    before = weights_of(copy)
    configs = training_configs(copy, processes)
    options = {"bundle_root": copy, "dataset_dir": phantoms["supervised"], "epochs": 1, "output_dir": tmp_path / "out"}
    run_bundle(without_package, configs, tmp_path, processes, **options)
    after = weights_of(copy)
    assert before.keys() == after.keys(), "without the prefixes of a wrapper"
    assert any(not torch.equal(before[name], after[name]) for name in before)
    check_bundle(copy)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_fine_tuning_keeps_what_it_began_with_if_nothing_is_better(
    copy, phantoms, without_package, tmp_path, processes
):
    """A sensible learning rate improves the Dice on ``val_images``; one that ruins the network changes nothing."""
    folder = shutil.copytree(phantoms["supervised"], tmp_path / "labelled")
    for name in ("images", "labels"):
        shutil.copytree(folder / name, folder / f"val_{name}")
    options = {"bundle_root": copy, "dataset_dir": folder, "output_dir": tmp_path / "out", "epochs": 3}
    exported = dice(copy, folder)
    run_bundle(without_package, training_configs(copy, 1), tmp_path, learning_rate=0.02, **options)
    before, tuned = weights_of(copy), dice(copy, folder)
    assert tuned > exported
    run_bundle(without_package, training_configs(copy, processes), tmp_path, processes, learning_rate=1e4, **options)
    after = weights_of(copy)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert dice(copy, folder) == tuned


def training_configs(bundle, processes):
    return [bundle / "configs" / name for name in ("train.json", "multi_gpu_train.json")[:processes]]


def weights_of(bundle):
    return torch.load(bundle / "models" / "model.pt", weights_only=True)


def dice(bundle, folder):
    return segmenter.evaluate(bundle, folder, bundle / "evaluation.json")["summary"]["dice"]["mean"]


@pytest.mark.slow
def test_mistakes_are_one_line_without_this_package_too(copy, phantoms, without_package, tmp_path):
    (tmp_path / "empty").mkdir()
    images = phantoms["evaluation"] / "images"
    without_weights = shutil.copytree(copy, tmp_path / "without_weights")
    (without_weights / "models" / "model.pt").unlink()
    with_pickle = shutil.copytree(copy, tmp_path / "with_pickle")
    pickled = with_pickle / "models" / "model.pt"
    pickled.write_bytes(pickle.dumps(Touch(tmp_path / "was_run")))
    for configs, bundle, options, message in (
        ("inference", copy, ["--datset_dir", images], "error: no such option: --datset_dir"),
        ("train multi_gpu_train", copy, ["--epoch=1"], "error: no such option: --epoch=1"),
        ("inference", copy, ["--network_def#chanels", "[8]"], "error: no such option: --network_def#chanels"),
        ("train", copy, ["--train::trainer::amqp=True"], "error: no such option: --train::trainer::amqp=True"),
        ("inference", copy, ["--network_def#channels", "[4, 16]"], "weights of another architecture"),
        ("inference", copy, ["--ckpt_path", pickled], "expected a file of tensors"),
        ("train", with_pickle, ["--dataset_dir", phantoms["supervised"]], "expected a file of tensors"),
        ("inference", copy, ["--dataset_dir", tmp_path / "empty"], "expected a folder of images, found none"),
        ("inference evaluate", copy, ["--dataset_dir", tmp_path / "empty"], "one mask for each image"),
        ("inference", without_weights, ["--dataset_dir", images], "model.pt: no such file"),
        ("inference inference_torchscript", copy, ["--dataset_dir", images], "model.ts: no such file"),
        ("train", without_weights, ["--dataset_dir", phantoms["supervised"]], "no model.pt"),
        ("train", copy, ["--dataset_dir", tmp_path / "empty"], "one mask for each image"),
        ("inference", copy, ["--output_dir", tmp_path / "pat#1"], "a path with a number sign"),
    ):
        files = str([str(bundle / "configs" / f"{name}.json") for name in configs.split()])
        arguments = ["--config_file", files, "--bundle_root", bundle, *options]
        result = without_package("-m", "monai.bundle", "run", *arguments, cwd=tmp_path, check=False)
        assert result.returncode == 2, (configs, options)
        assert "Traceback" not in result.stdout + result.stderr
        assert result.stdout.count("error: ") + result.stderr.count("error: ") == 1
        last = result.stderr.strip().splitlines()[-1]
        assert last.startswith("error: ") and message in last
    assert not (copy / "eval").exists()
    assert not (tmp_path / "was_run").exists()


class Touch:
    """An object whose pickle makes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.slow
def test_what_is_no_image_is_passed_over_and_a_pixel_without_a_number_spoils_no_mask(copy, without_package, tmp_path):
    """Side cars, folders with an image's name, broken links, and the results of the run before."""
    folder, out = tmp_path / "images", tmp_path / "images" / "out"
    (folder / "folder.png").mkdir(parents=True)
    (folder / "notes.tif.txt").write_text("notes")
    (folder / "broken.png").symlink_to(tmp_path / "gone.png")
    values = np.random.default_rng(0).random((64, 50), dtype=np.float32)
    Image.fromarray(values).save(folder / "a.tif")
    values[3, 4], values[5, 6] = np.nan, np.inf
    Image.fromarray(values).save(folder / "b.tif")
    for _ in range(2):
        run_bundle(
            without_package,
            copy / "configs" / "inference.json",
            tmp_path,
            bundle_root=copy,
            dataset_dir=folder,
            output_dir=out,
            threshold=THRESHOLD,
        )
    assert {path.name for path in out.rglob("*")} == {"a_vessels.png", "b_vessels.png"}
    first, second = (read_mask(out / f"{name}_vessels.png") for name in "ab")
    assert 0.05 < first.mean() < 0.95 and (first != second).mean() < 0.1


def test_scores_of_several_processes_would_be_of_a_part_of_the_images_each(copy, monkeypatch, capsys):
    from monai.bundle import ConfigParser

    monkeypatch.setenv("WORLD_SIZE", "2")
    parser = ConfigParser()
    parser.read_config([str(copy / "configs" / f"{name}.json") for name in ("inference", "evaluate")])
    parser.parse(True)
    with pytest.raises(SystemExit, match="2"):
        parser.get_parsed_content("run#1")
    assert "evaluate.json is for one process" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("config", ["inference", "train"])
def test_folders_that_cannot_be_written(copy, phantoms, without_package, tmp_path, config):
    """Found before the first image is read."""
    data = {"inference": phantoms["evaluation"] / "images", "train": phantoms["supervised"]}[config]
    command = ["-m", "monai.bundle", "run", "--config_file", copy / "configs" / f"{config}.json", "--dataset_dir", data]
    command += ["--output_dir", tmp_path / "closed" / "out"]
    (tmp_path / "closed").mkdir(mode=0o555)
    done = without_package(*command, cwd=tmp_path, check=False, preexec_fn=give_up_override)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stdout + done.stderr
    assert f"error: {tmp_path / 'closed'}: no permission to write here" in done.stderr
    assert not list((tmp_path / "closed").iterdir())


@pytest.mark.parametrize(("name", "overlays"), [("inference", ["evaluate", "multi_gpu_inference"]), ("train", [])])
def test_every_id_counts_as_an_option(bundle, name, overlays):
    config = load_json(bundle / "configs" / f"{name}.json")
    of_monai = {"config_file", "meta_file", "logging_file", "run_id", "init_id", "final_id", "tracking", "args_file"}
    of_monai |= {"tracking_uri", "experiment_name", "run_name", "save_execute_config", "workflow", "workflow_type"}
    internal = {"imports", "options", "misspelt", "hashes", "by_monai", "fail", "initialize", "run"}
    internal |= {
        "found",
        "written",
        "words",
        "given",
        "parts",
        "folders",
        "existing",
        "closed",
        "checkpoint",
        "state",
        "same_shapes",
        "check_weights",
    }
    assert set(config["options"]) == of_monai | set(config) - internal
    for overlay in overlays:
        over = load_json(bundle / "configs" / f"{overlay}.json")
        added = {key for key in over if key.split("#")[0] not in config and not key.startswith("+")}
        assert added == set(over.get("+options", []))


@pytest.mark.parametrize("config", ["train", "evaluate"])
def test_images_and_masks_are_paired_by_name(bundle, tmp_path, config, capsys):
    """As ``segment`` names its masks, where sorting by the whole name would pair 1 with 10."""
    from monai.bundle import ConfigParser

    for folder, suffix in (("images", ".png"), ("labels", "_vessels.tif")):
        (tmp_path / folder).mkdir()
        for number in (1, 2, 10):
            (tmp_path / folder / f"{number}{suffix}").touch()
    parser = ConfigParser()
    if config == "evaluate":
        parser.read_config([str(bundle / "configs" / f"{name}.json") for name in ("inference", config)])
    else:
        parser.read_config(str(bundle / "configs" / f"{config}.json"))
    parser["dataset_dir"] = str(tmp_path)
    data = parser.get_parsed_content("dataset#data" if config == "evaluate" else "train#dataset#data")
    names = [(Path(item["image"]).name, Path(item["label"]).name) for item in data]
    assert sorted(names) == [("1.png", "1_vessels.tif"), ("10.png", "10_vessels.tif"), ("2.png", "2_vessels.tif")]
    (tmp_path / "labels" / "10_vessels.tif").rename(tmp_path / "labels" / "11_vessels.tif")
    parser.parse(True)
    if config == "evaluate":
        with pytest.raises(SystemExit, match="2"):
            parser.get_parsed_content("run#0")
        assert capsys.readouterr().err.endswith("one mask for each image\n")
    else:
        assert parser.get_parsed_content("train#dataset#data") == []
