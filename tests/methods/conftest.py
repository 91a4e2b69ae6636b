"""Source patches, and finished rounds."""

import pytest
import torch

from monai_vessel_uda.data.patches import PatchDataset, RandSymmetryd

from .rounds import REFINEMENTS, Rounds


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(4, 1, 16, 16, generator=generator) > 0.8).float()
    return 0.5 + 0.2 * torch.randn(4, 1, 16, 16, generator=generator) + 0.4 * mask, mask


@pytest.fixture
def source(batch):
    images = [{"image": x, "label": y} for x, y in zip(*batch, strict=True)]
    return PatchDataset(images, RandSymmetryd(["image", "label"]), 0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two rounds from the segmenter that is right, each making it a little worse; do not change the folder."""
    rounds = Rounds(tmp_path_factory.mktemp("finished"), refinements=REFINEMENTS)
    rounds.run()
    return rounds
