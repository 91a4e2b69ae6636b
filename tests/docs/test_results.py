"""The README's table of results says what stands in docs/results/accuracy.csv."""

import csv
import re
from statistics import mean

import pytest

from ..benchmarks.accuracy.report import interval
from .commands import ROOT

ROWS = {
    "source-only": ("default", "source-only"),
    "source-negated": ("default", "source-negated"),
    "source matched to target histograms": ("default", "source matched to target histograms"),
    "Fourier amplitude swap (FDA)": ("default", "Fourier amplitude swap (FDA)"),
    "aligned, no diffusion": ("default", "aligned, no diffusion"),
    "first generation": ("default", "first generation"),
    "round 1": ("default", "round 1"),
    "exported by the label-free choice": ("default", "exported"),
    "round 4": ("default", "round 4"),
    "upper bound (target masks)": ("default", "upper bound (target masks)"),
    "self-training, the rounds without a generator": ("self-training", "round 4"),
    "source-negated, trained as long as four rounds are": ("negated-as-long", "source-negated"),
    "aligned, trained as long": ("as-long-as-all-rounds", "aligned, no diffusion"),
    "upper bound, trained as long": ("supervised-as-long", "upper bound (target masks)"),
}
"""Row of the README: configuration and segmenter of the file."""


@pytest.fixture(scope="module")
def scores():
    with (ROOT / "docs" / "results" / "accuracy.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == "test" and row["dice"]]


def is_of(row, segmenter):
    return row["exported"] == "1" if segmenter == "exported" else row["segmenter"] == segmenter


def table():
    (text,) = re.findall(r"^\| segmenter \| Dice.*?\n\n", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    for line in text.strip().splitlines()[2:]:
        name, *cells = (cell.strip(" *") for cell in line.strip("|").split("|"))
        yield name, cells


def test_every_row_is_there():
    assert [name for name, _ in table()] == list(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_row(scores, name):
    configuration, segmenter = ROWS[name]
    found = sorted(
        (row for row in scores if row["configuration"] == configuration and is_of(row, segmenter)),
        key=lambda row: int(row["seed"]),
    )
    assert [row["seed"] for row in found] == ["0", "1", "2"]
    dice = [100 * float(row["dice"]) for row in found]
    others = [(100, "pr_auc"), (100, "cldice"), (1, "ahd_px")]
    means = [f"{mean(factor * float(row[key]) for row in found):.2f}" for factor, key in others]
    assert dict(table())[name] == [interval(dice), *(f"{one:.2f}" for one in dice), *means]
