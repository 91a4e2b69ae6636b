"""The commands of docs/deployment.md, run as they are written; and that every block of the pages is run somewhere."""

import csv
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from monai_vessel_uda import segmenter
from monai_vessel_uda.data.images import image_stem, read_image, read_mask
from monai_vessel_uda.files import load_json

from .commands import PAGES, ROOT, bash, block, blocks, path_of, replaced

PAGE = "deployment.md"
RUN_HERE = [found.name for found in blocks(PAGE) if found.mark == "run"]
NOT_RUN = {
    ("deployment.md", "TensorRT"): "not run: needs a GPU",
    ("monai_label.md", "Install (2)"): "not run: installs 3 GB",
}
AFFINE = np.array([[-0.1, 0, 0, 3], [0, 0.2, 0, -4], [0, 0, 1, 5], [0, 0, 0, 1]])
THRESHOLD = 0.4
"""That of the page's second command."""
LARGEST_SHARE = 0.001
"""Of pixels that may differ between runtimes: logits may by 1e-4, and some pixel may be that near to the threshold."""


@dataclass(frozen=True)
class Done:
    """What a block was given and what it left."""

    bundle: Path
    results: Path
    stdout: str
    masks: dict[str, np.ndarray]
    """Of all images, by name; from ``segment`` in this process."""
    masks_at_threshold: dict[str, np.ndarray]


def masks_in(folder: Path) -> dict[str, np.ndarray]:
    """All masks below a folder by the name of their image, "sub/scan"."""
    found = {path: image_stem(path).removesuffix("_vessels") for path in folder.rglob("*_vessels.*")}
    return {str(path.relative_to(folder).with_name(name)): read_mask(path) for path, name in found.items()}


def assert_same_masks(found, expected):
    assert found.keys() == expected.keys(), "one mask for each image"
    for name, mask in expected.items():
        assert np.array_equal(found[name], mask), name


def check_pngs(done: Done):
    paths = sorted(path.name for path in done.results.rglob("*.*"))
    assert paths == ["evaluation_000_vessels.png", "evaluation_001_vessels.png", "scan_vessels.png"]
    assert all(set(np.unique(read_image(path).array)) == {0, 255} for path in done.results.rglob("*.png"))
    assert_same_masks(masks_in(done.results), done.masks)


def check_niftis(done: Done):
    assert len(list(done.results.rglob("*_vessels.nii.gz"))) == len(done.masks)
    assert_same_masks(masks_in(done.results), done.masks_at_threshold)
    mask = nibabel.load(done.results / "sub" / "scan_vessels.nii.gz")
    assert mask.shape == (50, 64)
    np.testing.assert_allclose(mask.affine, AFFINE, atol=1e-6)


def check_archive(done: Done):
    assert (done.results / "vessels.zip").is_file()
    assert_same_masks(masks_in(done.results / "masks"), done.masks)
    unpacked = done.results / "unpacked" / "vessel_segmentation"
    files = {path.relative_to(done.bundle) for path in done.bundle.rglob("*") if path.is_file()}
    assert files == {path.relative_to(unpacked) for path in unpacked.rglob("*") if path.is_file()}
    assert all((unpacked / name).read_bytes() == (done.bundle / name).read_bytes() for name in files)
    assert done.stdout.splitlines()[-1] == "<class 'monai.networks.nets.unet.UNet'>"


def check_scores(done: Done):
    with (done.results / "metrics.csv").open() as file:
        by_monai = {name: float(value) for name, value in csv.reader(file)}
    ours = load_json(done.results / "scores.json")["summary"]
    assert 0 < ours["dice"]["mean"] < 1
    assert by_monai["val_mean_dice"] == pytest.approx(ours["dice"]["mean"], abs=1e-5)
    assert by_monai.keys() == {"val_mean_dice", "val_sensitivity", "val_specificity", "val_hausdorff_95"}
    assert {"roc_auc", "pr_auc", "cldice", "ahd_px"} <= ours.keys()


def check_tuned(done: Done):
    before, after = (
        torch.load(bundle / "models" / "model.pt", weights_only=True)
        for bundle in (done.bundle, done.results / "tuned")
    )
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert "Epoch: 2/2" in done.stdout


def check_runtimes(done: Done):
    models = {path.name for path in (done.results / "converted" / "models").iterdir()}
    assert {"model.ts", "model.onnx"} <= models
    by_onnx, by_torchscript = masks_in(done.results / "onnx"), masks_in(done.results / "torchscript")
    assert by_onnx.keys() == by_torchscript.keys() == done.masks.keys()
    for name, mask in done.masks.items():
        assert np.mean(by_onnx[name] != by_torchscript[name]) <= LARGEST_SHARE, name
        assert np.mean(by_torchscript[name] != mask) <= LARGEST_SHARE, name


CHECKS: dict[str, Callable[[Done], None]] = {
    "MONAI alone": check_pngs,
    "MONAI alone (2)": check_niftis,
    "One file": check_archive,
    "Score": check_scores,
    "Fine-tune": check_tuned,
    "TorchScript and ONNX": check_runtimes,
    "Several processes": check_pngs,
}
"""What each block that is run here must have left, by the name of its section."""


def test_every_block_that_is_run_has_a_check():
    assert list(CHECKS) == RUN_HERE


def test_every_block_says_where_it_is_run_and_is_run_there():
    """A test that is named takes the block from the page, by its name."""
    for page in PAGES:
        assert len(re.findall(r"^<!-- (?:not )?run", path_of(page).read_text(), re.M)) == len(blocks(page)), page
        for found in blocks(page):
            where = (found.page, found.name)
            assert found.mark, where
            if found.mark.startswith("not run"):
                assert NOT_RUN[where] == found.mark
            elif found.mark == "run":
                assert found.page == PAGE and found.name in CHECKS
            else:
                tests = ROOT / found.mark.removeprefix("run by ")
                sources = "".join(path.read_text() for path in ([tests] if tests.is_file() else tests.glob("*.py")))
                assert f'block("{found.page}", "{found.name}")' in sources, where


def test_every_variable_is_explained():
    """In the list of the page, or in the block itself."""
    (explained,) = re.findall(r"^In all commands:\n\n```\n(.*?)```", path_of(PAGE).read_text(), re.M | re.S)
    known = set(re.findall(r"\b([A-Z]+)=", explained))
    used = {}
    for found in blocks(PAGE):
        own = set(re.findall(r"export (\w+)=", found.text))
        used |= {name: found.name for name in re.findall(r"\$(\w+)", found.text) if name not in own}
    assert used.keys() == known, {name: used.get(name) for name in used.keys() ^ known}


def test_the_environment_of_monai_label_can_be_made():
    """What make would do; doing it takes gigabytes."""
    command = replaced(block("monai_label.md", "Install").text, {"make label": "make --dry-run --always-make label"})
    assert "pip install --no-deps -r requirements-label.txt" in bash(command, ROOT).stdout


@pytest.fixture(scope="module")
def images(phantoms, tmp_path_factory):
    """Two PNGs and, in a folder below, a NIfTI file that is not square."""
    folder = tmp_path_factory.mktemp("docs") / "images"
    shutil.copytree(phantoms["evaluation"] / "images", folder)
    (folder / "sub").mkdir()
    grey = read_image(folder / "evaluation_000.png").array[:, :50]
    nibabel.save(nibabel.Nifti1Image(grey.T.astype(np.float32), AFFINE), folder / "sub" / "scan.nii.gz")
    return folder


@pytest.fixture(scope="module")
def expected(adapted, images, tmp_path_factory):
    """The masks of all images at the segmenter's own threshold and at the page's."""
    folder = tmp_path_factory.mktemp("expected")
    segmenter.segment(images, folder / "own", adapted, device="cpu")
    segmenter.segment(images, folder / "page", adapted, threshold=THRESHOLD, device="cpu")
    own, at_threshold = masks_in(folder / "own"), masks_in(folder / "page")
    assert len(own) == 3
    assert all(0.05 < mask.mean() < at_threshold[name].mean() < 0.95 for name, mask in own.items()), "shows nothing"
    return own, at_threshold


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN_HERE)
def test_commands(name, adapted, phantoms, images, expected, tmp_path):
    if "onnx" in (text := block(PAGE, name).text):
        pytest.importorskip("onnxruntime")
    before = {path: path.stat().st_mtime_ns for path in adapted.rglob("*") if path.is_file()}
    bundle, results = adapted / "vessel_segmentation", tmp_path / "results"
    results.mkdir()
    variables = {"WORKSPACE": adapted, "BUNDLE": bundle, "IMAGES": images, "LABELLED": phantoms["supervised"]}
    done = bash(text, tmp_path, RESULTS=results, **variables)
    CHECKS[name](Done(bundle, results, done.stdout, *expected))
    after = {path: path.stat().st_mtime_ns for path in adapted.rglob("*") if path.is_file()}
    assert before == after, "the adaptation itself is left alone"
