"""What an adaptation leaves: a bundle whose files say what it is, and what is refused."""

import hashlib
import re
import shutil

import pytest
import torch

from monai_vessel_uda import segmenter
from monai_vessel_uda.data.images import read_image
from monai_vessel_uda.deployment.archive import package_bundle
from monai_vessel_uda.deployment.export import export_bundle, needs_package
from monai_vessel_uda.deployment.exported_bundle import check_bundle
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.files import load_json, save_json
from monai_vessel_uda.settings import bundle_folder

from ..conftest import TINY


def test_its_configs_name_nothing_of_this_package(bundle):
    names = {path.name for path in (bundle / "configs").glob("*.json")}
    assert {"inference.json", "evaluate.json", "train.json", "multi_gpu_train.json", "metadata.json"} <= names
    for name in names - {"metadata.json"}:
        text = (bundle / "configs" / name).read_text()
        assert "monai_vessel_uda" not in text, name
        for target in re.findall(r'"_target_":\s*"([^"]+)"', text):
            assert target.split(".")[0] in ("monai", "torch", "PIL"), target


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
    assert load_json(bundle / "configs" / "train.json")["threshold"] == description["threshold"]
    inference = load_json(bundle / "configs" / "inference.json")
    template = load_json(bundle_folder("vessel_segmentation") / "configs" / "train.json")
    assert inference["displayable_configs"]["threshold"] == description["threshold"]
    for key in ("device", "learning_rate", "batch_size"):  # of the generator's training, not of this one's
        assert load_json(bundle / "configs" / "train.json")[key] == template[key]
    assert inference["device"] == template["device"]


def test_fine_tuning_is_judged_at_the_threshold_of_inference(bundle):
    from monai.bundle import ConfigParser

    config = load_json(bundle / "configs" / "train.json")
    probability = torch.tensor([0.1, 0.3, 0.45, 0.9])
    logits = torch.stack([torch.zeros(4), probability.logit()])[:, None]
    for threshold, vessels in ((0.2, [0, 1, 1, 1]), (0.4, [0, 0, 1, 1]), (0.6, [0, 0, 0, 1])):
        parser = ConfigParser()
        parser.read_config(config)
        parser.update({"threshold": threshold})
        marked = parser.get_parsed_content("validate#postprocessing")({"pred": logits, "label": torch.zeros(1, 1, 4)})
        assert marked["pred"][1, 0].tolist() == vessels


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
    config = load_json(bundle / "configs" / "inference.json")
    assert {"views", "probability", "overlay", "threshold"} <= set(config["options"])
    assert not {"vessels", "percentiles", "output_ext"} & set(config["options"])  # they would do nothing
    page = (bundle / "docs" / "README.md").read_text()
    assert "**This bundle needs monai_vessel_uda" in page and "need not be installed" not in page
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
