"""What is measured of an imported network; the import as a whole: tests/test_import_generator.py."""

import pytest
import torch
from torch import nn

from monai_vessel_uda.diffusion import NoiseSchedule
from monai_vessel_uda.engines.generator_import import noise_prediction_error


class Exact(nn.Module):
    """The noise in an image that was black, times a factor."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x_t, timesteps, mask):
        return self.factor * x_t / (1 - NoiseSchedule().alpha_bar(timesteps)).sqrt().view(-1, 1, 1, 1).to(x_t)


@pytest.mark.parametrize(("factor", "expected"), [(1.0, 0.0), (0.5, 0.25), (0.0, 1.0)])
def test_error_of_the_noise_prediction(factor, expected):
    patches = [{"image": torch.zeros(1, 32, 32), "seed": torch.tensor(i)} for i in range(8)]
    error = noise_prediction_error(Exact(factor), patches, NoiseSchedule(), len(patches))
    assert error == pytest.approx(expected, abs=0.05 * expected + 1e-6)
