"""The manifest: what it records, what it refuses, and that target masks stay out of reach."""

import errno
import hashlib
import json
import os
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from monai_vessel_uda.data.manifest import (
    FORMAT,
    build_manifest,
    datalist,
    load_manifest,
    save_manifest,
    verify_files,
)
from monai_vessel_uda.errors import InputError

DATE = "2026-01-02T03:04:05+00:00"


def item(folder, name, domain="source", dataset="SET", label=True):
    """Write a noisy image and its mask, and return the item."""
    noise = np.random.default_rng(zlib.crc32(f"{folder.name}/{name}".encode()))
    paths = {key: folder / key / f"{name}.png" for key in ("image", "label")}
    for key, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        values = noise.integers(0, 256, (6, 9), dtype=np.uint8)
        Image.fromarray(values if key == "image" else 255 * (values > 200).astype(np.uint8)).save(path)
    made = {key: str(path) for key, path in paths.items() if label or key == "image"}
    return {**made, "id": f"{dataset}-{name}", "domain": domain, "dataset": dataset, "group": name[:2]}


@pytest.fixture
def lists(tmp_path):
    return {
        "source": [item(tmp_path / "a", n, dataset="FUNDUS") for n in ("01L", "01R")],
        "target": [item(tmp_path / "w" / "b", n, "target", "OCTA", label=False) for n in ("1", "2")],
        "evaluation": [item(tmp_path / "c", "3", "target", "OCTA")],
        "supervised": [item(tmp_path / "d", "4", "target", "OCTA")],
    }


def build(lists, **changes):
    return build_manifest(**{**lists, "preprocessing": {"polarity": "dark"}, "seed": 7, "created": DATE, **changes})


def test_entries_say_what_the_files_are(lists):
    manifest = build(lists)
    assert (manifest["format"], manifest["version"], manifest["created"]) == (FORMAT, 1, DATE)
    assert (manifest["seed"], manifest["preprocessing"]) == (7, {"polarity": "dark"})
    assert set(manifest["packages"]) == {"monai_vessel_uda", "python", "torch", "monai", "pytorch-ignite"}
    entry = manifest["source"][0]
    assert (entry["size"], entry["spacing"]) == ([6, 9], [1.0, 1.0])
    for key, digest in (("image", "sha256"), ("label", "label_sha256")):
        content = Path(lists["source"][0][key]).read_bytes()
        assert entry[digest] == hashlib.sha256(content).hexdigest()
        assert entry["stat"][key][0] == len(content)


def test_spacing_and_field_of_view(lists, tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.arange(20.0).reshape(4, 5), np.diag([0.25, 0.5, 1, 1])), tmp_path / "e.nii")
    fov = {**lists["source"][0], "image": str(tmp_path / "e.nii"), "fov": lists["source"][1]["label"]}
    entry = build(lists, source=[fov])["source"][0]
    assert (entry["size"], entry["spacing"]) == ([5, 4], [0.5, 0.25])
    assert entry["fov_sha256"] == hashlib.sha256(Path(fov["fov"]).read_bytes()).hexdigest()


def test_created_is_now_by_default(lists):
    assert build(lists, created=None)["created"].startswith("20")


def test_target_masks_are_dropped_unread(lists, tmp_path):
    with_mask = item(tmp_path / "b2", "9", "target", "OCTA")
    Path(with_mask["label"]).unlink()
    manifest = build(lists, target=[with_mask])
    assert "label" not in json.dumps(manifest["target"])
    manifest["target"][0]["label"] = "smuggled.png"  # even then no loader sees it
    assert set(datalist(manifest, "target")[0]) == {"image", "id", "domain", "dataset", "group", "size"}


def test_datalist(lists):
    manifest = build(lists)
    (entry,) = datalist(manifest, "evaluation")
    assert entry == {**lists["evaluation"][0], "size": [6, 9]}
    with pytest.raises(InputError, match="list 'tset' is unknown"):
        datalist(manifest, "tset")


def test_round_trip_is_exact_and_stable(lists, tmp_path):
    manifest, path = build(lists), tmp_path / "w" / "manifest.json"
    save_manifest(manifest, path)
    assert load_manifest(path) == manifest
    first = path.read_bytes()
    save_manifest(load_manifest(path), path)
    assert path.read_bytes() == first
    saved = json.loads(first)
    assert saved["target"][0]["image"] == "b/image/1.png"  # below the workspace
    assert Path(saved["source"][0]["image"]).is_absolute()
    assert sorted(os.listdir(path.parent)) == ["b", "manifest.json"]


def test_a_workspace_can_move(lists, tmp_path):
    save_manifest(build(lists), tmp_path / "w" / "manifest.json")
    (tmp_path / "w").rename(tmp_path / "elsewhere")
    manifest = load_manifest(tmp_path / "elsewhere" / "manifest.json")
    verify_files(manifest)
    assert manifest["target"][0]["image"] == str(tmp_path / "elsewhere" / "b" / "image" / "1.png")


def test_failed_save_keeps_the_old_manifest(lists, tmp_path, monkeypatch):
    manifest, path = build(lists), tmp_path / "new" / "manifest.json"
    save_manifest(manifest, path)
    before = path.read_bytes()

    def full_disk(self, text, **options):
        self.write_bytes(b"{")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(InputError, match="manifest.json: cannot be written.*the disk is full"):
        save_manifest({**manifest, "seed": 8}, path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["manifest.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(version=2), "a workspace of another version; expected manifest version 1, received 2"),
        (lambda m: m.pop("version"), "a workspace of another version"),
        (lambda m: m.update(format="mlflow"), "not a manifest"),
        (lambda m: m.pop("target"), "target is not a list of images"),
        (lambda m: m["source"][0].pop("label"), "source is not a list of images"),
        (lambda m: m["target"][0].update(label="x.png"), "target images must not have masks"),
        (lambda m: m["target"][0].update(label_sha256="0"), "target images must not have masks"),
        (lambda m: m.pop("seed"), "integer seed"),
    ],
)
def test_wrong_manifests(lists, tmp_path, change, message):
    manifest = build(lists)
    save_manifest(manifest, tmp_path / "m.json")
    saved = json.loads((tmp_path / "m.json").read_text())
    change(saved)
    (tmp_path / "m.json").write_text(json.dumps(saved))
    with pytest.raises(InputError, match=f"m.json: {message}|m.json.*{message}"):
        load_manifest(tmp_path / "m.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00\xff"])
def test_what_is_no_manifest(tmp_path, text):
    (tmp_path / "m.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="m.json"):
        load_manifest(tmp_path / "m.json")
    with pytest.raises(InputError, match="no such manifest"):
        load_manifest(tmp_path / "n.json")


def test_a_source_image_is_no_target_image(lists, tmp_path):
    copy = tmp_path / "renamed.png"
    copy.write_bytes(Path(lists["target"][0]["image"]).read_bytes())
    with pytest.raises(InputError, match=r"renamed.png \(source\) and .*1.png \(target\) are the same image"):
        build({**lists, "source": [*lists["source"], {**lists["source"][0], "id": "other", "image": str(copy)}]})


@pytest.mark.parametrize("other", ["target", "supervised", "source"])
def test_evaluation_images_must_be_unseen(lists, tmp_path, other):
    copy = tmp_path / "renamed.png"
    copy.write_bytes(Path(lists["evaluation"][0]["image"]).read_bytes())
    seen = {**lists["evaluation"][0], "id": "other", "image": str(copy)}
    with pytest.raises(InputError, match=rf"renamed.png \({other}\).*3.png \(evaluation\) are the same image"):
        build(lists, **{other: [*lists[other], seen]})


@pytest.mark.parametrize("other", ["target", "supervised"])
def test_evaluation_patients_must_be_unseen(lists, tmp_path, other):
    """Two eyes of one child: other images, the same vessels."""
    left, right = (item(tmp_path / "eyes", name, "target", "OCTA") for name in ("07L", "07R"))
    message = rf"07L.png \({other}\) and .*07R.png \(evaluation\) are of the same patient"
    with pytest.raises(InputError, match=message):
        build(lists, **{other: [left], "evaluation": [right]})
    build(lists, **{other: [left], "evaluation": [{**right, "dataset": "another"}]})


def test_equal_file_names_are_no_patients(lists, tmp_path):
    train, test = ({**item(tmp_path / part, "1_A", "target"), "group": "1_A"} for part in ("train", "test"))
    manifest = build(lists, target=[train], evaluation=[test])
    assert [entry["group"] for name in ("target", "evaluation") for entry in manifest[name]] == ["1_A", "1_A"]


def test_an_official_split_that_divides_patients_is_pointed_out(lists, tmp_path, caplog):
    eyes = {"train": "1_OD", "test": "1_OS"}
    made = {part: {**item(tmp_path / part, eye, "target"), "id": f"SET-{part}-{eye}"} for part, eye in eyes.items()}
    build(lists, target=[made["train"]], evaluation=[made["test"]])
    assert "1_OS.png (evaluation) are of the same patient" in caplog.text


def test_ids_are_unique_but_follow_the_image(lists, tmp_path):
    homonym = item(tmp_path / "other clinic", "1", "target", "OCTA")
    same = item(tmp_path / "e", "1", "target", "OCTA")
    Path(same["image"]).write_bytes(Path(lists["target"][0]["image"]).read_bytes())
    manifest = build(lists, target=[*lists["target"], homonym], supervised=[same])
    ids = [entry["id"] for entry in manifest["target"]]
    assert ids == ["OCTA-1", "OCTA-2", f"OCTA-1-{manifest['target'][2]['sha256'][:8]}"]
    assert manifest["supervised"][0]["id"] == "OCTA-1"
    first = lists["target"][0]
    with pytest.raises(InputError, match="are one image; list it once"):
        build(lists, target=[first, first])
    with pytest.raises(InputError, match="are one image; list it once"):  # a copy in a folder of another name
        build(lists, target=[first, {**same, "id": "other-1", "dataset": "other"}])


def test_unusable_lists(lists, tmp_path):
    for name in ("source", "target"):
        with pytest.raises(InputError, match=f"{name}: expected at least one image"):
            build(lists, **{name: []})
    for name in ("source", "evaluation", "supervised"):
        with pytest.raises(InputError, match=f"{name} images need a mask"):
            build(lists, **{name: lists["target"]})
    blank = item(tmp_path / "blank", "1")
    Image.fromarray(np.zeros((6, 9), np.uint8)).save(blank["label"])
    with pytest.raises(InputError, match="1.png: the mask marks no vessel"):
        build(lists, source=[blank])
    Image.fromarray(np.zeros((6, 9), np.uint8)).save(blank["image"])
    with pytest.raises(InputError, match="1.png: every pixel is 0"):
        build(lists, target=[blank])


def test_verify_names_what_is_missing_or_changed(lists):
    manifest = build(lists)
    verify_files(manifest)
    source = Path(lists["source"][0]["label"])
    content = source.read_bytes()
    source.write_bytes(content[:-1] + b"?")
    os.utime(source, ns=(1, 1))
    with pytest.raises(InputError, match="label/01L.png: not what they were"):
        verify_files(manifest)
    source.write_bytes(content)  # another time stamp, the same content
    os.utime(source, ns=(2, 2))
    verify_files(manifest)
    Path(lists["target"][1]["image"]).unlink()
    with pytest.raises(InputError, match="image/2.png: missing"):
        verify_files(manifest)
    verify_files(manifest, ["source"])


def test_unchanged_files_are_not_hashed_again(lists, monkeypatch):
    manifest = build(lists)
    monkeypatch.setattr("monai_vessel_uda.data.manifest.sha256", lambda path: pytest.fail(f"{path} was hashed"))
    verify_files(manifest, ["source", "target", "evaluation", "supervised"])


def test_target_masks_may_be_deleted_until_they_are_asked_for(lists):
    manifest = build(lists)
    for name in ("evaluation", "supervised"):
        Path(lists[name][0]["label"]).unlink()
    verify_files(manifest)
    verify_files(manifest, ["target"])
    for name in ("evaluation", "supervised"):
        with pytest.raises(InputError, match="missing"):
            verify_files(manifest, [name])
    with pytest.raises(InputError, match="unknown"):
        verify_files(manifest, ["all"])
