import pytest

from monai_vessel_uda.methods import co_optimization
from monai_vessel_uda.metrics.label_free import WEIGHTS
from monai_vessel_uda.report.wording import (
    HARDLY_SEEN,
    MEASURES,
    doubts,
    facts,
    measure_meaning,
    provenance,
    summary,
    warnings,
)


def test_names_are_those_of_the_measures():
    """The report may not import the metrics, so it repeats their names."""
    assert all(MEASURES[name][1] == ("higher" if weight > 0 else "lower") for name, weight in WEIGHTS.items())
    assert {name for name, (_, better) in MEASURES.items() if better} == {"label-free score", *WEIGHTS}


def test_the_report_doubts_images_where_the_log_does():
    assert HARDLY_SEEN == co_optimization.HARDLY_SEEN


@pytest.mark.parametrize(
    ("measures", "said"),
    [
        ({"boundary_contrast": 0.01, "faithfulness": 0.3}, []),
        ({"boundary_contrast": 0.0, "faithfulness": 0.6}, ["than an empty mask would (boundary contrast 0;"]),
        ({"boundary_contrast": 0.5, "faithfulness": 0.09}, ["hardly found in the images generated"]),
        ({"boundary_contrast": -1.5, "faithfulness": 0.09}, ["(boundary contrast -1.5;", "(faithfulness 0.09)"]),
        ({"boundary_contrast": None, "faithfulness": None}, []),
        ({}, []),
    ],
)
def test_doubts_are_about_the_exported_round(measures, said):
    bad = {"boundary_contrast": -1.0, "faithfulness": 0.0}
    rounds = {"exported_round": 1, "rounds": [{"round": 0, "measures": bad}, {"round": 1, "measures": measures}]}
    found = doubts(rounds)
    assert len(found) == len(said) and all(part in sentence for part, sentence in zip(said, found, strict=True))
    assert doubts({}) == []


def test_other_rounds_whose_images_do_not_show_their_masks_are_named_with_the_rounds():
    records = [{"round": k, "measures": {"faithfulness": f}} for k, f in enumerate((None, 0.1, 0.6))]
    assert warnings(records) == ["In round 1 the masks are hardly found in the images generated for them."]


def test_meaning_says_the_better_side_where_there_is_one():
    assert measure_meaning("uncertain_band_px") == "how wide is the doubt along outlines? lower is better"
    assert measure_meaning("vessel_fraction") == "how much of the images is vessel?"
    assert measure_meaning("my_own") == ""


def test_summary_leaves_out_what_is_not_known():
    rounds = {"exported_round": 1, "started_from": "mined", "rounds": [{"round": 0}, {"round": 1}]}
    undefined = [{"name": "round 1", "exported": True, "scores": {"dice": {"mean": None, "low": None, "high": None}}}]
    for rows in ([], undefined):
        exported, scored = summary({}, rounds, None, rows)
        assert exported == "Exported is round 1 of 1, the best one judged by measures that need no target mask."
        assert scored == "It was not scored against masks."
    alone = [{"name": "round 1", "exported": True, "scores": {"dice": {"mean": 0.5}}}]
    assert summary({}, rounds, None, alone)[1] == "Its mean Dice is 50.00 %."


def test_provenance_says_how_many_images_agree_on_the_polarity():
    look = {"grey": "luma", "grey_by": "no colour", "polarity": "dark", "datasets": {}, "scale": 1.0}
    record = {
        "source": {**look, "polarity_by": "given", "polarity_evidence": {}},
        "target": {**look, "polarity_by": "by vesselness", "polarity_evidence": {"agreement": 0.5}},
        "flatten": {"enabled": False},
        "match": {"enabled": False},
    }
    source, target = provenance({"preprocessing": record})[:2]
    assert source == "Source: dark vessels (given), grey values: luma (no colour)."
    assert target == "Target: dark vessels (by vesselness; 50 % of the images agree), grey values: luma (no colour)."


def test_facts_join_names_and_leave_out_what_is_long():
    manifest = {
        "a": {"polarity_by": None, "sha256": "0" * 64, "scale": 0.123456, "nested": {"sha256": "1"}},
        "odd": [1, 2],
        "many": list(range(40)),
        "evaluation": [],
    }
    assert list(facts(manifest, leave_out=("sha256",))) == [
        ("a: polarity_by", "–"),
        ("a: scale", "0.1235"),
        ("odd", "1, 2"),
        ("many", "40 values"),
        ("evaluation", "none"),
    ]
