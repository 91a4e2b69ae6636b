"""Drawing images through MONAI's evaluator gives what the sampler itself gives; a picture of samples."""

import pytest
import torch

from monai_vessel_uda.data.images import read_image
from monai_vessel_uda.data.patches import PatchDataset, RandSymmetryd
from monai_vessel_uda.diffusion import MaskConditionedUNet, NoiseSchedule, StackedInputUNet
from monai_vessel_uda.engines.sampling import (
    MaskToImageInferer,
    NumberedPatches,
    PrepareMasks,
    save_samples,
)
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.methods.latent_mining import LatentMining

OPTIONS = {"channels": (8, 16), "attention_levels": (False, True), "num_head_channels": 8, "norm_num_groups": 4}


def test_draws_what_the_sampler_draws():
    torch.manual_seed(0)
    plain, stacked = MaskConditionedUNet(**OPTIONS).eval(), StackedInputUNet(**OPTIONS).eval()
    for parameter in plain.parameters():  # the last layer starts at zero
        parameter.data.add_(0.1 * torch.randn(parameter.shape))
    stacked.load_state_dict(plain.state_dict())
    mining = LatentMining(NoiseSchedule("linear"), generation_steps=4, seed=5)
    masks = (torch.rand(3, 1, 16, 16) > 0.8).float()
    expected = mining.from_noise(plain, masks, [4, 5, 6])
    assert torch.equal(MaskToImageInferer(mining)(masks, stacked, numbers=[4, 5, 6]), expected)
    scripted = MaskToImageInferer(mining)(masks, torch.jit.script(stacked), numbers=[4, 5, 6])
    assert torch.allclose(scripted, expected, atol=1e-5)
    assert not torch.equal(MaskToImageInferer(mining)(masks, stacked, numbers=[7, 8, 9]), expected)


def test_masks_or_none():
    batch = {"image": torch.rand(2, 1, 8, 8), "number": torch.tensor([3, 4])}
    masks, target, arguments, options = PrepareMasks()(batch, torch.device("cpu"))
    assert (float(masks.abs().max()), target, arguments, options["numbers"]) == (0.0, None, (), [3, 4])
    assert torch.allclose(options["clean"].flatten(), batch["image"].mean(dim=(1, 2, 3)))
    masks, *_ = PrepareMasks()({**batch, "label": torch.ones(2, 1, 8, 8)}, torch.device("cpu"))
    assert float(masks.min()) == 1.0


def test_numbered_patches():
    patches = NumberedPatches([{"image": i} for i in "abc"], 2)
    assert len(patches) == 2
    assert patches[1] == {"image": "b", "number": torch.tensor(1)}
    with pytest.raises(InputError, match="count"):
        NumberedPatches([], 0)


def test_samples_picture(tmp_path):
    images = [{"image": torch.rand(1, 16, 16), "label": torch.ones(1, 16, 16)} for _ in range(4)]
    patches = PatchDataset(images, RandSymmetryd(["image", "label"]), 0)
    generator = MaskConditionedUNet(**OPTIONS)
    path = save_samples(generator, NoiseSchedule(), patches, tmp_path / "s.png", count=3, steps=3, seed=0)
    assert read_image(path).array.shape == (3 * 16 + 4 * 2, 3 * 16 + 4 * 2)


@pytest.mark.parametrize("from_flat", [True, False])
def test_samples_start_where_the_generator_was_trained(tmp_path, from_flat):
    asked = []

    class Silent(torch.nn.Module):
        def forward(self, x_t, timesteps, mask=None):
            asked.append((int(timesteps[0]), x_t))
            return torch.zeros_like(x_t)

    images = [{"image": torch.linspace(-1, 1, 256).view(1, 16, 16)}]
    patches = PatchDataset(images, RandSymmetryd(["image"]), 0)
    options = {"count": 1, "steps": 3, "seed": 0, "trained_timesteps": 30, "from_flat": from_flat}
    save_samples(Silent(), NoiseSchedule(), patches, tmp_path / "s.png", **options)
    assert [t for t, _ in asked] == [29, 19, 9]
    structure = torch.corrcoef(torch.stack([asked[0][1].flatten(), patches[0]["image"].flatten()]))[0, 1]
    assert abs(float(structure)) < 0.2 if from_flat else float(structure) > 0.9
