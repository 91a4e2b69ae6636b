"""The disk cache of prepared images."""

import shutil
from pathlib import Path

import pytest
import torch

from monai_vessel_uda.data.patches import PatchDataset, RandPatchd
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.files import load_json
from monai_vessel_uda.transforms import prepared
from monai_vessel_uda.transforms.prepared import prepared_images


@pytest.fixture
def manifest(workspace):
    return load_json(workspace / "manifest.json")


def set_scale(manifest, scale):
    for entry in manifest["preprocessing"]["source"]["datasets"].values():
        entry["nominal_scale"] = scale
    manifest["preprocessing"]["target"]["scale"] = scale


def test_images_are_prepared_once(manifest, tmp_path, monkeypatch):
    expected = prepared_images(manifest, "source", patch_size=16)
    first = prepared_images(manifest, "source", patch_size=16, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(prepared, "RetinalCompose", lambda chain: pytest.fail)
    again = prepared_images(manifest, "source", patch_size=16, cache_dir=tmp_path / "cache")
    for number in range(len(manifest["source"])):
        assert again[number].keys() == expected[number].keys() >= {"image", "label", "fov", "centres"}
        for key, value in expected[number].items():
            same = torch.equal if isinstance(value, torch.Tensor) else str.__eq__
            assert same(first[number][key], value) and same(again[number][key], value)


@pytest.mark.parametrize("name", ["source", "supervised"])
def test_images_smaller_than_a_patch_are_padded_where_training_has_masks(manifest, tmp_path, name):
    set_scale(manifest, 0.5)
    images = prepared_images(manifest, name, "negated", patch_size=60, cache_dir=tmp_path)
    patches = PatchDataset(images, RandPatchd(["image", "label", "fov"], (60, 60)), seed=0)
    side = images[0]["image"].shape[-1]
    plain = prepared_images(manifest, name, "negated")[0]
    before = (60 - plain["image"].shape[-1]) // 2
    window = (..., *[slice(before, before + plain["image"].shape[-1])] * 2)
    assert side == 60 > plain["image"].shape[-1]
    assert all(torch.equal(images[0][key][window], plain[key]) for key in ("image", "label", "fov"))
    assert patches[0]["image"].shape == (1, 60, 60) and patches[0]["label"].sum() > 0


def test_images_of_the_target_are_not_padded(manifest):
    set_scale(manifest, 0.5)
    with pytest.raises(InputError, match="patch_size: 60 exceeds"):
        prepared_images(manifest, "target", patch_size=60)


def test_several_processes_share_the_work(manifest, tmp_path, monkeypatch):
    expected = prepared_images(manifest, "target")
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: 1)
    own = []
    monkeypatch.setattr("ignite.distributed.barrier", lambda: own.extend(tmp_path.rglob("*.pt")))
    found = prepared_images(manifest, "target", cache_dir=tmp_path)
    assert sorted(path.name for path in own) == [f"{n:05d}.pt" for n in range(1, len(expected), 2)]
    assert len(found) == len(expected) > 2
    assert all(torch.equal(found[n]["image"], expected[n]["image"]) for n in range(len(expected)))


def test_a_damaged_file_is_made_anew(manifest, tmp_path):
    expected = prepared_images(manifest, "target", cache_dir=tmp_path / "cache")
    files = sorted((tmp_path / "cache").rglob("*.pt"))
    assert len(files) == len(manifest["target"])
    files[0].write_bytes(files[0].read_bytes()[:100])
    files[1].write_bytes(b"")
    again = prepared_images(manifest, "target", cache_dir=tmp_path / "cache")
    assert all(torch.equal(again[n]["image"], expected[n]["image"]) for n in range(len(files)))


def test_a_file_that_was_changed_is_not_kept_under_the_hash_of_the_file_before(manifest, tmp_path):
    copies = []
    for entry in manifest["source"]:
        copy = Path(shutil.copy2(entry["image"], tmp_path))
        copies.append({**entry, "image": str(copy)})
    changed = {**manifest, "source": copies}
    prepared_images(changed, "source", "aligned", 16, tmp_path / "cache")
    Path(copies[0]["image"]).write_bytes(Path(copies[1]["image"]).read_bytes())
    prepared_images(changed, "source", "aligned", 16, tmp_path / "cache")  # as they were when they were kept
    with pytest.raises(InputError, match="not what they were when the workspace was prepared"):
        prepared_images(changed, "source", "negated", 16, tmp_path / "cache")


def test_what_determines_the_images_names_the_folder(manifest, tmp_path):
    for patch_size, variant in ((16, "aligned"), (24, "aligned"), (16, "negated")):
        prepared_images(manifest, "source", variant, patch_size, tmp_path / "cache")
    changed = {**manifest, "source": [{**item, "sha256": "other"} for item in manifest["source"]]}
    prepared_images(changed, "source", "aligned", 16, tmp_path / "cache")
    record = {**manifest["preprocessing"], "version": "other"}
    prepared_images({**manifest, "preprocessing": record}, "source", "aligned", 16, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 5
