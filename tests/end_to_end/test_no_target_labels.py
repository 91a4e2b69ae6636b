"""Target masks have no way into the method: without them, or with nonsense in them, every bit stays the same."""

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from monai_vessel_uda import pipeline, preparation
from monai_vessel_uda.data.images import read_image
from monai_vessel_uda.files import load_json, save_json, sha256

from ..conftest import TINY

RESULTS = ("weights.pt", "pairs/*.pt", "losses.csv", "measures.json", "pseudo_masks.pt")


def adapt(folder, source, target):
    workspace = folder / "workspace"
    preparation.prepare(workspace, [source], target, seed=3)
    pipeline.adapt(workspace, "demo", {**TINY, "rounds": 1}, baselines=False, device="cpu")
    return {str(path.relative_to(workspace)): sha256(path) for pattern in RESULTS for path in workspace.rglob(pattern)}


@pytest.mark.slow
def test_masks_deleted_or_nan(phantoms, tmp_path):
    """The same target images, as a set with sound masks, with masks of NaN, and without masks."""
    variants = {}
    for name in ("sound", "nan", "absent"):
        root = tmp_path / name / "target"
        shutil.copytree(phantoms["evaluation"], root)
        if name == "absent":
            shutil.rmtree(root / "labels")
        if name == "nan":
            for mask in sorted((root / "labels").iterdir()):
                size = read_image(mask).array.shape[:2]
                nibabel.save(
                    nibabel.Nifti1Image(np.full(size[::-1], np.nan, np.float32), np.eye(4)), mask.with_suffix(".nii")
                )
                mask.unlink()
        variants[name] = adapt(tmp_path / name, phantoms["source"], root)
    assert len(variants["sound"]) > 10
    assert variants["nan"] == variants["sound"]
    assert variants["absent"] == variants["sound"]


def test_a_label_smuggled_into_the_manifest_is_refused(workspace):
    manifest = load_json(workspace / "manifest.json")
    manifest["target"][0]["label"] = manifest["source"][0]["label"]
    save_json(manifest, workspace / "manifest.json")
    with pytest.raises(ValueError, match="label"):
        pipeline.adapt(workspace, "demo", TINY, device="cpu")


def test_evaluation_masks_may_be_gone_until_the_scores(workspace, tmp_path):
    manifest = load_json(workspace / "manifest.json")
    for item in manifest["evaluation"]:
        gone = tmp_path / Path(item["label"]).name
        item["label"] = str(gone)
    save_json(manifest, workspace / "manifest.json")
    with pytest.raises(ValueError, match="evaluation_000.png, .*missing"):
        pipeline.adapt(workspace, "demo", {**TINY, "rounds": 1}, baselines=False, device="cpu")
    assert (workspace / "vessel_segmentation" / "models" / "model.pt").exists()
