"""What becomes a data set, and what is said of folders that do not fit one scale."""

import shutil

import pytest
from PIL import Image

from monai_vessel_uda import preparation
from monai_vessel_uda.data.phantoms import write_phantoms
from monai_vessel_uda.files import load_json


def warnings_of(caplog):
    """What was warned of; the level of the logger is another test's."""
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.fixture(scope="module")
def two_sites(tmp_path_factory):
    """Photographs of two cameras, one of which takes them twice as large, in folders of the same name."""
    folder = tmp_path_factory.mktemp("sites")
    target = write_phantoms(folder / "octa", source=0, target=2, evaluation=0, supervised=0, size=64)["target"]
    sites = []
    for seed, size in enumerate((64, 128)):
        made = write_phantoms(folder / f"{size}", seed=seed, source=2, target=0, evaluation=0, supervised=0, size=size)
        sites.append(shutil.copytree(made["source"], folder / f"site{size}" / "fundus"))
    return sites, target


def test_two_folders_of_one_name_get_a_scale_each(two_sites, tmp_path, caplog):
    sites, target = two_sites
    datasets = {}
    for name, folders in (("both", sites), ("small", sites[:1]), ("large", sites[1:])):
        record = load_json(preparation.prepare(tmp_path / name, folders, target))["preprocessing"]
        datasets[name] = {key: entry["scale"] for key, entry in record["source"]["datasets"].items()}
    small, large = datasets["small"]["fundus"], datasets["large"]["fundus"]
    assert datasets["both"] == pytest.approx({"site64-fundus": small, "site128-fundus": large})
    assert small > 1.5 * large
    assert not warnings_of(caplog)


def test_images_of_several_sizes_in_one_folder_are_pointed_out(two_sites, tmp_path, caplog):
    sites, target = two_sites
    mixed = shutil.copytree(sites[0], tmp_path / "mixed")
    for path in sites[1].rglob("*.png"):
        shutil.copy(path, mixed / path.parent.name / f"large_{path.name}")
    preparation.prepare(tmp_path / "workspace", [mixed], target)
    (message,) = warnings_of(caplog)
    assert message.startswith("mixed: its images have between 107 and 213 pixels")
    assert "give each as --source" in message


def test_target_images_of_several_sizes_are_pointed_out(two_sites, tmp_path, caplog):
    sites, target = two_sites
    path = next((target / "images").iterdir())
    with Image.open(path) as image:
        image.resize((2 * image.width, 2 * image.height)).save(path.with_name("large.png"))
    preparation.prepare(tmp_path / "workspace", sites[:1], target)
    (message,) = warnings_of(caplog)
    assert "all target images get one scale" in message
