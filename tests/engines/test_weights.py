import pytest
import torch
from torch import nn

from monai_vessel_uda.engines.weights import check_timesteps, load_weights, save_weights
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.files import load_json, save_json, sha256


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


def test_timesteps_that_were_not_learnt_are_refused(tmp_path):
    weights = tmp_path / "weights.pt"
    check_timesteps(weights, 1000)
    save_json({"trained_timesteps": None}, tmp_path / "weights.json")
    check_timesteps(weights, 1000)
    save_json({"trained_timesteps": 600}, tmp_path / "weights.json")
    check_timesteps(weights, 600)
    for asked in (601, 1000):
        with pytest.raises(InputError, match="learnt the 600 least noisy"):
            check_timesteps(weights, asked)
