"""Generators whose noise prediction is exact."""

from torch import nn

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
