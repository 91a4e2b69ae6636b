import csv
import io

from monai_vessel_uda.report.table import COLUMNS, MISSING, format_score, score_csv, score_table

ROWS = [
    {
        "name": "source-negated",
        "scores": {"dice": {"mean": 0.5312, "low": 0.5, "high": 0.56}},
        "exported": False,
        "exported_minus": {"dice": {"mean": 0.1688, "low": 0.15, "high": 0.1801}, "hd95_px": {"mean": -1.5}},
    },
    {
        "name": "final | best",
        "scores": {"dice": {"mean": 0.7, "low": 0.65, "high": 0.75}, "hd95_px": {"mean": 3.14159, "low": 3, "high": 4}},
        "exported": True,
    },
]


def test_markdown_has_one_cell_per_column_and_marks_the_exported_row():
    head, rule, negated, final = score_table(ROWS).splitlines()
    assert head.startswith("| Segmenter | Dice % | Dice % at 0.5 | ROC-AUC % |")
    assert head.endswith("| HD95 px | exported − this, Dice points |")
    assert rule.count("---:") == len(COLUMNS) + 1
    assert "| source-negated | 53.12 [50.00, 56.00] | – |" in negated and "**" not in negated
    assert negated.endswith("| 16.88 [15.00, 18.01] |")
    assert r"| **final \| best** | **70.00 [65.00, 75.00]** |" in final and "**3.14 [3.00, 4.00]** | **–** |" in final
    assert len({line.replace(r"\|", "").count("|") for line in (head, rule, negated, final)}) == 1


def test_no_column_of_differences_without_any():
    assert "exported" not in score_table(ROWS[1:])


def test_undefined_scores_show_a_dash():
    assert format_score(None) == format_score({"mean": None}) == format_score({"mean": float("nan")}) == MISSING
    assert format_score({"mean": 0.0, "low": None, "high": None}, 100) == "0.00"


def test_csv_round_trip():
    negated, final = csv.DictReader(io.StringIO(score_csv(ROWS)))
    assert float(negated["dice_mean"]) == 0.5312 and float(negated["dice_low"]) == 0.5
    assert negated["roc_auc_mean"] == "" and negated["exported"] == "0"
    assert final["exported"] == "1" and float(final["hd95_px_mean"]) == 3.14159
    assert float(negated["exported_minus_dice_low"]) == 0.15 and float(negated["exported_minus_hd95_px_mean"]) == -1.5
    assert final["exported_minus_dice_mean"] == ""
