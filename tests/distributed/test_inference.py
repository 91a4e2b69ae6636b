"""The exported bundle shares out the images; what two processes write together is what one writes."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from monai_vessel_uda.settings import bundles_folder

from .launch import torchrun


@pytest.mark.slow
def test_masks_are_those_of_a_single_process(adapted, phantoms, tmp_path):
    images = tmp_path / "images"
    first, second, third, *_ = sorted(phantoms["target"].rglob("*.png"))
    (images / "visit_2").mkdir(parents=True)
    for path, folder in ((first, images), (second, images), (third, images / "visit_2")):
        shutil.copy2(path, folder)
    bundle = adapted / "vessel_segmentation"
    inference = bundle / "configs" / "inference.json"
    overlay = bundles_folder() / "vessel_segmentation" / "configs" / "multi_gpu_inference.json"

    def arguments(config_file, output):
        options = {"config_file": config_file, "bundle_root": bundle, "dataset_dir": images, "output_dir": output}
        return ["-m", "monai.bundle", "run", *(f"--{key}={value}" for key, value in options.items())]

    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run([sys.executable, *arguments(inference, one)], check=True, capture_output=True)
    result = torchrun(*arguments([str(inference), str(overlay)], two))
    assert result.returncode == 0, result.stderr[-3000:]
    expected, got = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (one, two)
    )
    assert len(expected) == 3
    assert got == expected
    masks = [np.asarray(Image.open(one / name)) for name in expected]
    assert all(0 < mask.mean() < 255 for mask in masks), "masks that could differ"
