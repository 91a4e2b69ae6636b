"""Masks from probabilities."""

import pytest
import torch

from monai_vessel_uda.errors import InputError
from monai_vessel_uda.methods.prediction import VIEWS, VesselLogit, pseudo_masks, vessel_probabilities, with_masks


@pytest.fixture
def segmenter():
    torch.manual_seed(0)
    return torch.nn.Conv2d(1, 2, 3, padding=1)


def test_probabilities_are_vessels_share_of_the_softmax(segmenter):
    image = torch.rand(1, 6, 6) * 2 - 1
    (found,) = vessel_probabilities(segmenter, [image], lambda inputs, network: network(inputs))
    assert torch.allclose(found, torch.softmax(segmenter(image[None]), dim=1)[0, 1:2])


@pytest.mark.parametrize("views", VIEWS)
def test_the_mean_over_views_is_the_same_for_each_of_them(segmenter, views):
    of_vessel = VesselLogit(segmenter, views)
    image = torch.rand(1, 1, 6, 6) * 2 - 1
    upright = of_vessel(image)
    symmetries = {2: image.flip(-1), 4: image.flip(-2), 8: image.mT}
    back = {2: lambda x: x.flip(-1), 4: lambda x: x.flip(-2), 8: lambda x: x.mT}
    for least, turned in symmetries.items():
        same = torch.allclose(back[least](of_vessel(turned)), upright, atol=1e-6)
        assert same == (views >= least)


def test_views_that_are_no_group_are_refused(segmenter):
    with pytest.raises(InputError, match="views: expected one of 1, 2, 4, 8, got 3"):
        VesselLogit(segmenter, 3)


def test_pseudo_masks():
    probabilities = [torch.tensor([[[0.2, 0.5, 0.6]]])]
    assert pseudo_masks(probabilities)[0].tolist() == [[[0, 1, 1]]]
    assert torch.equal(pseudo_masks(probabilities, None)[0], probabilities[0])


def test_given_masks_replace_whatever_label_there_was():
    items = with_masks([{"image": 1, "label": torch.full((1,), float("nan"))}], [torch.zeros(1)])
    assert items[0]["label"] == 0
