"""What is found in public data sets as they are downloaded."""

import shutil
import sys
from pathlib import Path

import pytest

from monai_vessel_uda.data.known_layouts import LAYOUTS
from monai_vessel_uda.data.layouts import find_items
from monai_vessel_uda.data.names import told_apart
from monai_vessel_uda.errors import InputError

from ..real_images import ABSENT, DATA
from .trees import EXPECTED, TREES, ids, make


def relative(item, key, root):
    return Path(item[key]).relative_to(root).as_posix()


def test_every_layout_is_tested():
    assert set(TREES) == set(EXPECTED) == set(LAYOUTS)


@pytest.mark.parametrize("layout", ["auto", "named"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_root_with_masks(tree, name, layout):
    root = tree(name)
    items = find_items(root, domain="source", labels="required", layout=name if layout == "named" else "auto")
    expected, _, mask = EXPECTED[name]
    assert ids(items) == expected
    assert relative(items[0], "label", root) == mask
    assert len({item["label"] for item in items}) == len(items)
    assert {item["domain"] for item in items} == {"source"}
    assert all(Path(item["image"]).is_absolute() and Path(item["image"]).is_file() for item in items)


@pytest.mark.parametrize("name", LAYOUTS)
def test_masks_forbidden_and_absent(tree, name):
    """Without masks the same images are found whether or not masks are on the disk."""
    root = tree(name)
    with_masks_there = find_items(root, domain="target", labels="forbidden")
    assert ids(with_masks_there) == EXPECTED[name][0]
    assert not any("label" in item for item in with_masks_there)
    masks = {item["label"] for item in find_items(root, domain="target", labels="required", split="all")}
    for mask in masks:
        Path(mask).unlink()
        if mask.endswith("png") and not any(Path(mask).parent.iterdir()):
            Path(mask).parent.rmdir()
    assert find_items(root, domain="target", labels="forbidden") == with_masks_there


OPENED = None
sys.addaudithook(
    lambda event, arguments: (
        OPENED.append(str(arguments[0]))
        if OPENED is not None and event in ("open", "os.listdir", "os.scandir")
        else None
    )
)


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name not in ("chase_db1", "octa500_6m")])
def test_forbidden_mask_folders_are_not_even_listed(tree, name):
    global OPENED
    root = tree(name)
    mask_folder = str((root / EXPECTED[name][2]).parent)
    OPENED = []
    try:
        find_items(root, domain="target", labels="forbidden")
        forbidden = list(OPENED)
        find_items(root, domain="target", labels="required")
        required = list(OPENED)
    finally:
        OPENED = None
    assert any(path.startswith(mask_folder) for path in required)  # the hook sees what it must see
    assert not any(path.startswith(mask_folder) for path in forbidden)


@pytest.mark.parametrize("name", [name for name in LAYOUTS if EXPECTED[name][1]])
def test_splits(tree, name):
    root = tree(name)
    train = find_items(root, domain="target", labels="forbidden", split="train")
    test = find_items(root, domain="target", labels="required", split="test")
    everything = find_items(root, domain="target", labels="required", split="all")
    assert ids(train) == EXPECTED[name][0]
    assert len(test) == EXPECTED[name][1]
    assert find_items(root, domain="target", labels="required", preferred="test") == test
    assert len(set(ids(everything))) == len(everything) == len(train) + len(test) + 2 * (name == "rossa")
    with pytest.raises(InputError, match="split='tset' is not there; choose one of train, .*test, all"):
        find_items(root, domain="target", labels="required", split="tset")


@pytest.mark.parametrize("name", ["chase_db1", "stare", "hrf", "plain"])
def test_sets_without_official_split(tree, name):
    root = tree(name)
    assert ids(find_items(root, domain="source", labels="required", split="all")) == EXPECTED[name][0]
    assert ids(find_items(root, domain="source", labels="required", preferred="test")) == EXPECTED[name][0]
    with pytest.raises(InputError, match="split='test' is not there"):
        find_items(root, domain="source", labels="required", split="test")


@pytest.mark.parametrize(
    ("name", "inside", "expected"),
    [
        ("fives", "train", "FIVES-train-10_G"),
        ("fives", "test", "FIVES-test-1_A"),
        ("fives", "train/Original", "FIVES-train-10_G"),
        ("drive", "test", "DRIVE-test-01"),
        ("stare", "stare-images", "STARE-im0001"),
        ("octa500_3m", "OCTA_3mm", "OCTA-500_3M-10301"),
        ("octa500_6m", "OCTA_6M/Projection Maps/OCTA(ILM_OPL)", "OCTA-500_6M-10001"),
        ("rose1", "SVC", "ROSE-1-train-01"),
        ("rose1", "SVC/test", "ROSE-1-test-01"),
        ("rose1", "DVC/train", "DVC-train-01"),
        ("rose2", "train", "ROSE-2-train-1_OD_SVP"),
        ("rossa", "train_manual", "ROSSA-train-1"),
        ("rossa", "test", "ROSSA-test-201"),
        ("rossa", "val/image", "ROSSA-val-301"),
        ("plain", "images", "clinic-eye_a"),
    ],
)
@pytest.mark.parametrize("labels", ["required", "forbidden"])
def test_pointing_below_the_root(tree, name, inside, expected, labels):
    items = find_items(tree(name) / inside, domain="target", labels=labels)
    assert items[0]["id"] == expected
    assert ("label" in items[0]) == (labels == "required")


def test_rossa_named_split(tree):
    root = tree("rossa")
    assert ids(find_items(root, domain="target", labels="forbidden", split="train_sam")) == ["ROSSA-train_sam-101"]
    assert find_items(root, domain="target", labels="forbidden", split="train_manual") == find_items(
        root / "train_manual", domain="target", labels="forbidden"
    )


def test_fields_of_view(tree):
    root = tree("drive")
    assert relative(find_items(root, domain="source", labels="required")[0], "fov", root) == (
        "training/mask/21_training_mask.gif"
    )


def test_hrf_fields_of_view_are_optional(tree):
    root = tree("hrf")
    assert relative(find_items(root, domain="source", labels="required")[1], "fov", root) == "mask/01_g_mask.tif"
    shutil.rmtree(root / "mask")
    assert "fov" not in find_items(root, domain="source", labels="required")[1]


def test_groups_keep_both_eyes_together(tree, tmp_path):
    items = find_items(tree("chase_db1"), domain="source", labels="required")
    assert [item["group"] for item in items] == ["01", "01", "02"]
    rose = find_items(make(tmp_path / "rose", TREES["rose2"]), domain="target", labels="forbidden")
    assert [item["group"] for item in rose] == ["1", "1"]


@pytest.mark.parametrize(
    ("files", "mask"),
    [
        (["stare-images/im0001.ppm", "labels-vk/im0001.vk.ppm"], "labels-vk/im0001.vk.ppm"),
        (["im0001.ppm", "im0001.ah.ppm", "im0001.vk.ppm"], "im0001.ah.ppm"),
        (["im0001.png", "labels-ah/im0001.png"], "labels-ah/im0001.png"),
    ],
)
def test_stare_variants(tmp_path, files, mask):
    make(tmp_path, files)
    (item,) = find_items(tmp_path, domain="source", labels="required")
    assert (item["dataset"], relative(item, "label", tmp_path)) == ("STARE", mask)


def test_octa500_as_unpacked_in_parts(tmp_path):
    images = "OCTA_3mm_part3/OCTA_3mm/Projection Maps/OCTA(ILM_OPL)/10301.bmp"
    make(tmp_path, [images, "Label/GT_LargeVessel/10301.bmp", "Label/GT_LargeVessel/10001.bmp"])
    (item,) = find_items(tmp_path, domain="target", labels="required")
    assert relative(item, "label", tmp_path) == "Label/GT_LargeVessel/10301.bmp"


def test_octa500_with_both_fields_of_view(tmp_path):
    make(tmp_path, TREES["octa500_3m"] + TREES["octa500_6m"])
    with pytest.raises(InputError, match="octa500_3m, octa500_6m"):
        find_items(tmp_path, domain="target", labels="forbidden")
    items = find_items(tmp_path, domain="target", labels="required", layout="octa500_6m")
    assert ids(items) == EXPECTED["octa500_6m"][0]


@pytest.mark.parametrize(
    ("images", "labels"), [("image", "label"), ("img", "gt"), ("images", "masks"), ("imgs", "mask")]
)
def test_plain_folder_names(tmp_path, images, labels):
    root = make(tmp_path / "ours" / "test", [f"{images}/1.png", f"{labels}/1.tif"])
    (item,) = find_items(root, domain="target", labels="required")
    assert item["id"] == "ours-test-1"
    assert relative(item, "label", root) == f"{labels}/1.tif"


def test_plain_folder_with_splits(tmp_path):
    files = [f"{split}/{part}/{split[0]}1.png" for split in ("train", "test") for part in ("images", "labels")]
    root = make(tmp_path / "ours", files)
    assert ids(find_items(root, domain="target", labels="forbidden")) == ["ours-train-t1"]
    assert ids(find_items(root, domain="target", labels="required", split="test")) == ["ours-test-t1"]


def test_any_folder_of_images(tmp_path):
    root = make(tmp_path / "scans", ["b.png", "a.PNG", "im0001.png"])
    (root / "notes.txt").write_text("not an image")
    (root / ".hidden.png").write_text("nor this")
    items = find_items(root, domain="target", labels="forbidden")
    assert ids(items) == ["scans-a", "scans-b", "scans-im0001"]


def test_masks_among_the_images_are_noticed(tmp_path):
    make(tmp_path, ["eye1.png", "eye1_mask.png"])
    with pytest.raises(InputError, match="eye1_mask.png: looks like the mask of eye1.png"):
        find_items(tmp_path, domain="target", labels="forbidden")


@pytest.mark.parametrize("folders", [("Images", "Masks"), ("IMG", "gt"), ("images", "Label")])
def test_capital_letters_and_names_that_say_mask(tmp_path, folders):
    """As annotation tools and clinics write them."""
    images, masks = folders
    root = make(tmp_path / "clinic", [f"{images}/{n}.png" for n in "ab"] + [f"{masks}/a_mask.png", f"{masks}/b.png"])
    for folder in (root, root / images):
        items = find_items(folder, domain="source", labels="required")
        assert ids(items) == ["clinic-a", "clinic-b"]
        assert [relative(item, "label", root) for item in items] == [f"{masks}/a_mask.png", f"{masks}/b.png"]
        assert ids(find_items(folder, domain="target", labels="forbidden")) == ids(items)


def test_of_two_masks_none_is_chosen(tmp_path):
    for names in (("a.png", "a_mask.png"), ("a_mask.png", "a_vessels.png")):
        root = make(tmp_path / names[0] / "clinic", ["images/a.png", *(f"labels/{name}" for name in names)])
        with pytest.raises(InputError, match=f"{names[1]}: no image found"):
            find_items(root, domain="source", labels="required")


def labelled(*folders):
    return [item for folder in folders for item in find_items(folder, domain="source", labels="required")]


def test_folders_of_equal_names_are_data_sets_of_their_own(tmp_path):
    for place in ("siteA/fundus", "siteB/fundus", "siteB/octa"):
        make(tmp_path / place, ["images/1.png", "labels/1.png"])
    items = labelled(tmp_path / "siteA/fundus", tmp_path / "siteB/fundus/images", tmp_path / "siteB/octa")
    apart = told_apart(items)
    assert [item["dataset"] for item in apart] == ["siteA-fundus", "siteB-fundus", "octa"]
    assert ids(apart) == ["siteA-fundus-1", "siteB-fundus-1", "octa-1"]
    unnamed = [{**item, "id": "", "dataset": ""} for item in items]
    assert [{**item, "id": "", "dataset": ""} for item in apart] == unnamed


def test_names_grow_until_they_differ(tmp_path):
    for place in ("A/left/fundus", "B/left/fundus", "B/right/fundus"):
        make(tmp_path / place, ["images/1.png", "labels/1.png"])
    apart = told_apart(labelled(*(tmp_path / place / "fundus" for place in ("A/left", "B/left", "B/right"))))
    assert [item["dataset"] for item in apart] == ["A-left-fundus", "B-left-fundus", "B-right-fundus"]


def test_what_belongs_together_keeps_its_name(tmp_path):
    for split in ("train", "test"):
        make(tmp_path / "clinic", [f"{split}/images/{split}.png", f"{split}/labels/{split}.png"])
    for place in ("old", "new"):
        make(tmp_path / place, TREES["hrf"])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "clinic").symlink_to(tmp_path / "clinic")
    items = labelled(
        *(tmp_path / "clinic" / split for split in ("train", "test")),
        *(tmp_path / place for place in ("old", "new")),
        tmp_path / "elsewhere" / "clinic",
    )
    assert told_apart(items) == items


def test_sorted_whatever_the_disk_says(tree, monkeypatch):
    root = tree("plain")
    expected = find_items(root, domain="source", labels="required")
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: reversed(list(iterdir(self))))
    assert find_items(root, domain="source", labels="required") == expected


@pytest.mark.parametrize(
    ("folder", "dataset", "count", "groups"),
    [
        ("FIVES", "FIVES", 20, 20),
        ("HRF", "HRF", 15, 15),
        ("CHASE_DB1", "CHASE_DB1", 28, 14),
        ("ROSSA", "ROSSA", 100, 100),
        ("ROSSA/train_manual", "ROSSA", 100, 100),
        ("ROSSA/test", "ROSSA", 100, 100),
    ],
)
def test_real_folders(folder, dataset, count, groups):
    if not (DATA / folder).is_dir():
        pytest.skip(ABSENT)
    items = find_items(DATA / folder, domain="source", labels="required")
    assert {item["dataset"] for item in items} == {dataset}
    assert (len(items), len({item["group"] for item in items})) == (count, groups)
    without = find_items(DATA / folder, domain="target", labels="forbidden")
    assert [item["image"] for item in without] == [item["image"] for item in items]
