import pytest
import torch

from monai_vessel_uda.label_app.lib.uncertainty import FLIPS, mean_over_flips, uncertainty, vessel_probability


def test_vessel_probability_is_the_softmax_of_two_channels_and_the_sigmoid_of_one():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(vessel_probability(logits), torch.softmax(logits, 0)[1])
    torch.testing.assert_close(vessel_probability(logits[:1]), torch.sigmoid(logits[0]))


def test_probabilities_are_flipped_back_before_they_are_averaged():
    """A prediction that follows the image gives the image's own; one that stays in place is spread."""
    image = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(mean_over_flips(lambda flipped: flipped, image), image[0].sigmoid())
    corner = torch.full((1, 4, 6), -30.0)
    corner[0, 0, 0] = 30.0
    p = mean_over_flips(lambda _: corner, image)
    expected = torch.zeros(4, 6)
    expected[[0, 0, -1, -1], [0, -1, 0, -1]] = 1 / len(FLIPS)
    torch.testing.assert_close(p, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("p", [0.55, 0.7, 0.9])
def test_uncertainty_is_the_closed_form_of_two_levels(p):
    """n pixels of probability p and n of 1 - p: m keeps the first, so D = 2 n p / (n + n)."""
    probability = torch.tensor([p] * 10 + [1 - p] * 10)
    assert uncertainty(probability) == pytest.approx(1 - p, abs=1e-6)


def test_uncertainty_is_one_minus_the_dice_of_masks_drawn_from_the_probabilities():
    generator = torch.Generator().manual_seed(2)
    probability = torch.rand(200, 200, generator=generator) ** 3
    mask = probability >= 0.4
    drawn = torch.rand(20, 200, 200, generator=generator) < probability
    dice = 2 * (drawn & mask).sum((1, 2)) / (drawn.sum((1, 2)) + mask.sum())
    assert uncertainty(probability, 0.4) == pytest.approx(1 - float(dice.mean()), abs=2e-3)


def test_uncertainty_does_not_depend_on_how_many_vessels_there_are():
    probability = torch.zeros(40, 40)
    probability[:, 3] = 0.8
    few = uncertainty(probability)
    probability[:, 10:20] = 0.8
    assert uncertainty(probability) == pytest.approx(few)


def test_a_mask_that_is_empty_is_vouched_for_by_nothing():
    assert uncertainty(torch.zeros(5, 5)) == 1
    assert uncertainty(torch.full((5, 5), 0.3)) == 1
