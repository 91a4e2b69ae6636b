"""Source patches, and generators whose noise prediction is exact."""

import pytest
import torch
from torch import nn

from monai_vessel_uda.data.patches import PatchDataset, RandSymmetryd
from monai_vessel_uda.diffusion import NoiseSchedule
from monai_vessel_uda.methods.latent_mining import IntensityRange

SCHEDULE = NoiseSchedule()
ANY = IntensityRange((-9.0, 9.0), (0.0, 9.0))
"""No patch is corrected."""


class GaussianGenerator(nn.Module):
    """Exact denoiser of images whose pixels are normal with mean ``mean + shift * mask``."""

    def __init__(self, mean, deviation=0.2, shift=0.0):
        super().__init__()
        self.mean, self.deviation, self.shift = mean, deviation, shift
        self.masks = []

    def forward(self, x_t, timesteps, mask=None):
        self.masks.append(mask)
        mean = self.mean + (0 if mask is None else self.shift * mask)
        alpha_bar = SCHEDULE.alpha_bar(timesteps).view(-1, 1, 1, 1).to(x_t)
        return (
            (1 - alpha_bar).sqrt() * (x_t - alpha_bar.sqrt() * mean) / (alpha_bar * self.deviation**2 + 1 - alpha_bar)
        )


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(4, 1, 16, 16, generator=generator) > 0.8).float()
    return 0.5 + 0.2 * torch.randn(4, 1, 16, 16, generator=generator) + 0.4 * mask, mask


@pytest.fixture
def source(batch):
    images = [{"image": x, "label": y} for x, y in zip(*batch, strict=True)]
    return PatchDataset(images, RandSymmetryd(["image", "label"]), 0)
