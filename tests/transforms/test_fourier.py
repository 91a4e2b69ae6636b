import pytest
import torch

from monai_vessel_uda.errors import InputError
from monai_vessel_uda.transforms.fourier import RandFourierAmplitudeSwapd, amplitude_swap


@pytest.mark.parametrize("shape", [(1, 31), (1, 16, 17), (2, 8, 9, 10)])
def test_swap_with_itself_is_the_identity_in_any_dimension(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(amplitude_swap(x, x, 0.2), x, atol=1e-5, rtol=0)


def test_low_amplitudes_come_from_the_target_and_the_rest_from_the_source():
    g = torch.Generator().manual_seed(0)
    source, target = torch.rand(1, 20, 24, generator=g) + 1, torch.rand(1, 20, 24, generator=g) + 3
    swapped = torch.fft.fftn(amplitude_swap(source, target, 0.1), dim=(1, 2))
    f_s, f_t = torch.fft.fftn(source, dim=(1, 2)), torch.fft.fftn(target, dim=(1, 2))
    low = torch.zeros(20, 24, dtype=torch.bool)
    for r in (-2, -1, 0, 1, 2):
        for c in (-2, -1, 0, 1, 2):
            low[r, c] = True
    torch.testing.assert_close(swapped.abs()[0][low], f_t.abs()[0][low], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(swapped[0][~low], f_s[0][~low], rtol=1e-3, atol=1e-3)


def test_of_small_patches_one_frequency_is_swapped_too():
    g = torch.Generator().manual_seed(0)
    source, target = torch.rand(1, 64, 64, generator=g), torch.rand(1, 64, 64, generator=g)
    swapped, theirs = (torch.fft.fftn(x, dim=(1, 2)).abs()[0] for x in (amplitude_swap(source, target, 0.01), target))
    torch.testing.assert_close(swapped[1, 0], theirs[1, 0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(amplitude_swap(source, target, 0.01), amplitude_swap(source, target, 1 / 64))


def test_zero_beta_moves_the_mean_alone():
    source, target = torch.rand(1, 12, 12) + 1, torch.rand(1, 12, 12) + 5
    torch.testing.assert_close(
        amplitude_swap(source, target, 0.0), source - source.mean() + target.mean(), atol=1e-4, rtol=0
    )


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="shapes"):
        amplitude_swap(torch.zeros(1, 4, 4), torch.zeros(1, 4, 5), 0.1)
    with pytest.raises(InputError, match="beta"):
        amplitude_swap(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4), 0.6)
    with pytest.raises(InputError, match="references"):
        RandFourierAmplitudeSwapd("image", [])


def test_random_transform_replays_and_stays_in_range():
    g = torch.Generator().manual_seed(0)
    references = [torch.rand(1, 20, 22, generator=g) * 2 - 1 for _ in range(4)]
    image = torch.rand(1, 16, 16, generator=g) * 2 - 1
    transform = RandFourierAmplitudeSwapd("image", references, beta=0.1)
    first = [transform.set_random_state(seed)({"image": image})["image"] for seed in (1, 1, 2)]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])
    assert first[0].abs().max() <= 1
    never = RandFourierAmplitudeSwapd("image", references, prob=0.0)
    assert torch.equal(never({"image": image})["image"], image)
