"""Every way in which a folder of images can be wrong."""

import shutil
from pathlib import Path

import pytest

from monai_vessel_uda.data.known_layouts import LAYOUTS
from monai_vessel_uda.data.layouts import find_items
from monai_vessel_uda.errors import InputError

from .trees import EXPECTED, TREES, ids, make


def assert_refused(root, match, **options):
    with pytest.raises(InputError, match=match):
        find_items(root, **{"domain": "source", "labels": "required", **options})


def test_wrong_arguments(tree):
    root = tree("plain")
    assert_refused(root, "layout='fivez' is unknown.*fives, drive", layout="fivez")
    assert_refused(root, "domain='sauce'", domain="sauce")
    assert_refused(root, "labels='maybe'", labels="maybe")
    assert_refused(root / "nowhere", "nowhere: no such folder")
    assert_refused(root / "images" / "eye a.png", "no such folder")
    assert_refused(root, "no images and masks laid out as drive", layout="drive")


def test_empty_folders(tmp_path):
    assert_refused(tmp_path, "found no images and masks")
    assert_refused(tmp_path, "found no images laid", labels="forbidden")
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    assert_refused(tmp_path, "found no images and masks")


def test_masks_beside_their_images(tmp_path):
    make(tmp_path, ["eye.png", "eye_mask.png"])
    assert_refused(tmp_path, "Masks lie beside their images: move them into labels/")


def test_split_without_images(tmp_path):
    make(tmp_path, ["OCTA_3M/Projection Maps/OCTA(ILM_OPL)/10301.bmp"])
    assert_refused(tmp_path, "no image belongs to split 'test'", labels="forbidden", split="test")
    assert len(find_items(tmp_path, domain="target", labels="forbidden", preferred="test")) == 1


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_image_without_its_mask(tree, name):
    root = tree(name)
    (root / EXPECTED[name][2]).unlink()
    if name == "octa500_3m":
        root = root / "OCTA_3mm"
    assert_refused(root, "no mask found")


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "octa500_3m"])
def test_a_mask_without_its_image(tree, name):
    root = tree(name)
    Path(find_items(root, domain="source", labels="required")[0]["image"]).unlink()
    assert_refused(root, f"{Path(EXPECTED[name][2]).name}: no image found")
    assert len(find_items(root, domain="source", labels="forbidden")) == len(EXPECTED[name][0]) - 1


def test_all_masks_missing_names_the_image(tree):
    root = tree("fives")
    shutil.rmtree(root / "train" / "Ground truth")
    assert_refused(root / "train", "10_G.png.*no mask found in .*Ground truth")


def test_an_oddly_named_image_is_not_passed_over(tree):
    root = make(tree("fives"), ["train/Original/copy.png"])
    assert_refused(root, "copy.png: no mask found")
    assert "FIVES-train-copy" in ids(find_items(root, domain="target", labels="forbidden"))


def test_two_files_of_one_name(tree):
    root = make(tree("plain"), ["images/eye a.jpg"])
    assert_refused(root, "eye a.jpg and eye a.png are two files of one name")
    assert_refused(root, "two files of one name", labels="forbidden")


def test_two_masks_of_one_name_do_not_matter_if_forbidden(tree):
    root = make(tree("plain"), ["labels/eye a.tif"])
    assert_refused(root, "two files of one name")
    assert len(find_items(root, domain="target", labels="forbidden")) == 3


def test_sizes_differ(tree):
    root = tree("plain")
    make(root, ["labels/eye b.png"], size=(12, 8))
    assert_refused(root, r"labels/eye b.png: its size \(height, width\) is \(12, 8\).*is \(8, 12\)")


def test_several_data_sets_in_one_folder(tmp_path):
    make(tmp_path / "FIVES", TREES["fives"])
    assert ids(find_items(tmp_path, domain="source", labels="required")) == EXPECTED["fives"][0]
    make(tmp_path / "HRF", TREES["hrf"])
    assert_refused(tmp_path, "several data sets .fives, hrf.")
    shutil.copytree(tmp_path / "FIVES", tmp_path / "FIVES copy")
    assert_refused(tmp_path, "several data sets", layout="fives")
