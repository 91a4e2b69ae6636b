"""The exported bundle in MONAI Deploy's own operator, and DICOM segmentations that a validator accepts."""

import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydicom import dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import OphthalmicPhotography8BitImageStorage

from monai_vessel_uda.data.phantoms import octa_phantom

from ..docs.commands import block
from .en_face import SPACING, coded, write_en_face

START, START_ON_ITS_PAGE = block("deployment.md", "MONAI Deploy"), block("monai_deploy.md", "Run it")
WITH_TORCHSCRIPT = block("monai_deploy.md", "Run it (2)")
MASK_TO_DICOM = block("monai_deploy.md", "Without MONAI Deploy")

SUPERFICIAL = octa_phantom(np.random.default_rng(5), 96)[0][:81, :57]
DEEP = octa_phantom(np.random.default_rng(6), 96)[0][:64, :90].astype(np.uint16) * 100 + 7


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study with two angiograms of different size and depth, and files that are none."""
    folder = tmp_path_factory.mktemp("deploy") / "study"
    write_en_face(folder / "superficial.dcm", SUPERFICIAL, "L")
    write_en_face(folder / "series 2" / "IM0002", DEEP, "R", SliceThickness="0.5")
    structure = [coded(codes.DCM.SuperficialRetinaStructuralReflectanceMap)]
    write_en_face(folder / "structure.dcm", SUPERFICIAL, OphthalmicImageTypeCodeSequence=structure)
    (folder / "notes.txt").write_text("not DICOM")
    return folder


@pytest.fixture(scope="module")
def masks(study, bundle, tmp_path_factory):
    """The masks that ``python -m monai.bundle run`` writes for the two angiograms, by the width of the image."""
    images, out = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("masks")
    shutil.copy(study / "superficial.dcm", images)
    shutil.copy(study / "series 2" / "IM0002", images / "deep.dcm")
    config = bundle / "configs" / "inference.json"
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", config, "--bundle_root", bundle]
    subprocess.run([*command, "--dataset_dir", images, "--output_dir", out], check=True, capture_output=True)
    found = [np.asarray(Image.open(path)) > 0 for path in out.glob("*.png")]
    return {mask.shape[1]: mask for mask in found}


@pytest.fixture(scope="module")
def deployed(run_block, study, bundle, tmp_path_factory):
    """The application's output for the bundle's folder: its segmentations by width, and what it printed."""
    out = tmp_path_factory.mktemp("folder")
    words = {"make deploy": "make --dry-run deploy"}
    done = run_block(START, words, STUDY=study, BUNDLE=bundle, RESULTS=out)
    return segmentations(out), done


@pytest.fixture(scope="module")
def converted(bundle, tmp_path_factory):
    """A copy, to which TorchScript may be added."""
    return shutil.copytree(bundle, tmp_path_factory.mktemp("converted") / "bundle")


def segmentations(folder: Path):
    datasets = [dcmread(path) for path in folder.glob("*")]
    return {dataset.Columns: dataset for dataset in datasets}


def test_operator_gives_the_mask_of_the_bundle(deployed, masks):
    written, done = deployed
    assert done.returncode == 0, done.stderr
    assert {width: mask.shape for width, mask in masks.items()} == {57: (81, 57), 90: (64, 90)}
    assert written.keys() == masks.keys()
    for width, mask in masks.items():
        assert np.array_equal(written[width].pixel_array == 1, mask), width
        assert not np.array_equal(mask, mask[::-1]) and not np.array_equal(mask, mask[:, ::-1]), "cannot show a flip"


def test_both_pages_start_it_alike():
    assert START_ON_ITS_PAGE.text == START.text


def assert_same_segmentations(folder, expected):
    written = segmentations(folder)
    assert written.keys() == expected.keys()
    for width, segmentation in expected.items():
        assert np.array_equal(written[width].pixel_array, segmentation.pixel_array), width


def test_torchscript_gives_the_same(run_block, run_app_cases, study, converted, deployed, tmp_path):
    done = run_block(WITH_TORCHSCRIPT, STUDY=study, BUNDLE=converted, RESULTS=tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert_same_segmentations(tmp_path / "out", deployed[0])
    models = tmp_path / "models" / "vessel_segmentation"  # as in a MONAI Application Package
    models.mkdir(parents=True)
    shutil.copy(converted / "models" / "model.ts", models)
    assert run_app_cases({"package": (study, models.parent)}, tmp_path / "package") == {"package": (0, [])}
    assert_same_segmentations(tmp_path / "package", deployed[0])


def test_segmentation_describes_its_image(deployed, study):
    for path, side, thickness in (("superficial.dcm", codes.SCT.Left, 1.0), ("series 2/IM0002", codes.SCT.Right, 0.5)):
        source = dcmread(study / path)
        written = deployed[0][source.Columns]
        assert written.SegmentationType == "BINARY" and written.StudyInstanceUID == source.StudyInstanceUID
        series = written.ReferencedSeriesSequence[0]
        assert series.SeriesInstanceUID == source.SeriesInstanceUID
        assert series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert written.SeriesInstanceUID != source.SeriesInstanceUID
        measures = written.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert tuple(measures.PixelSpacing) == SPACING and measures.SliceThickness == thickness
        segment = written.SegmentSequence[0]
        assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "59820001"
        region = segment.AnatomicRegionSequence[0]
        assert (region.CodeValue, region.AnatomicRegionModifierSequence[0].CodeValue) == ("5665001", side.value)
        algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
        name = "Vessel segmentation adapted without target labels"  # of the bundle's metadata
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (name, "0.1.0")


def test_other_files_are_named_and_left_out(deployed):
    skipped = [line for line in deployed[1].stderr.splitlines() if line.startswith("skipped:")]
    assert len(skipped) == 1
    assert "structure.dcm" in skipped[0] and "Superficial retina structural reflectance map" in skipped[0]


def test_validator_accepts_the_segmentation(deployed, study, validator_errors, tmp_path):
    assert not [line for line in validator_errors(study / "superficial.dcm") if line.startswith("Error")]
    for width, dataset in deployed[0].items():
        assert validator_errors(Path(dataset.filename)) == [], width
    spoilt = deepcopy(deployed[0][57])
    del spoilt.SegmentSequence[0].SegmentLabel
    spoilt.save_as(tmp_path / "spoilt.dcm")
    assert any("SegmentLabel" in line for line in validator_errors(tmp_path / "spoilt.dcm"))


@pytest.mark.parametrize("empty", [False, True])
def test_mask_file_becomes_a_segmentation(run_block, study, bundle, masks, validator_errors, tmp_path, empty):
    mask = np.zeros_like(masks[57]) if empty else masks[57]
    Image.fromarray(np.uint8(255) * mask).save(tmp_path / "mask.png")
    image, mask_file = study / "superficial.dcm", tmp_path / "mask.png"
    done = run_block(MASK_TO_DICOM, IMAGE=image, MASK=mask_file, BUNDLE=bundle, RESULTS=tmp_path / "out")
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert np.array_equal(dcmread(path).pixel_array == 1, mask)
    assert validator_errors(path) == []


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"SOPClassUID": OphthalmicPhotography8BitImageStorage}, "got Ophthalmic Photography 8 Bit Image Storage"),
        ({"NumberOfFrames": 2}, "expected a single frame, got 2 frames"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "expected a grey image (MONOCHROME2), got PALETTE COLOR"),
        (
            {"OphthalmicImageTypeCodeSequence": [coded(codes.DCM.ChoroidVasculatureFlow)]},
            "got ['Choroid vasculature flow']",
        ),
        ({}, "the mask has 57 rows and 81 columns, expected 81 and 57"),
    ],
)
def test_image_that_is_not_supported(run_block, bundle, tmp_path, attributes, message):
    image = write_en_face(tmp_path / "image.dcm", SUPERFICIAL, **attributes)
    mask = tmp_path / "mask.png"
    Image.fromarray(SUPERFICIAL.T).save(mask)
    refused(run_block(MASK_TO_DICOM, IMAGE=image, MASK=mask, BUNDLE=bundle, RESULTS=tmp_path / "out"), message)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def refusals(run_app_cases, bundle, study, tmp_path_factory):
    """What the application says to folders and bundles that it cannot use: exit code and message of each."""
    folder = tmp_path_factory.mktemp("refused")
    (folder / "notes").mkdir()
    (folder / "notes" / "notes.txt").write_text("nothing here")
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    contents = {"fewer": dict(list(state.items())[1:]), "pickle": Path("/"), "without": None}
    for name, content in contents.items():
        weights = Path(shutil.copytree(bundle, folder / name)) / "models" / "model.pt"
        weights.unlink() if content is None else torch.save(content, weights)
    cases = {"no DICOM": (folder / "notes", bundle), "no bundle": (study, folder / "notes")}
    cases.update({name: (study, folder / name) for name in contents})
    return run_app_cases(cases, folder / "out"), folder / "out"


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no DICOM", "found no DICOM file"),
        ("no bundle", "expected one bundle"),
        ("without", "this bundle has no weights"),
        ("fewer", "Missing key(s) in state_dict"),
        ("pickle", "Weights only load failed"),
    ],
)
def test_input_that_the_application_refuses(refusals, case, message):
    code, errors = refusals[0][case]
    assert code == 2
    assert len(errors) == 1 and message in errors[0]
    assert not list(refusals[1].glob("*"))


def refused(done: subprocess.CompletedProcess, message: str) -> None:
    """One clear line and exit code 2."""
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]
    assert "Traceback" not in done.stderr
