"""Masks from probabilities."""

import torch

from monai_vessel_uda.methods.prediction import pseudo_masks, with_masks


def test_pseudo_masks():
    probabilities = [torch.tensor([[[0.2, 0.5, 0.6]]])]
    assert pseudo_masks(probabilities)[0].tolist() == [[[0, 1, 1]]]
    assert torch.equal(pseudo_masks(probabilities, None)[0], probabilities[0])


def test_given_masks_replace_whatever_label_there_was():
    items = with_masks([{"image": 1, "label": torch.full((1,), float("nan"))}], [torch.zeros(1)])
    assert items[0]["label"] == 0
