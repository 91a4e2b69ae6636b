"""A bundle that an older package exported, or one with other settings, is brought up to date; nothing else of it is."""

import shutil
from pathlib import Path

import pytest
import torch

from monai_vessel_uda import __version__
from monai_vessel_uda.deployment import earlier_export, export
from monai_vessel_uda.deployment.export import export_bundle
from monai_vessel_uda.deployment.exported_bundle import bundle_network
from monai_vessel_uda.deployment.runtimes import check_converted, convert_bundle
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.files import load_json, save_json, sha256
from monai_vessel_uda.settings import bundle_folder
from monai_vessel_uda.weights import save_weights

from ..conftest import TINY


def files(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def workspace(adapted, tmp_path):
    return Path(shutil.copytree(adapted, tmp_path / "workspace"))


@pytest.fixture
def newer(monkeypatch, tmp_path):
    """A newer package: one config and one page changed, one config added, one gone."""
    template = Path(shutil.copytree(bundle_folder("vessel_segmentation"), tmp_path / "template"))
    train = load_json(template / "configs" / "train.json")
    save_json({**train, "epochs": 7}, template / "configs" / "train.json")
    (template / "configs" / "added.json").write_text("{}")
    (template / "configs" / "multi_gpu_inference.json").unlink()
    page = template / "docs" / "README.md"
    page.write_text(page.read_text() + "A new section.\n")
    monkeypatch.setattr(export, "bundle_folder", lambda name: template)
    monkeypatch.setattr(export, "__version__", "9.9")


def test_brings_what_is_new_and_keeps_the_scores_and_the_rest(workspace, newer):
    bundle = workspace / "vessel_segmentation"
    convert_bundle(bundle, "torchscript")
    (bundle / "eval").mkdir()
    (bundle / "eval" / "mask.png").write_bytes(b"x")
    old = load_json(bundle / "configs" / "metadata.json")
    performance = (bundle / "docs" / "README.md").read_text().partition("<!-- performance -->")[2].split("<!--")[0]
    assert export_bundle(workspace, TINY) == bundle
    assert load_json(bundle / "configs" / "train.json")["epochs"] == 7
    assert (bundle / "configs" / "added.json").exists()
    assert not (bundle / "configs" / "multi_gpu_inference.json").exists()
    assert load_json(bundle / "models" / "model.json")["exported_with"] == "9.9"
    new = load_json(bundle / "configs" / "metadata.json")
    assert new["eval_metrics"] == old["eval_metrics"] != {}
    assert new["provenance"]["scores"] == old["provenance"]["scores"]
    assert new["provenance"]["package"] == f"monai_vessel_uda {__version__}", "that of the weights"
    page = (bundle / "docs" / "README.md").read_text()
    assert "A new section." in page and "| dice |" in performance and performance in page
    check_converted(bundle, "torchscript")
    assert (bundle / "eval" / "mask.png").exists()
    assert not list(workspace.glob(".vessel*"))
    before = files(bundle)
    export_bundle(workspace, TINY)
    assert files(bundle) == before


def test_interrupted_it_is_finished_the_next_time(workspace, newer, monkeypatch):
    bundle = workspace / "vessel_segmentation"

    def killed(source, destination):
        if destination == bundle / "docs" / "README.md":
            raise KeyboardInterrupt
        Path(source).rename(destination)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(earlier_export.os, "replace", killed)
        export_bundle(workspace, TINY)
    assert load_json(bundle / "configs" / "train.json")["epochs"] == 7
    export_bundle(workspace, TINY)
    assert load_json(bundle / "models" / "model.json")["exported_with"] == "9.9"


def test_settings_and_the_description_count(workspace):
    bundle = workspace / "vessel_segmentation"
    export_bundle(workspace, {**TINY, "overlap": 0.75})
    assert load_json(bundle / "configs" / "inference.json")["overlap"] == 0.75
    path = workspace / "stages" / "co_optimization" / "weights.json"
    save_json({**load_json(path), "threshold": 0.25}, path)
    export_bundle(workspace, TINY)
    config = load_json(bundle / "configs" / "inference.json")
    assert (config["overlap"], config["displayable_configs"]["threshold"]) == (0.5, 0.25)


def test_an_export_that_does_not_say_what_it_wrote(workspace, newer):
    """As this package wrote them before it could renew one."""
    path = workspace / "vessel_segmentation" / "configs" / "metadata.json"
    metadata = load_json(path)
    del metadata["provenance"]["files"]
    save_json(metadata, path)
    export_bundle(workspace, TINY)
    assert (path.parent / "added.json").exists()


@pytest.mark.parametrize("name", ["docs/data_license.txt", "configs/inference.json"])
def test_what_a_person_changed_is_kept(workspace, newer, caplog, name):
    bundle = workspace / "vessel_segmentation"
    with (bundle / name).open("a") as file:
        file.write("\n")
    before = files(bundle)
    with caplog.at_level("WARNING", "monai_vessel_uda"):
        export_bundle(workspace, TINY)
    assert files(bundle) == before
    assert f"{name} changed after the export" in caplog.text


def round_more(workspace):
    """As after a further round: other weights to export."""
    path = workspace / "stages" / "co_optimization" / "weights.pt"
    network = bundle_network(workspace / "vessel_segmentation")
    save_weights(network, path, {key: v for key, v in load_json(path.with_suffix(".json")).items() if key != "sha256"})


def test_an_export_of_other_weights_is_replaced(workspace):
    round_more(workspace)
    bundle = export_bundle(workspace, TINY)
    assert sha256(bundle / "models" / "model.pt") == sha256(workspace / "stages" / "co_optimization" / "weights.pt")
    assert [path.name for path in workspace.glob("*vessel_seg*")] == ["vessel_segmentation"]


def added(bundle):
    (bundle / "eval").mkdir()
    (bundle / "eval" / "mask.png").write_bytes(b"x")


def appended(name):
    def change(bundle):
        with (bundle / name).open("a") as file:
            file.write("More.\n")

    return change


def versioned(bundle):
    path = bundle / "configs" / "metadata.json"
    save_json({**load_json(path), "authors": "us"}, path)


CHANGES = {
    "eval/mask.png": added,
    "docs/data_license.txt": appended("docs/data_license.txt"),
    "docs/README.md": appended("docs/README.md"),
    "configs/metadata.json": versioned,
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_person_put_into_an_export_of_other_weights_is_kept(workspace, caplog, name):
    bundle = workspace / "vessel_segmentation"
    for times in (1, 2):
        CHANGES[name](bundle)
        before = {path.relative_to(bundle): content for path, content in files(bundle).items()}
        round_more(workspace)
        with caplog.at_level("WARNING", "monai_vessel_uda"):
            export_bundle(workspace, TINY)
        kept = {folder: files(folder) for folder in workspace.glob("vessel_segmentation.before-*")}
        assert len(kept) == times
        assert before in [{path.relative_to(folder): v for path, v in held.items()} for folder, held in kept.items()]
        assert all(folder.name in caplog.text for folder in kept) and name in caplog.text
        assert not (bundle / "eval").exists() and "More." not in (bundle / "docs" / "README.md").read_text()


def test_what_is_kept_of_the_same_weights_has_names_of_its_own(workspace):
    weights = workspace / "stages" / "co_optimization"
    first = shutil.copytree(weights, workspace / "first")
    round_more(workspace)
    second = shutil.copytree(weights, workspace / "second")
    for folder in (second, first, second, first):
        shutil.copytree(folder, weights, dirs_exist_ok=True)
        added(export_bundle(workspace, TINY))
    assert len(list(workspace.glob("vessel_segmentation.before-*/eval/mask.png"))) == 3


def test_fine_tuned_weights_are_not_renewed(workspace, newer):
    bundle = workspace / "vessel_segmentation"
    torch.save(bundle_network(bundle).state_dict(), bundle / "models" / "model.pt")
    before = files(bundle)
    with pytest.raises(InputError, match="move the folder away"):
        export_bundle(workspace, TINY)
    assert files(bundle) == before


def test_exporting_again_changes_nothing(adapted):
    bundle = adapted / "vessel_segmentation"
    before = files(bundle)
    assert export_bundle(adapted, TINY) == bundle
    assert files(bundle) == before
