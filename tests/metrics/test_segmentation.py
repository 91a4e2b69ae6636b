import math

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from monai_vessel_uda.errors import InputError
from monai_vessel_uda.metrics.segmentation import centreline_dice, paired_difference, score_image, summarise

KEYS = {
    "dice", "dice_at_half", "roc_auc", "pr_auc", "accuracy", "sensitivity", "specificity", "balanced_accuracy",
    "cldice", "ahd_px", "hd95_px",
}  # fmt: skip


def line(row, shape=(20, 30), width=1):
    mask = np.zeros(shape, dtype=bool)
    mask[row : row + width] = True
    return mask


@pytest.fixture
def noisy_case():
    rng = np.random.default_rng(3)
    mask = rng.random((40, 50)) > 0.8
    return np.clip(0.3 * mask + 0.7 * rng.random(mask.shape), 0, 1), mask


def test_perfect_prediction():
    mask = line(5, width=4)
    scores = score_image(mask.astype(float), mask)
    assert set(scores) == KEYS and all(type(value) is float for value in scores.values())
    assert scores == {key: 0.0 if key.endswith("px") else 1.0 for key in KEYS}


@pytest.mark.parametrize("shift", [1, 3, 7])
def test_shifted_line_is_its_shift_away(shift):
    scores = score_image(line(5 + shift).astype(float), line(5))
    assert scores["ahd_px"] == pytest.approx(shift)
    assert scores["hd95_px"] == pytest.approx(shift)
    assert scores["dice"] == 0 and scores["cldice"] == 0


def test_set_distance_counts_overlap_as_zero():
    # Prediction: rows 5..8, reference: rows 5..6. Distances from the prediction: 0, 0, 1, 2; from the reference: 0.
    scores = score_image(line(5, width=4).astype(float), line(5, width=2))
    assert scores["ahd_px"] == pytest.approx(0.75)
    assert scores["dice"] == pytest.approx(2 * 2 / (4 + 2))


def test_dice_at_half_does_not_follow_the_threshold():
    probability, mask = 0.4 + 0.2 * line(5, width=2), line(5, width=4)
    low, half = (score_image(probability, mask, threshold=threshold) for threshold in (0.3, 0.5))
    assert low["dice"] == pytest.approx(2 * 120 / (600 + 120)) and half["dice"] == pytest.approx(2 * 60 / (60 + 120))
    assert low["dice_at_half"] == half["dice_at_half"] == half["dice"]


def test_hd95_ignores_a_lone_outlier():
    mask = line(5, shape=(20, 100))
    prediction = mask.astype(float)
    prediction[15, 50] = 1
    scores = score_image(prediction, mask)
    assert scores["hd95_px"] == 0  # the maximum would be 10
    assert scores["ahd_px"] == pytest.approx(10 / 101)


def test_half_overlap():
    scores = score_image(line(4, width=2).astype(float), line(5, width=2))
    assert scores["dice"] == pytest.approx(0.5)
    assert scores["sensitivity"] == pytest.approx(0.5)
    assert scores["specificity"] == pytest.approx(17 / 18)
    assert scores["accuracy"] == pytest.approx(18 / 20)
    assert scores["balanced_accuracy"] == pytest.approx((0.5 + 17 / 18) / 2)


def test_against_sklearn_and_distance_transforms(noisy_case):
    probability, mask = noisy_case
    scores = score_image(probability, mask, threshold=0.6)
    prediction = probability >= 0.6
    assert scores["roc_auc"] == pytest.approx(roc_auc_score(mask.ravel(), probability.ravel()))
    expected = balanced_accuracy_score(mask.ravel(), prediction.ravel())
    assert scores["balanced_accuracy"] == pytest.approx(expected)
    # The paper's "AUC": the ROC area of the thresholded mask, which is not that of the probabilities.
    assert expected == pytest.approx(roc_auc_score(mask.ravel(), prediction.ravel()))
    assert abs(scores["roc_auc"] - expected) > 0.01
    to_mask, to_prediction = distance_transform_edt(~mask), distance_transform_edt(~prediction)
    assert scores["ahd_px"] == pytest.approx(max(to_mask[prediction].mean(), to_prediction[mask].mean()))


def test_average_precision_of_a_known_ranking():
    # Ranked: vessel, background, vessel -> precision 1 at recall 1/2, 2/3 at recall 1.
    scores = score_image([[0.9, 0.8, 0.7, 0.1]], [[1, 0, 1, 0]])
    assert scores["pr_auc"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert scores["roc_auc"] == pytest.approx(3 / 4)


def test_cldice_ignores_thickness_where_dice_does_not():
    thick, thin = line(4, width=5), line(6, width=1)
    assert centreline_dice(thick, thin) == pytest.approx(1.0, abs=0.05)
    assert score_image(thick.astype(float), thin)["dice"] == pytest.approx(1 / 3)


def test_cldice_of_half_a_line():
    half = line(5)
    half[:, 15:] = False
    assert centreline_dice(half, line(5)) == pytest.approx(2 * 0.5 / 1.5)


def test_scores_are_symmetric_under_flips_and_transposition(noisy_case):
    probability, mask = noisy_case
    expected = score_image(probability, mask)
    del expected["cldice"]  # skeletons depend on the scan direction
    for move in (np.flipud, np.fliplr, np.transpose):
        moved = score_image(move(probability), move(mask))
        assert {key: moved[key] for key in expected} == pytest.approx(expected)


def test_empty_mask_rules():
    nothing, something = np.zeros((20, 30)), line(3).astype(float)
    diagonal = math.hypot(20, 30)
    both = score_image(nothing, nothing)
    assert (both["dice"], both["cldice"], both["ahd_px"], both["hd95_px"]) == (1, 1, 0, 0)
    assert both["accuracy"] == both["specificity"] == 1
    assert all(math.isnan(both[key]) for key in ("roc_auc", "pr_auc", "sensitivity", "balanced_accuracy"))
    for scores in (score_image(nothing, something), score_image(something, nothing)):
        assert (scores["dice"], scores["cldice"]) == (0, 0)
        assert (scores["ahd_px"], scores["hd95_px"]) == (diagonal, diagonal)
    every = score_image(np.ones((20, 30)), np.ones((20, 30)))
    assert math.isnan(every["specificity"]) and math.isnan(every["roc_auc"]) and every["pr_auc"] == 1


def test_pixels_outside_the_field_of_view_do_not_matter(noisy_case):
    probability, mask = noisy_case
    fov = np.zeros(mask.shape, dtype=bool)
    fov[5:30, 10:40] = True
    expected = score_image(probability, mask, fov)
    assert expected["dice"] != pytest.approx(score_image(probability, mask)["dice"], abs=1e-6)
    scrambled = score_image(np.where(fov, probability, 1 - probability), np.where(fov, mask, ~mask), fov)
    assert scrambled == expected
    cropped = score_image(probability[5:30, 10:40], mask[5:30, 10:40])
    assert expected == pytest.approx(cropped)


def test_inputs_are_not_changed(noisy_case):
    probability, mask = noisy_case
    before = mask.copy()
    score_image(probability, mask, fov=np.eye(40, 50, dtype=bool))
    assert np.array_equal(mask, before)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((np.zeros((1, 4, 4)), np.zeros((1, 4, 4))), r"probability.*\(H, W\)"),
        ((np.full((4, 4), 1.5), np.zeros((4, 4))), "probability.*sigmoid"),
        ((np.full((4, 4), np.nan), np.zeros((4, 4))), "probability"),
        ((np.zeros((4, 4)), np.zeros((4, 5))), "mask.*shape"),
        ((np.zeros((4, 4)), np.full((4, 4), 255)), "mask.*255"),
        ((np.zeros((4, 4)), np.zeros((4, 4)), np.zeros((4, 4))), "fov"),
    ],
)
def test_bad_inputs_are_named(arguments, word):
    with pytest.raises(InputError, match=word):
        score_image(*arguments)


def test_summary_is_deterministic_and_seeded():
    rows = [{"dice": value} for value in np.random.default_rng(0).random(30).tolist()]
    assert summarise(rows, seed=1) == summarise(rows, seed=1)
    assert summarise(rows, seed=1) != summarise(rows, seed=2)
    summary = summarise(rows)["dice"]
    assert summary["mean"] == pytest.approx(np.mean([row["dice"] for row in rows]))
    assert summary["low"] < summary["mean"] < summary["high"] and summary["n"] == 30


def test_bootstrap_width_matches_the_normal_interval():
    values = np.random.default_rng(5).normal(size=400)
    summary = summarise([{"score": v} for v in values], n_boot=4000)["score"]
    expected = 2 * 1.96 * values.std() / math.sqrt(len(values))
    assert summary["high"] - summary["low"] == pytest.approx(expected, rel=0.06)


def test_two_eyes_of_a_patient_are_drawn_together():
    """Equal eyes say no more than one, so that the interval is that of half as many images."""
    values = np.random.default_rng(5).normal(size=100)
    one, two = ([{"score": v} for v in np.repeat(values, eyes)] for eyes in (1, 2))
    patients = [f"{i // 2}" for i in range(200)]
    alone, together = summarise(one)["score"], summarise(two, groups=patients)["score"]
    assert (together["mean"], together["n"]) == (pytest.approx(alone["mean"]), 200)
    assert (together["low"], together["high"]) == (pytest.approx(alone["low"]), pytest.approx(alone["high"]))
    as_if_independent = summarise(two)["score"]
    assert as_if_independent["high"] - as_if_independent["low"] < 0.8 * (alone["high"] - alone["low"])
    with pytest.raises(InputError, match="groups"):
        summarise(one, groups=patients)


def test_bootstrap_interval_covers_the_true_mean():
    rng = np.random.default_rng(11)
    covered = 0
    for trial in range(200):
        summary = summarise([{"score": v} for v in rng.normal(0.7, 0.1, size=40)], seed=trial, n_boot=400)["score"]
        covered += summary["low"] <= 0.7 <= summary["high"]
    assert 0.88 <= covered / 200 <= 0.99


def test_summary_leaves_out_undefined_scores():
    rows = [{"dice": 1.0, "roc_auc": float("nan")}, {"dice": 0.0, "roc_auc": 0.8}]
    summary = summarise(rows)
    assert summary["roc_auc"] == {"mean": 0.8, "low": pytest.approx(0.8), "high": pytest.approx(0.8), "n": 1}
    assert summary["dice"]["mean"] == 0.5
    undefined = summarise([{"roc_auc": float("nan")}])["roc_auc"]
    assert undefined["n"] == 0 and all(math.isnan(undefined[key]) for key in ("mean", "low", "high"))


def test_paired_difference_removes_what_images_share():
    rng = np.random.default_rng(2)
    hard = rng.random(50)
    a = [{"dice": v + 0.02} for v in hard]
    b = [{"dice": v} for v in hard]
    difference = paired_difference(a, b)["dice"]
    assert difference["mean"] == pytest.approx(0.02)
    assert difference["low"] == pytest.approx(0.02) and difference["high"] == pytest.approx(0.02)
    unpaired = summarise(a)["dice"]
    assert unpaired["low"] < summarise(b)["dice"]["mean"]  # the unpaired interval could not tell
    assert paired_difference(b, a)["dice"]["mean"] == pytest.approx(-0.02)


def test_paired_difference_draws_patients():
    a, b = [{"dice": v} for v in (0.9, 0.9, 0.5, 0.5)], [{"dice": 0.5}] * 4
    single, grouped = paired_difference(a, b)["dice"], paired_difference(a, b, groups=list("ppqq"))["dice"]
    assert single["mean"] == grouped["mean"] == pytest.approx(0.2)
    assert (grouped["low"], grouped["high"]) == (0.0, pytest.approx(0.4))
    assert grouped == summarise([{"dice": v} for v in (0.4, 0.4, 0.0, 0.0)], groups=list("ppqq"))["dice"]


def test_paired_difference_finds_keys_in_any_order():
    difference = paired_difference([{"x": 3.0, "y": 5.0}] * 2, [{"x": 1.0, "y": 1.0}, {"y": 1.0, "x": 1.0}])
    assert (difference["x"]["mean"], difference["y"]["mean"]) == (2.0, 4.0)


def test_bad_summaries_are_named():
    with pytest.raises(InputError, match="empty"):
        summarise([])
    with pytest.raises(InputError, match=r"per_image\[1\]"):
        summarise([{"dice": 1.0}, {"iou": 1.0}])
    with pytest.raises(InputError, match="'id'"):
        summarise([{"id": "a01"}])
    with pytest.raises(InputError, match="same images"):
        paired_difference([{"dice": 1.0}], [{"dice": 1.0}] * 2)
