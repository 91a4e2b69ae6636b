"""Two processes train what one trains."""

import json
from pathlib import Path

import pytest
import torch

from monai_vessel_uda.engines import distributed
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.files import load_json

from . import trainings
from .launch import copy_without, losses, run_bundle, torchrun

WITHOUT_EFFECT = (
    "attn.to_k.bias",
    "model.0.conv.unit0.conv.bias",
    "model.1.submodule.conv.unit0.conv.bias",
    "model.2.0.conv.bias",
)
"""Parameters that the layer after them cancels: a constant in front of a softmax or of an instance normalisation. Their
gradient is rounding error, of which Adam makes steps of full length, so they alone may differ."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of both trainings: by one process, by two, and interrupted and resumed by the other number."""
    folder = tmp_path_factory.mktemp("trained")
    trainings.train(folder / "one")
    trainings.train(folder / "one_then_two", interrupted=True)
    result = torchrun(Path(trainings.__file__), folder, "train")
    assert result.returncode == 0, result.stderr[-3000:]
    trainings.train(folder / "two_then_one")
    return folder


@pytest.mark.slow
def test_the_parts_of_two_processes_are_the_batch_of_one(trained):
    (joint,) = (json.loads(path.read_text()) for path in (trained / "one" / "generator").glob("seen_*.json"))
    parts = [json.loads((trained / "two" / "generator" / f"seen_{rank}.json").read_text()) for rank in (0, 1)]
    assert [len(batch) for batch in joint] == [4] * 12
    for batch, *shares in zip(joint, *parts, strict=True):
        assert [len(share) for share in shares] == [2, 2]
        assert sorted(batch) == sorted(sum(shares, []))


@pytest.mark.slow
@pytest.mark.parametrize("training", ["generator", "segmenter"])
@pytest.mark.parametrize("how", ["two", "two_then_one", "one_then_two"])
def test_the_weights_are_those_of_a_single_process(trained, training, how):
    expected, got = (torch.load(trained / name / training / "weights.pt") for name in ("one", how))
    untrained = trainings.TRAININGS[training](trained / "unused")[1]["network"].state_dict()
    for network, state in expected.items():
        for name, tensor in state.items():
            if not name.endswith(WITHOUT_EFFECT):
                torch.testing.assert_close(got[network][name], tensor, atol=2e-6, rtol=1e-5, msg=f"{network} {name}")
    moved = max(float((expected["network"][name] - untrained[name]).abs().max()) for name in untrained)
    assert moved > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("how", ["two", "two_then_one", "one_then_two"])
def test_what_the_networks_say_is_what_a_single_process_made_them_say(trained, how):
    images = torch.stack([item["image"] for item in trainings.patches().images])
    for training, arguments in (("generator", (torch.tensor([10, 300, 600, 900]),)), ("segmenter", ())):
        outputs = []
        for name in ("one", how):
            network = trainings.TRAININGS[training](trained / "unused")[1]["network"].eval()
            network.load_state_dict(torch.load(trained / name / training / "weights.pt")["network"])
            outputs.append(network(images, *arguments).detach())
        assert outputs[0].std() > 0.05
        torch.testing.assert_close(outputs[1], outputs[0], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("training", ["generator", "segmenter"])
@pytest.mark.parametrize("how", ["two", "two_then_one", "one_then_two"])
def test_losses_are_those_of_the_joint_batch(trained, training, how):
    expected, got = (losses(trained / name / training) for name in ("one", how))
    assert len(expected) == 4
    torch.testing.assert_close(got, expected, atol=0, rtol=1e-5)


@pytest.mark.slow
def test_the_bundle_trains_the_generator_of_a_single_process(adapted, tmp_path):
    workspace = copy_without(adapted, tmp_path / "workspace", "ddpm_source")
    result = run_bundle("ddpm_pretrain", "train.json", "multi_gpu_train.json", workspace=workspace, domain="source")
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("source generator: 4/4") == 1, "the first process alone reports"
    expected, got = (folder / "stages" / "ddpm_source" for folder in (adapted, workspace))
    assert {path.name for path in got.iterdir()} == {path.name for path in expected.iterdir()}
    torch.testing.assert_close(losses(got), losses(expected), atol=0, rtol=1e-5)
    assert load_json(got / "stage.json")["settings"] == load_json(expected / "stage.json")["settings"]
    one, two = (torch.load(folder / "weights.pt") for folder in (expected, got))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=2e-6, rtol=1e-5, msg=name)


@pytest.mark.slow
def test_the_bundle_trains_the_segmenter_of_a_single_process(adapted, tmp_path):
    workspace = copy_without(adapted, tmp_path / "workspace", "segmenters/mined")
    result = run_bundle("latent_mining", "train.json", "multi_gpu_train.json", workspace=workspace)
    assert result.returncode == 0, result.stderr[-3000:]
    expected, got = (folder / "stages" / "segmenters" / "mined" for folder in (adapted, workspace))
    torch.testing.assert_close(losses(got), losses(expected), atol=0, rtol=1e-5)
    thresholds = [load_json(folder / "weights.json")["threshold"] for folder in (expected, got)]
    assert thresholds[0] == pytest.approx(thresholds[1], abs=1e-5)
    one, two = (torch.load(folder / "weights.pt") for folder in (expected, got))
    assert one.keys() == two.keys()
    for name in one:
        if not name.endswith(WITHOUT_EFFECT):
            torch.testing.assert_close(two[name], one[name], atol=2e-6, rtol=1e-5, msg=name)


class TestShareOfBatch:
    def test_one_process_has_the_whole_batch(self):
        assert distributed.share_of_batch(7) == 7

    def test_several_share_it(self, monkeypatch):
        monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 4)
        assert distributed.share_of_batch(12) == 3
        with pytest.raises(InputError, match="batch_size: expected a multiple of 4, .* got 7"):
            distributed.share_of_batch(7)

    def test_processes_that_do_not_know_of_each_other_are_refused(self, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(InputError, match="multi_gpu_train.json"):
            distributed.share_of_batch(4)
