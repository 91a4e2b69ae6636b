"""Stage 1's inference: image and mask pairs from a trained generator, as a folder that can be read back."""

import numpy as np
import pytest

from monai_vessel_uda.data.images import read_image, read_mask
from monai_vessel_uda.data.layouts import find_items
from monai_vessel_uda.files import load_json
from monai_vessel_uda.settings import bundle_folder

from ..conftest import TINY


@pytest.mark.parametrize("weights", ["stages/ddpm_source", "stages/co_optimization/round_02/generator"])
def test_draws_pairs(adapted, tmp_path, weights):
    from monai.bundle import ConfigWorkflow

    config = bundle_folder("ddpm_pretrain") / "configs" / "inference.json"
    options = {key: value for key, value in TINY.items() if key.split("#")[0] in load_json(config)}
    workflow = ConfigWorkflow(
        [str(config)],
        logging_file=False,
        workflow_type=None,
        workspace=str(adapted),
        patches_of="source",
        generator_weights=str(adapted / weights / "weights.pt"),
        images=5,
        output_dir=str(tmp_path / "drawn"),
        cache_dir=str(tmp_path / "cache"),
        **options,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    items = find_items(tmp_path / "drawn", domain="source", labels="required")
    assert len(items) == 5
    fractions = []
    for item in items:
        image, mask = read_image(item["image"]).array, read_mask(item["label"])
        assert image.shape == mask.shape == (TINY["patch_size"],) * 2
        assert image.dtype == np.uint8 and image.std() > 0
        fractions.append(mask.mean())
    assert 0 < max(fractions) < 0.7
