"""Small PNG figures: score plots, loss curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..files import replacing
from ..preview import BLUE
from .table import COLUMNS, Row, numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def score_plot(rows: Sequence[Row], path: str | Path, metric: str = "dice") -> Path:
    """Mean and 95 % interval of one metric, one line per score row; the exported segmenter is filled.

    Args:
        rows: score rows as in ``report.table``; those without the metric are named, and left empty.
        path: PNG file.
        metric: a key of ``report.table.COLUMNS``.

    Returns:
        ``path``.

    Raises:
        InputError: unknown metric.
    """
    from matplotlib.figure import Figure

    if metric not in COLUMNS:
        raise InputError(f"score plot: expected one of {', '.join(COLUMNS)}, received {metric!r}")
    heading, factor = COLUMNS[metric]
    figure = Figure(figsize=(6.4, 0.9 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    colour = np.array(BLUE) / 255
    for place, row in enumerate(rows):
        mean, low, high = numbers((row.get("scores") or {}).get(metric))
        if mean is None:
            continue
        mean, low, high = (factor * (mean if value is None else value) for value in (mean, low, high))
        axes.plot([low, high], [place, place], color=colour, linewidth=2)
        axes.plot(mean, place, "o", color=colour, markerfacecolor=colour if row.get("exported") else "white")
        axes.annotate(f"{mean:.1f}", (mean, place), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [str(row["name"]).replace("$", r"\$") for row in rows])
    axes.set_ylim(len(rows) - 0.3, -0.7)
    axes.set_xlabel(f"{heading}, mean and 95 % interval over images")
    if factor == 100:
        axes.set_xlim(0, 100)
    axes.grid(axis="x", alpha=0.3)
    return _save(figure, path)


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    path: str | Path,
    ylabel: str = "loss",
    xlabel: str = "iteration",
) -> Path:
    """Line plot, one panel per name: trainings differ in the scale of their losses.

    Args:
        series: name -> points (x, y).
        path: PNG file.
        ylabel: of every panel.
        xlabel: of every panel.

    Returns:
        ``path``.

    Raises:
        InputError: nothing to draw.
    """
    from matplotlib.figure import Figure

    if not series:
        raise InputError("curves: expected at least one series, received none")
    columns = min(3, len(series))
    lines = -(-len(series) // columns)
    figure = Figure(figsize=(2.9 * columns, 2.1 * lines), layout="constrained")
    panels = np.ravel(figure.subplots(lines, columns, squeeze=False))
    for axes, (name, points) in zip(panels, series.items(), strict=False):
        axes.plot(*zip(*points, strict=True), color=np.array(BLUE) / 255, marker="." if len(points) < 30 else "")
        axes.set_title(name.replace("$", r"\$"), fontsize=8)
        axes.set_xlabel(xlabel, fontsize=8)
        axes.set_ylabel(ylabel, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.locator_params(axis="x", integer=True)  # there is no round 1.5
    for axes in panels[len(series) :]:
        axes.set_axis_off()
    return _save(figure, path)


def _save(figure: "Figure", path: str | Path) -> Path:
    """PNG without a version stamp, so that equal figures are equal files."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100, metadata={"Software": None})
    return Path(path)
