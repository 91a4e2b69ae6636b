import pytest
import torch
from torch import nn

from monai_vessel_uda.errors import InputError
from monai_vessel_uda.files import load_json, load_tensors, save_json, sha256
from monai_vessel_uda.weights import check_generator, load_weights, save_weights


def test_round_trip_with_description(tmp_path):
    network = nn.Linear(2, 3)
    path = save_weights(network, tmp_path / "w.pt", {"polarity": "bright"})
    record = load_json(tmp_path / "w.json")
    assert record["polarity"] == "bright"
    assert record["sha256"] == sha256(path)
    assert record["architecture"]["parameters"] == 9
    loaded = load_weights(nn.Linear(2, 3), path)
    assert torch.equal(loaded.weight, network.weight)


@pytest.mark.parametrize("other", [nn.Linear(3, 2), nn.Conv2d(1, 1, 3), nn.Sequential(nn.Linear(2, 3))])
@pytest.mark.parametrize("with_record", [True, False])
def test_another_architecture_is_refused_and_left_alone(tmp_path, other, with_record):
    path = save_weights(nn.Linear(2, 3), tmp_path / "w.pt")
    if not with_record:
        path.with_suffix(".json").unlink()
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(InputError, match="another architecture"):
        load_weights(other, path)
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


def test_weights_that_another_record_describes_are_refused(tmp_path):
    path = save_weights(nn.Linear(2, 3), tmp_path / "w.pt")
    torch.save(nn.Linear(2, 3).state_dict(), path)
    with pytest.raises(InputError, match=r"w\.pt: these are not the weights that w\.json describes"):
        load_weights(nn.Linear(2, 3), path)


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3)])
def test_a_file_that_holds_no_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"w\.pt"):
        load_weights(nn.Linear(2, 3), tmp_path / "w.pt")


def test_weights_of_a_network_that_computes_otherwise_are_refused_though_all_shapes_agree(tmp_path):
    def network(stride=2, groups=2):
        return nn.Sequential(nn.Conv2d(1, 4, 3, stride=stride, padding=1), nn.GroupNorm(groups, 4))

    path = save_weights(network(), tmp_path / "w.pt")
    load_weights(network(), path)
    for other in (network(stride=1), network(groups=4)):
        with pytest.raises(InputError, match="another architecture: the network's strides, dilations, groups"):
            load_weights(other, path)


def test_weights_without_a_record_of_these_traits_are_those_of_an_earlier_version(tmp_path):
    path = save_weights(nn.Linear(2, 3), tmp_path / "w.pt")
    record = load_json(tmp_path / "w.json")
    save_json({**record, "architecture": {"network": "other", "parameters": 9}}, tmp_path / "w.json")
    loaded = load_weights(nn.Linear(2, 3), path)
    assert all(torch.equal(loaded.state_dict()[name], saved) for name, saved in load_tensors(path).items())


def test_noise_that_was_not_learnt_is_refused(tmp_path):
    weights = tmp_path / "weights.pt"
    check_generator(weights, 1000, "linear")
    save_json({"trained_timesteps": None}, tmp_path / "weights.json")
    check_generator(weights, 1000, "linear")
    save_json({"trained_timesteps": 600, "schedule": "cosine"}, tmp_path / "weights.json")
    check_generator(weights, 600, "cosine")
    for asked in (601, 1000):
        with pytest.raises(InputError, match="learnt the 600 least noisy"):
            check_generator(weights, asked, "cosine")
    with pytest.raises(InputError, match="learnt the noise of the cosine schedule, and the linear one is asked of it"):
        check_generator(weights, 600, "linear")
