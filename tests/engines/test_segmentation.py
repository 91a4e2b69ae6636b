import csv

import numpy as np
import pytest
import torch
from PIL import Image

from monai_vessel_uda.data.images import read_mask
from monai_vessel_uda.data.inference_items import images_to_segment
from monai_vessel_uda.engines.segmentation import Measurements, SaveVesselsd, model_transforms
from monai_vessel_uda.errors import InputError


def test_results_of_images_behind_a_link_lie_where_the_link_does(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "else").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "else" / "b.png")
    (tmp_path / "images" / "link").symlink_to(tmp_path / "else", target_is_directory=True)
    (item,) = images_to_segment(tmp_path / "images", tmp_path / "out")
    SaveVesselsd(tmp_path / "out", tmp_path / "images")({"file": item["image"], "pred": torch.ones(1, 8, 8)})
    assert (tmp_path / "out" / "link" / "b_vessels.png").exists()


@pytest.mark.parametrize(("seen", "area", "density"), [(10, "800", "0.1"), (20, "1600", "0.1"), (None, "3200", "0.05")])
def test_measurements_count_the_field_of_view_alone(tmp_path, seen, area, density):
    """Found at the working resolution, here half the image's own; an image in a sub-folder is named with it."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    path = tmp_path / "in" / "sub" / "a.png"
    Image.fromarray(np.zeros((40, 80), np.uint8)).save(path)
    logit, fov = torch.full((1, 20, 40), -9.0), torch.zeros(1, 20, 40, dtype=torch.uint8)
    logit[:, 8:10, :20] = 9
    fov[..., :seen] = 1
    result = {"file": str(path), "pred": logit, **({"fov": fov} if seen else {})}
    table = Measurements(tmp_path / "out")
    table.save()
    assert not table.path.exists()
    SaveVesselsd(tmp_path / "out", tmp_path / "in", measurements=table)(result)
    table.save()
    (row,) = csv.DictReader(table.path.read_text().splitlines())
    assert (row["image"], row["area_px"], row["vessel_area_density"]) == ("sub/a.png", area, density)
    written = read_mask(tmp_path / "out" / "sub" / "a_vessels.png")
    assert written[:, : 2 * (seen or 20)].any() and not written[:, 2 * (seen or 20) :].any()
    assert row["vessel_diameter_index_um"] == ""


@pytest.mark.parametrize(
    ("suffix", "probability", "message"),
    [
        (".jpg", False, "NAME_vessels.jpg: .jpg changes pixel values"),
        ("png", False, "NAME_vesselspng: cannot write this format"),
        (".gif", True, "NAME_probability.gif: .gif cannot hold probabilities"),
        (".dcm", False, "results are not written as DICOM"),
    ],
)
def test_formats_that_cannot_hold_results_are_refused_at_once(tmp_path, suffix, probability, message):
    with pytest.raises(InputError, match=message):
        SaveVesselsd(tmp_path, tmp_path, probability=probability, suffix=suffix)


@pytest.mark.parametrize(("suffix", "probability"), [(".gif", False), (".bmp", True), (".nii.gz", True), (None, True)])
def test_formats_that_hold_results(tmp_path, suffix, probability):
    assert SaveVesselsd(tmp_path, tmp_path, probability=probability, suffix=suffix).suffix == suffix


def test_a_model_without_preprocessing_is_refused():
    with pytest.raises(InputError, match="preprocessing"):
        model_transforms({})
    with pytest.raises(InputError, match="scale"):
        model_transforms({"preprocessing": {"target": {}}}, scale=0)
