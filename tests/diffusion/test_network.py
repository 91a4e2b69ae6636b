import pytest
import torch

from monai_vessel_uda.diffusion import MaskConditionedUNet, StackedInputUNet, stack_inputs
from monai_vessel_uda.errors import InputError

TINY = {"channels": (8, 16), "attention_levels": (False, True), "norm_num_groups": 4, "num_head_channels": 8}


def trained_a_little(network, **shapes):
    """MONAI starts the last layer at zero; noise in all weights makes the output depend on the input."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


@pytest.mark.parametrize("space_to_depth", [1, 2])
def test_prediction_depends_on_image_mask_and_time(space_to_depth):
    network = trained_a_little(MaskConditionedUNet(**TINY, num_res_blocks=1, space_to_depth=space_to_depth))
    x, t = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([10])
    with torch.no_grad():
        base = network(x, t)
        assert base.shape == x.shape
        assert torch.equal(base, network(x, t, torch.zeros_like(x)))
        assert (network(x, t, torch.ones_like(x)) - base).abs().max() > 1e-3
        assert (network(x, torch.tensor([900])) - base).abs().max() > 1e-3
        assert (network(-x, t) - base).abs().max() > 1e-3


@pytest.mark.parametrize("space_to_depth", [1, 2])
def test_memory_saved_without_gradients_changes_no_bit(space_to_depth):
    network = trained_a_little(MaskConditionedUNet(**TINY, space_to_depth=space_to_depth))
    x_t, mask, timesteps = torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16), torch.tensor([5, 700])
    given = x_t.clone()
    expected = network(x_t, timesteps, mask)
    expected.sum().backward()
    with torch.no_grad():
        assert torch.equal(network(x_t, timesteps, mask), expected)
        assert torch.equal(network(x_t, timesteps, mask), expected)
    assert torch.equal(x_t, given)


def test_three_dimensions():
    network = MaskConditionedUNet(3, **TINY, num_res_blocks=1, space_to_depth=2)
    x = torch.randn(1, 1, 8, 8, 8)
    assert network(x, torch.tensor([3])).shape == x.shape


def test_sides_that_do_not_fit_are_refused():
    network = MaskConditionedUNet(**TINY, space_to_depth=2)
    with pytest.raises(InputError, match="divisible by 4"):
        network(torch.zeros(1, 1, 18, 16), torch.tensor([0]))


@pytest.mark.parametrize("space_to_depth", [1, 2])
def test_torchscript_takes_any_size_and_batch(space_to_depth):
    network = trained_a_little(MaskConditionedUNet(**TINY, space_to_depth=space_to_depth))
    scripted = torch.jit.script(network)
    for batch, side in ((1, 16), (3, 32)):
        x_t, mask = torch.rand(batch, 1, side, 16), torch.rand(batch, 1, side, 16)
        timesteps = torch.arange(batch) * 400
        expected = network(x_t, timesteps, mask)
        assert expected.abs().max() > 1e-2
        assert torch.allclose(scripted(x_t, timesteps, mask), expected, atol=1e-5)
        assert torch.allclose(scripted(x_t, timesteps), network(x_t, timesteps), atol=1e-5)


def test_stacked_inputs_are_the_same_network():
    plain, stacked = trained_a_little(MaskConditionedUNet(**TINY)), StackedInputUNet(**TINY).eval()
    stacked.load_state_dict(plain.state_dict())
    x_t, mask, timesteps = torch.rand(4, 1, 16, 16), torch.rand(4, 1, 16, 16), torch.tensor([0, 1, 333, 999])
    expected = plain(x_t, timesteps, mask)
    assert torch.equal(stacked(stack_inputs(x_t, timesteps, mask)), expected)
    assert not torch.equal(stacked(stack_inputs(x_t, timesteps.flip(0), mask)), expected)
    scripted = torch.jit.script(stacked)
    assert torch.allclose(scripted(stack_inputs(x_t, timesteps, mask)), expected, atol=1e-5)


@pytest.mark.parametrize("network", [MaskConditionedUNet, StackedInputUNet])
def test_torchscript_names_no_device(network):
    """Or it computes only where it was traced: loading moves weights, but not what the graph itself makes."""
    graph = str(torch.jit.script(network(**TINY, space_to_depth=2).eval()).traced.inlined_graph)
    assert "aten::conv2d" in graph or "aten::_convolution" in graph
    assert ": Device = prim::Constant" not in graph
