"""Score tables as Markdown and CSV.

A score row is ``{"name": str, "scores": {metric: {"mean", "low", "high"}}, "exported": bool, "exported_minus": …}``;
the last two are optional, and ``exported_minus`` is like ``scores``, but of the paired differences. Metrics are those
of ``metrics.segmentation``. Fractions are shown in percent, distances in pixels.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

COLUMNS: dict[str, tuple[str, float]] = {
    "dice": ("Dice %", 100),
    "dice_at_half": ("Dice % at 0.5", 100),
    "roc_auc": ("ROC-AUC %", 100),
    "pr_auc": ("PR-AUC %", 100),
    "balanced_accuracy": ("Balanced accuracy %", 100),
    "cldice": ("clDice %", 100),
    "ahd_px": ("AHD px", 1),
    "hd95_px": ("HD95 px", 1),
}
"""Metric key -> (column heading, factor from the stored to the shown value)."""

DIFFERENCE = "exported − this, Dice points"

MISSING = "–"


def format_score(score: Mapping[str, Any] | None, factor: float = 1) -> str:
    """``mean [low, high]`` with two decimals; a dash where the score is undefined.

    Args:
        score: ``mean`` and, optionally, the ends ``low`` and ``high`` of its 95 % interval.
        factor: multiplies all three.

    Example:
        >>> format_score({"mean": 0.5312, "low": 0.5, "high": 0.56}, 100)
        '53.12 [50.00, 56.00]'
    """
    return " ".join(score_texts(score, factor)).strip()


def score_texts(score: Mapping[str, Any] | None, factor: float = 1) -> tuple[str, str]:
    """Mean and interval of :func:`format_score` apart; the second is empty where there is none."""
    mean, low, high = numbers(score)
    if mean is None:
        return MISSING, ""
    interval = "" if low is None or high is None else f"[{factor * low:.2f}, {factor * high:.2f}]"
    return f"{factor * mean:.2f}", interval


def numbers(score: Mapping[str, Any] | None) -> tuple[float | None, float | None, float | None]:
    """Mean, low and high of a score, None where undefined: JSON stores NaN as null."""
    values = [(score or {}).get(part) for part in ("mean", "low", "high")]
    mean, low, high = (float(v) if v is not None and math.isfinite(v) else None for v in values)
    return mean, low, high


def table_cells(rows: Sequence[Row]) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """Headings and cells of a score table, each cell a text and its interval, if any.

    The last column, where some row has it, is the exported segmenter's Dice minus the row's, paired by image: its
    interval can leave 0 out where the two scores' own intervals overlap.
    """
    compared = any(row.get("exported_minus") for row in rows)
    headings = ["Segmenter", *(heading for heading, _ in COLUMNS.values()), *([DIFFERENCE] if compared else [])]
    cells = []
    for row in rows:
        scores = row.get("scores") or {}
        texts = [score_texts(scores.get(key), factor) for key, (_, factor) in COLUMNS.items()]
        if compared:
            texts.append(score_texts((row.get("exported_minus") or {}).get("dice"), 100))
        cells.append([(str(row["name"]), ""), *texts])
    return headings, cells


def score_table(rows: Sequence[Row]) -> str:
    """Markdown table with 95 % intervals; the exported segmenter is bold.

    Args:
        rows: score rows, see the module's head.

    Returns:
        Lines joined by newlines, ending with one.
    """
    headings, cells = table_cells(rows)
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)]]
    for row, parts in zip(rows, cells, strict=True):
        texts = [_markdown(" ".join(part)) for part in parts]
        lines.append([f"**{text}**" if text and row.get("exported") else text for text in texts])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def score_csv(rows: Sequence[Row]) -> str:
    """CSV with a header; mean, low and high of each metric as stored (fractions, pixels), empty if undefined.

    Then, likewise, how much more the exported segmenter has than the row's, paired by image.

    Args:
        rows: score rows, see the module's head.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    parts = [f"{key}_{part}" for key in COLUMNS for part in ("mean", "low", "high")]
    writer.writerow(["name", "exported", *parts, *(f"exported_minus_{part}" for part in parts)])
    for row in rows:
        found = (row.get(kind) or {} for kind in ("scores", "exported_minus"))
        values = [value for scores in found for key in COLUMNS for value in numbers(scores.get(key))]
        texts = ["" if value is None else f"{value:.6g}" for value in values]
        writer.writerow([row["name"], int(bool(row.get("exported"))), *texts])
    return out.getvalue()


def _markdown(text: str) -> str:
    """Text that stays inside its cell."""
    return " ".join(text.split()).replace("|", r"\|")
