"""Tables of the accuracy benchmark as Markdown.

python -m tests.benchmarks.accuracy.report RESULTS.csv
"""

import argparse
import logging
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import cast

from scipy.stats import spearmanr, t

from monai_vessel_uda.training_sets import CANDIDATES, TRAINING_SETS

from .configurations import CONFIGURATIONS, Scale, fingerprint
from .results import MEASURES, read

Row = dict[str, str]
SHOWN = {"dice": "Dice %", "dice_at_half": "Dice % at 0.5", "roc_auc": "ROC-AUC %", "cldice": "clDice %"}
SCALES = {
    "whole": "whole adaptations",
    "round": "one round",
    "segmenter": "one segmenter alone, no diffusion",
}
NEGATED, ALIGNED, FIRST, BEST = (
    "source-negated",
    "aligned, no diffusion",
    "first generation",
    "upper bound (target masks)",
)
CHOSEN_FROM = [TRAINING_SETS[name].shown_as for name in ("mined", *CANDIDATES)]
"""Segmenters that an adaptation trains to start its rounds from."""


def interval(values: Sequence[float]) -> str:
    """Mean and, from two values on, the half width of its 95 % interval by Student's t; nan counts as absent."""
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return "–"
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.2f}"
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.2f} ± {half:.2f}"


def number(row: Row, key: str, factor: float = 100) -> float:
    """A score of a row in percent (or pixels); nan where it has none."""
    return factor * float(row[key]) if row[key] else math.nan


class Results:
    """Rows of one split, preset and scale.

    Args:
        rows: of the results file.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self.by_run: dict[tuple[str, int], list[Row]] = defaultdict(list)
        for row in rows:
            self.by_run[row["configuration"], int(row["seed"])].append(row)

    def seeds(self, configuration: str = "default") -> list[int]:
        """Seeds that were run."""
        return sorted(seed for name, seed in self.by_run if name == configuration)

    def row(self, configuration: str, seed: int, segmenter: str) -> Row | None:
        """Row of a segmenter; ``exported`` for the exported one."""
        for row in self.by_run.get((configuration, seed), []):
            if row["segmenter"] == segmenter or (segmenter == "exported" and row["exported"] == "1"):
                return row
        return None

    def dice(self, configuration: str, seed: int, segmenter: str) -> float:
        """Dice in percent at the segmenter's own threshold; nan if it was not scored."""
        row = self.row(configuration, seed, segmenter)
        return number(row, "dice") if row else math.nan

    def seconds(self, configuration: str, seed: int) -> float:
        """Of all stages that an adaptation needs, also of those taken from the default; nan if one was not timed."""
        rows = self.by_run.get((configuration, seed), [])
        needed = [row for row in rows if row["segmenter"].startswith("stage ") or row["segmenter"] in CHOSEN_FROM]
        return sum(number(row, "seconds", 1) for row in needed) if needed else math.nan

    def have_rounds(self) -> bool:
        """Whether these are adaptations; otherwise segmenters alone."""
        return any(row["segmenter"].startswith("round ") for rows in self.by_run.values() for row in rows)

    def rounds(self, configuration: str, seed: int) -> list[Row]:
        """Rows of the rounds in their order."""
        rows = self.by_run.get((configuration, seed), [])
        return [row for row in rows if row["segmenter"].startswith("round ")]

    def compared(self, configuration: str, seed: int) -> list[Row]:
        """Rows of what the choice without masks was made from: the segmenters to start from, and the rounds."""
        rows = self.by_run.get((configuration, seed), [])
        return [row for row in rows if row["boundary_contrast"] and row["dice"]]


def default_table(results: Results) -> str:
    """Every segmenter of the default: mean over seeds with 95 % intervals."""
    seeds = results.seeds()
    names = dict.fromkeys(row["segmenter"] for seed in seeds for row in results.by_run["default", seed] if row["dice"])
    lines = [f"| segmenter | {' | '.join(SHOWN.values())} | AHD px |", "|---|" + "---:|" * (len(SHOWN) + 1)]
    for name in [*names, "exported"]:
        rows = [row for seed in seeds if (row := results.row("default", seed, name))]
        cells = [interval([number(row, key) for row in rows]) for key in SHOWN]
        lines.append(f"| {name} | {' | '.join(cells)} | {interval([number(row, 'ahd_px', 1) for row in rows])} |")
    return "\n".join(lines)


def goals(results: Results) -> str:
    """What was to be reached, seed by seed."""
    lines = ["| seed | − negated | − aligned | gap closed % | regret |", "|---|---:|---:|---:|---:|"]
    columns: list[list[float]] = [[], [], [], []]
    for seed in results.seeds():
        exported, negated, aligned, best = (
            results.dice("default", seed, name) for name in ("exported", NEGATED, ALIGNED, BEST)
        )
        values = [exported - negated, exported - aligned, 100 * (exported - negated) / (best - negated)]
        values.append(regret(results, "default", seed))
        for column, value in zip(columns, values, strict=True):
            column.append(value)
        lines.append(f"| {seed} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    lines.append("| all | " + " | ".join(interval(column) for column in columns) + " |")
    return "\n".join(lines)


def regret(results: Results, configuration: str, seed: int) -> float:
    """Dice lost by exporting what the label-free measures chose instead of the best that they compared."""
    exported = results.dice(configuration, seed, "exported")
    return max([number(row, "dice") for row in results.compared(configuration, seed)], default=math.nan) - exported


def factor_table(results: Results, factor: str) -> str:
    """The configurations of one factor, each after what it differs from in one thing, with paired differences."""
    names = [name for name, c in CONFIGURATIONS.items() if c.factor == factor and results.seeds(name)]
    besides = dict.fromkeys(CONFIGURATIONS[name].beside for name in names)
    columns = factor_columns(results)
    lines = [f"| configuration | seeds | {' | '.join(columns)} |", "|---|" + "---:|" * (len(columns) + 1)]
    for name in dict.fromkeys([*besides, *names]):
        beside = CONFIGURATIONS[name].beside
        pairs = [(seed, beside) for seed in results.seeds(name)]
        cells = [interval([column(name, *pair) for pair in pairs]) for column in columns.values()]
        lines.append(f"| {name} | {len(pairs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def factor_columns(results: Results) -> dict[str, Callable[[str, int, str], float]]:
    """Headings, and what stands below them for a configuration, a seed, and the configuration beside it."""

    def exported(name: str, seed: int, _: str = "") -> float:
        return results.dice(name, seed, "exported")

    def difference(name: str, seed: int, beside: str) -> float:
        return exported(name, seed) - exported(beside, seed)

    def first(name: str, seed: int, _: str) -> float:
        return results.dice(name, seed, FIRST)

    def cldice(name: str, seed: int, _: str) -> float:
        row = results.row(name, seed, "exported")
        return number(row, "cldice") if row else math.nan

    def lost(name: str, seed: int, _: str) -> float:
        return regret(results, name, seed)

    def seconds(name: str, seed: int, _: str) -> float:
        return results.seconds(name, seed)

    shared = {"Dice % of the exported": exported, "− beside": difference, "clDice %": cldice}
    of_rounds = {"first generation": first, "regret": lost}
    return {**shared, **(of_rounds if results.have_rounds() else {}), "seconds": seconds}


def ranking(results: Results) -> str:
    """How well each label-free measure ranks the segmenters of a run, and what choosing a round by it alone would lose.

    Runs of one seed share their candidates, so they are averaged first; the intervals are over seeds.
    """
    lines = [
        "| label-free measure | Spearman with Dice, candidates and rounds | rounds alone | regret of choosing by it |",
        "|---|---:|---:|---:|",
    ]
    seeds = sorted({seed for _, seed in results.by_run})
    for measure, sign in MEASURES.items():
        columns: list[list[float]] = [[], [], []]
        for seed in seeds:
            found = [ranked(rows, measure, sign) for (_, of), rows in results.by_run.items() if of == seed]
            for column, values in zip(columns, zip(*found, strict=True), strict=True):
                known = [value for value in values if not math.isnan(value)]
                column.append(statistics.fmean(known) if known else math.nan)
        lines.append(f"| {measure} | {' | '.join(interval(column) for column in columns)} |")
    return "\n".join([*lines, "", f"{len(results.by_run)} runs of {len(seeds)} seeds."])


def ranked(rows: Iterable[Row], measure: str, sign: int) -> tuple[float, float, float]:
    """Of one run: rank correlation over candidates and rounds, over rounds alone, and regret; nan where unknown."""
    found = [row for row in rows if row[measure] and row["dice"]]
    pairs = {row["segmenter"]: (sign * float(row[measure]), number(row, "dice")) for row in found}
    of_rounds = [pair for name, pair in pairs.items() if name.startswith("round ")]
    every = spearman(pairs.values()) if len(pairs) > len(of_rounds) else math.nan
    if not of_rounds:
        return every, math.nan, math.nan
    chosen = max(of_rounds, key=lambda pair: pair[0])  # the earliest of equals, as the package chooses
    return every, spearman(of_rounds), max(dice for _, dice in of_rounds) - chosen[1]


def spearman(pairs: Iterable[tuple[float, float]]) -> float:
    """Rank correlation; nan for fewer than three pairs, or where all of one side are equal."""
    pairs = list(pairs)
    if len(pairs) < 3 or any(len(set(side)) == 1 for side in zip(*pairs, strict=True)):
        return math.nan
    return float(spearmanr(*zip(*pairs, strict=True))[0])


def todays(rows: Iterable[Row]) -> tuple[list[Row], list[str]]:
    """The rows of configurations as they are today, and the names of those that have rows of another day."""
    kept, others = [], {}
    for row in rows:
        name = row["configuration"]
        scale = cast(Scale, row["scale"])
        if name in CONFIGURATIONS and row["settings"] == fingerprint(name, row["preset"], scale):
            kept.append(row)
        else:
            others[name] = None
    return kept, list(others)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    logging.disable(logging.WARNING)  # MONAI says of every config that it has no logging file
    rows, others = todays(read(parser.parse_args().results))
    if others:
        print(f"Left out, because their settings have changed since: {', '.join(others)}")
    for split, preset, scale in sorted({(row["split"], row["preset"], row["scale"]) for row in rows}, reverse=True):
        results = Results(row for row in rows if (row["split"], row["preset"], row["scale"]) == (split, preset, scale))
        print(f"\n## Split {split}, preset {preset}, {SCALES[scale]}\n")
        if scale == "whole":
            print(f"{default_table(results)}\n\n{goals(results)}\n\n{ranking(results)}")
        for factor in dict.fromkeys(c.factor for name, c in CONFIGURATIONS.items() if name != "default"):
            if any(c.factor == factor and results.seeds(name) for name, c in CONFIGURATIONS.items()):
                print(f"\n### {factor}\n\n{factor_table(results, factor)}")


if __name__ == "__main__":
    main()
