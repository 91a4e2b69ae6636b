import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from sklearn.metrics import cohen_kappa_score

from monai_vessel_uda.errors import InputError
from monai_vessel_uda.metrics.label_free import (
    TOLL,
    WEIGHTS,
    best_threshold,
    boundary_contrast,
    consistency,
    contrast_curve,
    label_free_score,
    mask_faithfulness,
    prediction_entropy,
    uncertain_band_px,
    vessel_fraction,
)

from ..real_images import DATA, needs_real_images

CROSS = ndimage.generate_binary_structure(2, 1)


def tensor(array):
    return torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32)[None, None]


def bars(width=6, size=64):
    mask = torch.zeros(1, 1, size, size)
    for start in (10, 40):
        mask[..., start : start + width] = 1
    return mask


def noisy_bars(noise=0.2):
    return 2 * bars() - 1 + noise * torch.randn(bars().shape, generator=torch.Generator().manual_seed(0))


# --- boundary contrast -------------------------------------------------------------------------------------------


def test_boundary_contrast_in_closed_form():
    # A noise-free step of 2 per face: all variation lies on the outline if smoothing is negligible.
    size = 64
    share = 4 * size / (2 * size * (size - 1))
    for toll in (0, 1, 2):
        contrast = boundary_contrast(2 * bars() - 1, bars(), sigma=0.05, toll=toll)
        inverted = boundary_contrast(1 - 2 * bars(), bars(), sigma=0.05, toll=toll)
        assert contrast == pytest.approx(1 - toll * share, abs=1e-6)
        assert inverted == pytest.approx(-1 - toll * share, abs=1e-6)


def test_boundary_contrast_peaks_at_the_true_width():
    image = noisy_bars()
    contrast = {}
    for change in (-2, -1, 0, 1, 2):
        mask = torch.zeros_like(image)
        for start in (10, 40):
            mask[..., start - change : start + 6 + change] = 1
        contrast[change] = boundary_contrast(image, mask)
    assert max(contrast, key=contrast.get) == 0
    assert contrast[-2] < contrast[-1] < contrast[0] > contrast[1] > contrast[2]


def test_boundary_contrast_misses_what_the_mask_misses():
    one_bar = bars()
    one_bar[..., 32:] = 0
    speckle = (torch.rand(bars().shape, generator=torch.Generator().manual_seed(1)) > 0.9).float()
    image = noisy_bars()
    truth = boundary_contrast(image, bars())
    assert truth > boundary_contrast(image, one_bar) > 0
    assert truth > boundary_contrast(image, torch.maximum(bars(), speckle))
    assert boundary_contrast(image, speckle) < 0


def test_empty_full_and_featureless_get_no_credit():
    image = noisy_bars()
    assert boundary_contrast(image, torch.zeros_like(image)) == 0
    assert boundary_contrast(image, torch.ones_like(image)) == 0
    assert boundary_contrast(torch.zeros_like(image), bars()) < 0
    assert boundary_contrast(image, bars(), fov=torch.zeros_like(image)) == 0


def test_boundary_contrast_ignores_brightness_scale_orientation_and_what_lies_outside():
    image, mask = noisy_bars(), bars()
    expected = boundary_contrast(image, mask)
    assert boundary_contrast(3 * image + 5, mask) == pytest.approx(expected, rel=1e-5)
    assert boundary_contrast(image.mT, mask.mT) == pytest.approx(expected)
    assert boundary_contrast(image, mask.bool(), torch.ones_like(mask).bool()) == expected
    assert boundary_contrast(image.repeat(3, 1, 1, 1), mask.repeat(3, 1, 1, 1)) == pytest.approx(expected)
    fov = torch.zeros_like(mask)
    fov[..., 8:56, 4:60] = 1
    outside = torch.where(fov.bool(), mask, 1 - mask)
    inside = boundary_contrast(image, mask, fov)
    assert boundary_contrast(image, outside, fov) == pytest.approx(inside)
    assert inside != pytest.approx(expected, abs=1e-4)


def test_contrast_curve_is_the_contrast_of_each_thresholded_mask():
    image = noisy_bars().repeat(2, 1, 1, 1)
    probabilities = torch.rand(image.shape, generator=torch.Generator().manual_seed(3))
    thresholds = [0.2, 0.5, 0.9]
    expected = [boundary_contrast(image, (probabilities >= threshold).float()) for threshold in thresholds]
    assert contrast_curve(image, probabilities, thresholds).tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("bias", [-2.0, 0.0, 2.0])
def test_best_threshold_undoes_a_biased_segmenter(bias):
    # Logits fall linearly from the bars' edges, shifted by the bias: 0.5 is too thin or too thick by 2 px.
    truth = bars()[0, 0].numpy() > 0.5
    distance = ndimage.distance_transform_edt(truth) - ndimage.distance_transform_edt(~truth)
    probability = torch.as_tensor(1 / (1 + np.exp(-(distance - np.sign(distance) * 0.5 + bias)))).float()[None]
    threshold, contrast = best_threshold([noisy_bars()[0]], [probability])
    assert np.array_equal(probability[0].numpy() >= threshold, truth)
    assert contrast == pytest.approx(boundary_contrast(noisy_bars(), bars()))


def test_best_threshold_where_no_outline_follows_an_edge():
    threshold, contrast = best_threshold([-noisy_bars()[0]], [0.1 + 0.8 * bars()[0]])
    assert threshold == 0.5
    assert contrast < 0


def test_boundary_contrast_in_three_dimensions():
    mask = torch.zeros(1, 1, 12, 12, 12)
    mask[..., 4:8, 4:8, 4:8] = 1
    assert boundary_contrast(mask, mask) > boundary_contrast(mask, mask.roll(1, dims=4)) > 0


def source_images():
    """Negated fundus photographs at 400 px with mask and a field of view shrunk away from its rim."""
    fives = [(p, p.parents[1] / "Ground truth" / p.name) for p in sorted((DATA / "FIVES/train/Original").glob("*"))]
    chase = [(p, p.with_name(p.stem + "_1stHO.png")) for p in sorted((DATA / "CHASE_DB1").glob("*.jpg"))]
    for image_path, mask_path in fives[:3] + chase[:4]:
        rgb = Image.open(image_path).convert("RGB")
        size = tuple(round(side * 400 / max(rgb.size)) for side in rgb.size)
        rgb = rgb.resize(size, Image.Resampling.BOX)
        mask = Image.open(mask_path).convert("L").resize(size, Image.Resampling.BOX)
        filled = ndimage.binary_fill_holes(np.asarray(rgb)[..., 0] > 30)
        fov = ndimage.binary_erosion(filled, iterations=6)
        yield -np.asarray(rgb.convert("L"), dtype=np.float32), (np.asarray(mask) > 127) & fov, fov


@needs_real_images("FIVES", "CHASE_DB1")
@pytest.mark.parametrize("toll", [1.0, TOLL])
def test_boundary_contrast_prefers_the_annotation_on_real_photographs(toll):
    contrast = defaultdict(list)
    for image, mask, fov in source_images():
        variants = {
            "annotated": mask,
            "dilated": ndimage.binary_dilation(mask, CROSS),
            "dilated twice": ndimage.binary_dilation(mask, CROSS, iterations=2),
            "eroded": ndimage.binary_erosion(mask, CROSS),
            "shifted": np.roll(mask, 2, axis=1),
            "of nowhere": mask[::-1, ::-1],
        }
        if toll == 1:  # in a photograph the faintest of the annotated vessels do not rise by two mean steps
            variants["half missing"] = mask & (np.arange(mask.shape[1]) < mask.shape[1] / 2)
            variants["empty"] = np.zeros_like(mask)
        for name, variant in variants.items():
            contrast[name].append(boundary_contrast(tensor(image), tensor(variant), tensor(fov), toll=toll))
    truth = np.array(contrast.pop("annotated"))
    for name, values in contrast.items():
        # Annotations are drawn by hand: on single images one pixel more may fit as well.
        assert np.mean(truth > np.array(values)) > 0.8, name
        assert truth.mean() > np.mean(values) + 0.005, name


# --- the other measures ------------------------------------------------------------------------------------------


def test_faithfulness_is_the_mean_dice():
    conditions = torch.cat([bars(), bars()])
    half = bars()
    half[..., 32:] = 0
    predictions = torch.cat([0.9 * bars(), 0.6 * half])
    assert mask_faithfulness(predictions, conditions) == pytest.approx((1 + 2 / 3) / 2)
    assert mask_faithfulness(predictions, conditions, threshold=0.7) == pytest.approx(0.5)


def test_faithfulness_of_empty_masks():
    nothing = torch.zeros_like(bars())
    assert mask_faithfulness(nothing, bars()) == 0
    assert mask_faithfulness(bars(), nothing) == 0
    assert mask_faithfulness(nothing, nothing) == 1


def test_entropy_in_bits():
    assert prediction_entropy(torch.tensor([0.0, 1.0])) == 0
    assert prediction_entropy(torch.full((2, 3), 0.5)) == 1
    expected = -0.25 * math.log2(0.25) - 0.75 * math.log2(0.75)
    assert prediction_entropy(torch.tensor([0.25, 0.75])) == pytest.approx(expected)


def test_uncertain_band_is_its_width_whatever_the_vessel_width():
    for width in (4, 12):
        probabilities = bars(width)
        for start in (10, 40):  # doubt of 2 px on both sides of both bars
            probabilities[..., start : start + 2] = 0.5
            probabilities[..., start + width - 2 : start + width] = 0.5
        assert uncertain_band_px(probabilities) == pytest.approx(2.0)
    assert uncertain_band_px(bars()) == 0


def test_nothing_found_is_not_certainty():
    faint = torch.full((1, 1, 8, 8), 1e-6)
    assert prediction_entropy(faint) < 1e-4
    assert uncertain_band_px(faint) == math.inf
    assert uncertain_band_px(1 - faint) == math.inf


def test_an_image_without_vessels_does_not_decide_for_the_others():
    doubtful = bars()
    doubtful[..., 9:11] = 0.5
    empty = torch.full((1, 32, 16), 0.01)  # another size, nothing found
    alone, both = uncertain_band_px(doubtful), uncertain_band_px([doubtful[0], empty])
    assert alone < both < math.inf
    assert both == pytest.approx(uncertain_band_px([empty, doubtful[0]]))


def test_vessel_fraction():
    assert vessel_fraction(bars()) == pytest.approx(12 / 64)
    assert vessel_fraction(0.3 * bars(), threshold=0.2) == pytest.approx(12 / 64)


def test_consistency_is_cohens_kappa():
    generator = torch.Generator().manual_seed(0)
    views = [torch.rand(2, 1, 12, 12, generator=generator) ** 2 for _ in range(3)]
    expected = np.mean(
        [
            cohen_kappa_score((views[i][n] >= 0.5).flatten(), (views[j][n] >= 0.5).flatten())
            for i, j in ((0, 1), (0, 2), (1, 2))
            for n in range(2)
        ]
    )
    assert consistency(views) == pytest.approx(expected)


def test_consistency_rewards_agreement_not_constancy():
    assert consistency([bars(), bars()]) == pytest.approx(1)
    assert consistency([torch.zeros_like(bars())] * 3) == 0
    assert consistency([torch.ones_like(bars())] * 3) == 0
    assert consistency([bars(), bars().roll(20, 3)]) < 0.2


# --- ranking -----------------------------------------------------------------------------------------------------


def measured(probabilities, image, condition, views, distance):
    mask = (probabilities >= 0.5).float()
    return {
        "boundary_contrast": boundary_contrast(image, mask),
        "faithfulness": mask_faithfulness(probabilities, condition),
        "feature_distance": distance,
        "consistency": consistency(views),
        "uncertain_band_px": uncertain_band_px(probabilities),
    }


def test_degenerate_segmenters_do_not_win():
    image, truth = noisy_bars(), bars()
    blurred = torch.sigmoid(4 * image)  # imperfect and unsure, but it looks at the image
    speck = torch.zeros_like(truth)
    speck[..., 30, 30] = 1
    empty, full = torch.zeros_like(truth), torch.ones_like(truth)
    candidates = [
        measured(blurred, image, truth, [blurred, 0.8 * blurred], distance=2.0),
        # The others get the best generator, perfect certainty and perfect agreement.
        *(measured(p, image, truth, [p, p], distance=1.0) for p in (empty, full, speck)),
    ]
    scores = label_free_score(candidates)
    assert scores[0] == max(scores) and scores.count(max(scores)) == 1
    assert scores[1] == scores[2] == min(scores)
    without_generator = [{k: v for k, v in c.items() if k != "feature_distance"} for c in candidates]
    scores = label_free_score(without_generator)
    assert max(range(4), key=scores.__getitem__) == 0


def test_score_orders_by_every_measure():
    for name, weight in WEIGHTS.items():
        scores = label_free_score([{name: 0.1}, {name: 0.3}, {name: 0.2}])
        assert scores == ([0, 1, 0.5] if weight > 0 else [1, 0, 0.5])


def test_score_has_no_scale_and_follows_the_candidates():
    rng = np.random.default_rng(0)
    candidates = [dict(zip(WEIGHTS, row, strict=True)) for row in rng.random((5, len(WEIGHTS))).tolist()]
    scores = label_free_score(candidates)
    rescaled = [{name: math.exp(7 * value) for name, value in c.items()} for c in candidates]
    assert label_free_score(rescaled) == scores
    assert label_free_score(candidates[::-1]) == pytest.approx(scores[::-1])
    assert np.mean(scores) == pytest.approx(0.5)


def test_score_is_monotone():
    rng = np.random.default_rng(1)
    for _ in range(50):
        candidates = [dict(zip(WEIGHTS, row, strict=True)) for row in rng.random((4, len(WEIGHTS))).tolist()]
        before = label_free_score(candidates)
        name = rng.choice(list(WEIGHTS))
        candidates[2][name] += math.copysign(rng.random(), WEIGHTS[name])
        after = label_free_score(candidates)
        assert after[2] >= before[2] - 1e-12
        assert all(after[i] <= before[i] + 1e-12 for i in (0, 1, 3))


def test_confidence_does_not_outvote_evidence():
    right = {"boundary_contrast": 0.2, "consistency": 0.5, "uncertain_band_px": 3.0}
    sure = {"boundary_contrast": 0.1, "consistency": 0.9, "uncertain_band_px": 0.1}
    better, worse = label_free_score([right, sure])
    assert better > worse


def test_between_two_candidates_the_outlines_decide():
    worst = {name: -math.copysign(1.0, weight) for name, weight in WEIGHTS.items()}
    best = {name: math.copysign(1.0, weight) for name, weight in WEIGHTS.items()}
    fits_the_edges = {**worst, "boundary_contrast": 0.11}
    all_else_better = {**best, "boundary_contrast": 0.10}
    fits, other = label_free_score([fits_the_edges, all_else_better])
    assert fits > other


def test_only_measures_that_all_have_count():
    baseline = {"boundary_contrast": 0.1, "vessel_fraction": 0.3}
    generated = {"boundary_contrast": 0.2, "faithfulness": 0.0, "vessel_fraction": 0.1}
    assert label_free_score([baseline, generated]) == [0, 1]
    assert label_free_score([baseline]) == [1.0]
    assert label_free_score([baseline, baseline, baseline]) == [0.5, 0.5, 0.5]


def test_undefined_measures_lose():
    broken = {"boundary_contrast": 0.9, "faithfulness": math.nan}
    poor = {"boundary_contrast": -0.1, "faithfulness": 0.0}
    assert label_free_score([broken, poor]) == [0, 1]


def test_errors_name_the_argument():
    with pytest.raises(InputError, match="candidates"):
        label_free_score([])
    with pytest.raises(InputError, match="boundary_contrast"):
        label_free_score([{"dice": 1.0}, {"dice": 0.5}])
    with pytest.raises(InputError, match="mask"):
        boundary_contrast(noisy_bars(), 255 * bars())
    with pytest.raises(InputError, match="mask.*shape"):
        boundary_contrast(noisy_bars(), bars()[0])
    with pytest.raises(InputError, match="sigmoid"):
        prediction_entropy(torch.tensor([1.2]))
    with pytest.raises(InputError, match="probabilities"):
        uncertain_band_px(torch.full((1, 1, 2, 2), math.nan))
    with pytest.raises(InputError, match="two views"):
        consistency([bars()])
