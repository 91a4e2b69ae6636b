"""Nothing mixes the CPU with another device: the whole arithmetic on the device ``meta``, which needs no GPU.

``meta`` tensors have no values, and a CPU tensor among them raises in few operators; so every operator is looked at.
"""

import pytest
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from monai_vessel_uda.diffusion import MaskConditionedUNet, NoiseSchedule, StackedInputUNet
from monai_vessel_uda.engines.sampling import MaskToImageInferer, PrepareMasks
from monai_vessel_uda.engines.trainers import PrepareNoisePrediction, PrepareSegmentation
from monai_vessel_uda.losses import VesselWeightedNoiseLoss
from monai_vessel_uda.methods.latent_mining import LatentMining
from monai_vessel_uda.methods.prediction import VesselLogit
from monai_vessel_uda.transforms.augmentation import RandAppearance, RandElastic

DEVICE = torch.device("meta")
SCHEDULE = NoiseSchedule()
SHAPE = {"channels": (32, 64), "attention_levels": (False, True), "num_res_blocks": 1, "num_head_channels": 32}
SHAPE["norm_num_groups"] = 8


class OneDevice(TorchDispatchMode):
    """Refuses operators, other than copies, whose tensors lie on several devices; numbers as tensors are free."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, torch.Tensor)]
        devices = {tensor.device.type for tensor in tensors if tensor.ndim}
        assert len(devices) < 2 or "copy" in str(func), f"{func} of tensors on {sorted(devices)}"
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def one_device():
    with OneDevice():
        yield


@pytest.fixture
def batch():
    image, label = torch.rand(2, 1, 32, 32), (torch.rand(2, 1, 32, 32) > 0.5).float()
    return {"image": image, "label": label, "seed": torch.tensor([1, 2]), "number": torch.tensor([0, 1])}


@pytest.fixture
def images():
    return torch.empty(2, 1, 32, 32, device=DEVICE)


def test_a_mixture_would_be_seen(images):
    with pytest.raises(AssertionError, match=r"add.*tensors on \['cpu', 'meta'\]"):
        images + torch.ones(32)


@pytest.mark.parametrize("gamma", [None, 5.0])
def test_training_step_of_a_generator(batch, gamma):
    network = MaskConditionedUNet(**SHAPE).to(DEVICE)
    x_t, target, (timesteps, mask), _ = PrepareNoisePrediction(SCHEDULE, None, gamma)(batch, DEVICE, True)
    VesselWeightedNoiseLoss()(network(x_t, timesteps, mask).float(), target).backward()
    assert all(parameter.grad.device == DEVICE for parameter in network.parameters())


def test_training_step_of_a_segmenter(batch):
    network = UNet(2, 1, 2, (4, 8), (2,), num_res_units=1).to(DEVICE)
    prepare = PrepareSegmentation(RandAppearance(speckle=0.1), RandElastic(2.0))
    image, label = prepare(batch, DEVICE, True)
    DiceCELoss(softmax=True, to_onehot_y=True, include_background=False)(network(image), label).backward()
    assert all(parameter.grad.device == DEVICE for parameter in network.parameters())


@pytest.mark.parametrize("eight_bit", [False, True])
@pytest.mark.parametrize("decoder", ["ddim", "dpm-solver", "ancestral"])
def test_mining_and_generating(images, decoder, eight_bit):
    network = MaskConditionedUNet(**SHAPE).to(DEVICE)
    steps = {"steps": 10, "t0": 3, "generation_steps": 3, "generation_timesteps": 700, "refinements": 1}
    mining = LatentMining(SCHEDULE, decoder=decoder, eight_bit_latents=eight_bit, **steps)
    latents = mining.latents(network, images, images)
    decoded = mining.decode(network, latents, None, [0, 1])
    drawn = mining.from_noise(network, images, [0, 1], torch.zeros(2, 1, 1, 1))
    assert {tensor.device for tensor in (latents, decoded, drawn)} == {DEVICE}


def test_drawing_for_the_bundle(batch):
    masks, _, _, options = PrepareMasks()(batch, DEVICE)
    draw = MaskToImageInferer(LatentMining(SCHEDULE, steps=10, t0=3, generation_steps=3))
    assert draw(masks, StackedInputUNet(**SHAPE).to(DEVICE), **options).device == DEVICE


def test_segmenting_in_views(images):
    network = VesselLogit(UNet(2, 1, 2, (4, 8), (2,), num_res_units=1).to(DEVICE), 8).eval()
    assert network(images).device == DEVICE
