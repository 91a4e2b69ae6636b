"""What the networks of a round are trained on: threshold, ensemble, sure patches, mined pairs."""

import pytest
import torch

from monai_vessel_uda.data.patches import ShardedPairs
from monai_vessel_uda.files import load_json, load_tensors

from .rounds import Rounds, level_of


class TestThreshold:
    """Of the pseudo-masks, for a segmenter that calls most of the background rather vessel than not."""

    GAIN, LEVEL = 2.0, -0.9

    def labels(self, folder, threshold):
        """Patches of the one fine-tuning with the probabilities in them."""
        rounds = Rounds(folder, {"loose": self.LEVEL}, (0.0,), self.GAIN, threshold=threshold, rounds=1)
        rounds.run()
        patches = rounds.of("fine-tune")[0]["patches"]
        probabilities = [torch.sigmoid(2 * self.GAIN * (patch["image"] - self.LEVEL)) for patch in patches]
        saved = load_tensors(folder / "rounds" / "round_01" / "pseudo_masks.pt")
        return torch.stack([patch["label"] for patch in patches]), torch.stack(probabilities), saved

    @pytest.mark.parametrize("threshold", [0.5, 0.8])
    def test_a_number(self, tmp_path, threshold):
        labels, probabilities, saved = self.labels(tmp_path, threshold)
        assert torch.equal(labels, (probabilities >= threshold).float())
        assert saved[0].dtype == torch.uint8

    def test_auto_is_the_segmenters_own(self, tmp_path):
        labels, probabilities, _ = self.labels(tmp_path, "auto")
        own = load_json(tmp_path / "rounds" / "round_00" / "segmenter" / "weights.json")["threshold"]
        assert own > 0.8, "at 0.5 nearly everything would be vessel"
        assert (probabilities >= 0.5).float().mean() > 0.9
        assert torch.equal(labels, (probabilities >= own).float())

    def test_none_keeps_the_probabilities(self, tmp_path):
        labels, probabilities, saved = self.labels(tmp_path, None)
        torch.testing.assert_close(labels, probabilities, atol=1e-6, rtol=0)
        assert saved[0].is_floating_point()
        assert ((labels > 0.1) & (labels < 0.9)).any()


def test_pseudo_masks_by_the_last_segmenters_together(tmp_path):
    """The mean of their probabilities, from the mean of their thresholds on."""
    rounds = Rounds(tmp_path, refinements=(0.5, 0.0), gain=2.0, ensemble=2)
    rounds.run()
    folders = [tmp_path / "rounds" / f"round_{k:02d}" / "segmenter" for k in range(2)]
    levels = [level_of(folder / "weights.pt") for folder in folders]
    own = [load_json(folder / "weights.json")["threshold"] for folder in folders]
    assert own[0] != own[1], "thresholds that cannot show it"
    for details, last in zip(rounds.of("fine-tune"), ([0], [0, 1]), strict=True):
        for patch in details["patches"]:
            together = sum(torch.sigmoid(4 * (patch["image"] - levels[j])) for j in last) / len(last)
            assert torch.equal(patch["label"], (together >= sum(own[j] for j in last) / len(last)).float())


def test_the_generator_learns_sure_patches_alone(tmp_path):
    asked = []

    def lowest(probability, mask, admissible):
        asked.append((probability, mask))
        assert torch.equal(admissible, torch.ones_like(mask)), "this target has no surround"
        return torch.nn.functional.pad(torch.ones(1, 1, 1), (8, 15, 16, 7))  # patches of 16 x 16 of the lower left

    rounds = Rounds(tmp_path, refinements=(0.0,), rounds=1, threshold=0.5, confident=lowest)
    rounds.run()
    assert len(asked) == 3
    assert all(torch.equal(mask, (probability >= 0.5).float()) for probability, mask in asked)
    corners = [item["image"][:, 8:, :16].flatten().sort().values for item in rounds.target]
    for patch in rounds.of("fine-tune")[0]["patches"]:
        assert any(torch.equal(patch["image"].flatten().sort().values, corner) for corner in corners)


def test_the_segmenter_learns_mined_pairs_too(tmp_path):
    rounds = Rounds(tmp_path, refinements=(0.0,), rounds=1, with_mined=True)
    rounds.run()
    folders = {"mined": rounds.mined, "generated": tmp_path / "rounds" / "round_01" / "pairs"}
    sums = {
        name: [float(pair["image"].sum()) for pair in ShardedPairs(str(folder))] for name, folder in folders.items()
    }
    patches = rounds.of("refine")[0]["patches"]
    nearest = [
        min(sums, key=lambda name: min(abs(float(patch["image"].sum()) - s) for s in sums[name])) for patch in patches
    ]
    assert set(nearest) == {"mined", "generated"}
