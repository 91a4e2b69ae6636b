"""What an adaptation leaves: a bundle that runs where MONAI is and this package is not."""

import hashlib
import pickle
import re
import shutil
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from monai_vessel_uda import segmenter
from monai_vessel_uda.data.images import read_image, read_mask
from monai_vessel_uda.deployment.archive import package_bundle
from monai_vessel_uda.deployment.exported_bundle import check_bundle, export_bundle, needs_package
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.files import load_json, save_json
from monai_vessel_uda.settings import bundle_folder

from ..conftest import TINY
from ..permissions import give_up_override
from .conftest import AFFINE, COLOUR, COLOUR_709, EVERY, GREY, INVERTED

THRESHOLD = 0.485
"""About the median probability of the barely trained segmenter, so that masks are neither empty nor full."""


@pytest.fixture(scope="session")
def bundle(adapted):
    return adapted / "vessel_segmentation"


@pytest.fixture
def copy(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "bundle")


def run_bundle(without_package, configs, cwd, processes=1, **overrides):
    arguments = [part for key, value in overrides.items() for part in (f"--{key}", str(value))]
    files = str(configs if isinstance(configs, Path) else [str(path) for path in configs])
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"] if processes > 1 else []
    return without_package("-m", *torchrun, "monai.bundle", "run", "--config_file", files, *arguments, cwd=cwd)


def test_its_configs_name_nothing_of_this_package(bundle):
    names = {path.name for path in (bundle / "configs").glob("*.json")}
    assert {"inference.json", "evaluate.json", "train.json", "multi_gpu_train.json", "metadata.json"} <= names
    for name in names - {"metadata.json"}:
        text = (bundle / "configs" / name).read_text()
        assert "monai_vessel_uda" not in text, name
        for target in re.findall(r'"_target_":\s*"([^"]+)"', text):
            assert target.split(".")[0] in ("monai", "torch", "PIL"), target


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


def test_a_network_definition_is_no_program(copy):
    path = copy / "configs" / "inference.json"
    for change in ({"_target_": "os.system"}, {"norm": "$__import__('os').system('touch climbed')"}):
        config = load_json(path)
        save_json({**config, "network_def": {**config["network_def"], **change}}, path)
        with pytest.raises(InputError, match="plain values"):
            check_bundle(copy)


def test_fine_tuned_weights_are_not_thrown_away(adapted, tmp_path):
    workspace = shutil.copytree(adapted, tmp_path / "workspace")
    weights = workspace / "vessel_segmentation" / "models" / "model.pt"
    state = torch.load(weights, weights_only=True)
    torch.save({name: tensor + 1 for name, tensor in state.items()}, weights)
    before = weights.read_bytes()
    with pytest.raises(InputError, match="move the folder away"):
        export_bundle(workspace, TINY)
    with pytest.raises(InputError, match="fine-tuned"):
        package_bundle(workspace / "vessel_segmentation")
    assert weights.read_bytes() == before


def test_metadata_says_where_it_comes_from(bundle, adapted):
    metadata = load_json(bundle / "configs" / "metadata.json")
    provenance = metadata["provenance"]
    weights = (bundle / "models" / "model.pt").read_bytes()
    assert provenance["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert (provenance["source_images"], provenance["target_images"]) == ({"source": 4}, {"target": 4})
    assert provenance["settings"]["rounds"] == TINY["rounds"]
    assert provenance["vessels_in_the_files"] in ("bright", "dark")
    assert provenance["working_scale"] == 1.0
    assert provenance["needs_this_package"] is None
    assert "monai-vessel-uda" not in metadata["required_packages_version"]
    shape = metadata["network_data_format"]["inputs"]["image"]["spatial_shape"]
    assert shape == [TINY["patch_size"]] * 2
    scores = {row["name"]: row for row in load_json(adapted / "scores.json")["rows"]}
    exported = next(row for row in scores.values() if row["exported"])
    assert metadata["eval_metrics"]["mean_dice"] == pytest.approx(exported["scores"]["dice"]["mean"], abs=1e-4)
    assert provenance["scores"]["images"] == 2
    assert f"| dice | {exported['scores']['dice']['mean']:.4f} |" in (bundle / "docs" / "README.md").read_text()


def test_the_licence_of_the_data(bundle, prepared, adapted, tmp_path):
    text = (bundle / "docs" / "data_license.txt").read_text()
    assert "source (source, 4 images with masks)" in text
    assert "Whoever trained this bundle must state it here" in text
    workspace = shutil.copytree(adapted, tmp_path / "workspace")
    shutil.rmtree(workspace / "vessel_segmentation")
    manifest = load_json(workspace / "manifest.json")
    folder = tmp_path / "data" / "images"
    folder.mkdir(parents=True)
    (tmp_path / "data" / "LICENSE.txt").write_text("Only for the moon.")
    for item in manifest["source"]:
        item["dataset"] = "HRF"
    for item in manifest["target"]:
        item["image"] = str(folder / "x.png")
    save_json(manifest, workspace / "manifest.json")
    export_bundle(workspace, TINY)
    text = (workspace / "vessel_segmentation" / "docs" / "data_license.txt").read_text()
    assert "Budai" in text and "CC BY 4.0" in text
    assert "| Only for the moon." in text


def test_configs_hold_what_the_adaptation_decided(bundle):
    description = load_json(bundle / "models" / "model.json")
    for name in ("inference.json", "train.json"):
        config = load_json(bundle / "configs" / name)
        assert config["patch_size"] == TINY["patch_size"]
        assert config["network_def"]["channels"] == TINY["segmenter_def#channels"]
        assert config["vessels"] == description["preprocessing"]["target"]["polarity"]
    inference = load_json(bundle / "configs" / "inference.json")
    assert inference["displayable_configs"]["threshold"] == description["threshold"]
    template = load_json(bundle_folder("vessel_segmentation") / "configs" / "train.json")
    for key in ("device", "learning_rate", "batch_size"):  # of the generator's training, not of this one's
        assert load_json(bundle / "configs" / "train.json")[key] == template[key]
    assert inference["device"] == template["device"]


def test_dark_vessels_and_another_scale(adapted, every_format, tmp_path):
    """MONAI's transforms against ours, where they do something: negation exactly, resampling closely."""
    from monai.bundle import ConfigParser

    from monai_vessel_uda.engines.segmentation import model_transforms

    description = load_json(adapted / "vessel_segmentation" / "models" / "model.json")
    target = {**description["preprocessing"]["target"], "polarity": "dark"}
    for scale, tolerance in ((1.0, 1e-5), (0.5, 0.15), (1.5, 0.15)):
        record = {**description["preprocessing"], "target": {**target, "scale": scale}}
        parser = ConfigParser()
        parser.read_config(load_json(adapted / "vessel_segmentation" / "configs" / "inference.json"))
        parser.update({"vessels": "dark", "scale": scale})
        item = {"image": str(every_format / "rgb.png")}
        theirs = parser.get_parsed_content("preprocessing")(item)["image"].as_tensor()
        ours = model_transforms({"preprocessing": record})({**item, "id": "x"})["image"]
        assert theirs.shape == ours.shape
        assert float((theirs - ours).abs().mean()) < tolerance
        back = torch.nn.functional.interpolate(theirs[None], size=(64, 50))[0]
        grey = torch.from_numpy(read_image(every_format / "luma.tif").array.copy())[None]
        assert torch.corrcoef(torch.stack([back.flatten(), grey.flatten()]))[0, 1] < -0.5


def test_a_target_that_monai_cannot_prepare(adapted, tmp_path, phantoms):
    """A black surround: the bundle says that it needs this package, and works with it."""
    workspace = shutil.copytree(adapted, tmp_path / "workspace")
    shutil.rmtree(workspace / "vessel_segmentation")
    path = workspace / "stages" / "co_optimization" / "weights.json"
    description = load_json(path)
    description["preprocessing"]["target"]["field_of_view"] = True
    save_json(description, path)
    bundle = export_bundle(workspace, TINY)
    metadata = load_json(bundle / "configs" / "metadata.json")
    assert "surround" in metadata["provenance"]["needs_this_package"]
    assert metadata["required_packages_version"]["monai-vessel-uda"]
    assert "monai_vessel_uda" in (bundle / "configs" / "inference.json").read_text()
    assert not (bundle / "configs" / "train.json").exists()
    out = segmenter.segment(phantoms["evaluation"] / "images", tmp_path / "out", bundle)
    assert len(list(out.glob("*_vessels.png"))) == 2


def test_needs_package():
    target = {"field_of_view": False, "grey": "luma"}
    assert needs_package({"target": target}) is None
    assert "green" in needs_package({"target": {**target, "grey": "green"}})


class Pickle:
    def __reduce__(self):
        return (open, ("/nowhere", "w"))


@pytest.mark.parametrize("fault", ["no weights", "no metadata", "other architecture", "pickle", "list", "truncated"])
def test_refuses_a_broken_bundle(copy, fault, tmp_path):
    weights = copy / "models" / "model.pt"
    if fault == "no weights":
        weights.unlink()
    elif fault == "no metadata":
        (copy / "configs" / "metadata.json").unlink()
    elif fault == "other architecture":
        state = torch.load(weights, weights_only=True)
        name = sorted(state)[0]
        torch.save({**state, name: torch.zeros(3, 3)}, weights)
    elif fault == "pickle":
        torch.save(Pickle(), weights)
    elif fault == "list":
        torch.save([1, 2], weights)
    elif fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:300])
    expected = {"no weights": "no weights", "no metadata": "metadata", "other architecture": "another architecture"}
    with pytest.raises(InputError, match=expected.get(fault, "tensors")):
        check_bundle(copy)
    with pytest.raises(InputError):
        segmenter.segment(tmp_path, tmp_path / "out", copy)
    assert not (tmp_path / "out").exists()
