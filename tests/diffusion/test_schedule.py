import pytest
import torch

from monai_vessel_uda.diffusion import NoiseSchedule
from monai_vessel_uda.errors import InputError


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_signal_falls_from_one_to_nearly_nothing(name):
    schedule = NoiseSchedule(name)
    alpha_bar = schedule.alpha_bar(torch.arange(-1, 1000))
    assert alpha_bar[0] == 1
    assert (alpha_bar.diff() < 0).all()
    assert alpha_bar[-1] < 1e-4


def test_linear_schedule_is_the_papers():
    # The authors' release has 0.394 at timestep 300.
    assert abs(NoiseSchedule().alpha_bar(300) - 0.394) < 5e-4


def test_cosine_schedule_is_nichol_and_dhariwals():
    ratio = (
        torch.cos(torch.tensor(0.5 + 0.008) / 1.008 * torch.pi / 2) ** 2
        / torch.cos(torch.tensor(0.008) / 1.008 * torch.pi / 2) ** 2
    )
    assert abs(NoiseSchedule("cosine").alpha_bar(499) - ratio) < 1e-6


def test_add_noise_mixes_with_unit_power():
    schedule = NoiseSchedule()
    x_0, noise = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    timesteps = torch.tensor([-1, 999])
    x_t = schedule.add_noise(x_0, noise, timesteps)
    assert (x_t[0] == 0).all()
    assert torch.allclose(x_t[1] ** 2, (1 - schedule.alpha_bar(999)).float())
    assert torch.allclose(schedule.add_noise(noise, x_0, timesteps)[1] ** 2, schedule.alpha_bar(999).float())


@pytest.mark.parametrize("arguments", [{"name": "quadratic"}, {"num_train_timesteps": 0}])
def test_impossible_schedules_are_refused(arguments):
    with pytest.raises(InputError):
        NoiseSchedule(**arguments)
