import pytest
import torch
from monai.transforms import Compose
from torch import nn

from monai_vessel_uda.data.patches import RandPatchd, RandSymmetryd
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.methods.label_free import calibrated_threshold, choose, measure_segmenter
from monai_vessel_uda.methods.prediction import target_probabilities, vessel_probabilities
from monai_vessel_uda.metrics.distributions import gaussian_smooth


class Threshold(nn.Module):
    """Segmenter that calls everything above a level a vessel, after an optional dilation."""

    def __init__(self, level, dilation=0):
        super().__init__()
        self.level = nn.Parameter(torch.tensor(float(level)))
        self.dilation = dilation

    def forward(self, x):
        if self.dilation:
            x = nn.functional.max_pool2d(x, 2 * self.dilation + 1, 1, self.dilation)
        logit = 20 * (x - self.level)
        return torch.cat([-logit, logit], dim=1)


def stripes(count, seed):
    """Images with a few bright bars of width 3 over noise, and their masks."""
    generator = torch.Generator().manual_seed(seed)
    items = []
    for _ in range(count):
        mask = torch.zeros(1, 48, 48)
        for _ in range(3):
            place, across = (int(v) for v in torch.randint(2, 44, (2,), generator=generator))
            mask[:, place : place + 3] = 1
            mask[:, :, across : across + 3] = 1
        image = (-0.6 + 1.2 * mask + 0.1 * torch.randn(1, 48, 48, generator=generator)).clamp(-1, 1)
        items.append({"image": image, "fov": torch.ones_like(image), "mask": mask})
    return items


def inferer(images, network):
    return network(images)


def test_the_segmenter_with_plausible_masks_is_chosen():
    target = stripes(6, 0)
    source_masks = torch.stack([item["mask"][:, :32, :32] for item in stripes(40, 1)])
    transform = Compose([RandPatchd(["image", "label"], (32, 32)), RandSymmetryd(["image", "label"])])
    candidates = {"thick": Threshold(0, 2), "empty": Threshold(5), "noisy": Threshold(-0.55), "right": Threshold(0)}
    measures = {}
    for name, network in candidates.items():
        seen = list(vessel_probabilities(network, [item["image"] for item in target], inferer))
        options = {"source_masks": source_masks, "patch_transform": transform, "seed": 0}
        measures[name] = measure_segmenter(network, target, seen, inferer, **options)
    best, scores = choose(measures)
    assert best == "right", measures
    assert min(scores, key=scores.get) != "right"
    assert measures["empty"]["vessel_fraction"] == 0


class Surround(Threshold):
    """The same, which also calls a vessel whatever is as flat as a filled surround."""

    def forward(self, x):
        flat = (x == FILLED).float()
        return super().forward(x * (1 - flat) + flat)


FILLED = -0.6


def test_what_lies_outside_the_field_of_view_is_not_looked_at():
    target = stripes(3, 0)
    rows, columns = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    for item in target:
        item["fov"] = (((rows - 24) ** 2 + (columns - 24) ** 2) < 20**2).float()[None]
        item["image"] = torch.where(item["fov"] > 0, item["image"], FILLED)
    transform = RandPatchd(["image", "label"], (16, 16))
    for item in target:
        item["centres"] = torch.zeros(1, 48, 48)
        item["centres"][:, 20:28, 20:28] = 1  # their patches lie inside
    source_masks = torch.stack([item["mask"][:, :16, :16] for item in target])
    found = {}
    for segmenter in (Threshold(0), Surround(0)):
        seen = list(target_probabilities(segmenter, target, inferer))
        assert all((p * (1 - item["fov"])).abs().max() == 0 for p, item in zip(seen, target, strict=True))
        options = {"source_masks": source_masks, "patch_transform": transform, "seed": 0}
        found[type(segmenter)] = measure_segmenter(segmenter, target, seen, inferer, **options)
        found[type(segmenter)]["calibrated"] = calibrated_threshold(segmenter, target, inferer)
    assert found[Surround] == pytest.approx(found[Threshold])
    assert found[Threshold]["boundary_contrast"] > 0


def test_the_edge_of_the_field_of_view_is_no_outline():
    """Of an image that is brighter inside and blurred, nothing but the edge could be marked."""
    fov = torch.zeros(1, 48, 48)
    fov[:, 8:40, 8:40] = 1
    image = gaussian_smooth((1.6 * fov - 0.8)[None], 0.7)[0]
    item = {"image": image + 0.01 * torch.randn(1, 48, 48, generator=torch.Generator().manual_seed(0)), "fov": fov}
    assert calibrated_threshold(Threshold(0.7), [item], inferer) == 0.5, "no threshold is better than an empty mask"


def test_one_candidate_is_taken_and_none_refused():
    assert choose({"only": {"boundary_contrast": 0.1}})[0] == "only"
    with pytest.raises(InputError):
        choose({})
