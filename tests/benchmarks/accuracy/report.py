"""Tables of the accuracy benchmark as Markdown.

python -m tests.benchmarks.accuracy.report RESULTS.csv
"""

import argparse
import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from scipy.stats import spearmanr, t

from .configurations import CONFIGURATIONS
from .results import read

Row = dict[str, str]
SHOWN = {"dice": "Dice %", "dice_at_half": "Dice % at 0.5", "roc_auc": "ROC-AUC %", "cldice": "clDice %"}
NEGATED, ALIGNED, FIRST, BEST = (
    "source-negated",
    "aligned, no diffusion",
    "first generation",
    "upper bound (target masks)",
)


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
    """Rows of one split and preset.

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
        for row in self.by_run[configuration, seed]:
            if row["segmenter"] == segmenter or (segmenter == "exported" and row["exported"] == "1"):
                return row
        return None

    def dice(self, configuration: str, seed: int, segmenter: str) -> float:
        """Dice in percent at the segmenter's own threshold; nan if it was not scored."""
        row = self.row(configuration, seed, segmenter)
        return number(row, "dice") if row else math.nan

    def rounds(self, configuration: str, seed: int) -> list[Row]:
        """Rows of the rounds in their order."""
        return [row for row in self.by_run[configuration, seed] if row["segmenter"].startswith("round ")]


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
    """Dice lost by exporting what the label-free measures chose instead of the best round."""
    best = max(number(row, "dice") for row in results.rounds(configuration, seed))
    return max(0.0, best - results.dice(configuration, seed, "exported"))


def factor_table(results: Results, factor: str) -> str:
    """The configurations of one factor, with paired differences from the default of the same seed."""
    lines = [
        "| configuration | seeds | first generation | exported | − default | best round | regret | seconds run |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    names = [name for name, c in CONFIGURATIONS.items() if c.factor == factor and results.seeds(name)]
    for name in ["default", *names]:
        seeds = [seed for seed in results.seeds(name) if results.seeds("default").count(seed)]
        exported = {seed: results.dice(name, seed, "exported") for seed in seeds}
        cells = [
            interval([results.dice(name, seed, FIRST) for seed in seeds]),
            interval(list(exported.values())),
            interval([exported[seed] - results.dice("default", seed, "exported") for seed in seeds]),
            interval([max(number(row, "dice") for row in results.rounds(name, seed)) for seed in seeds]),
            interval([regret(results, name, seed) for seed in seeds]),
            interval(
                [number(row, "seconds", 1) for seed in seeds if (row := results.row(name, seed, "all that was run"))]
            ),
        ]
        lines.append(f"| {name} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ranking(results: Results) -> str:
    """How well the label-free contrast ranks the rounds and candidates of each run."""
    found = []
    for (_, _), rows in results.by_run.items():
        measured = [row for row in rows if row["boundary_contrast"] and row["dice"]]
        if len(measured) > 2:
            pairs = [(float(row["boundary_contrast"]), float(row["dice"])) for row in measured]
            found.append(float(spearmanr(*zip(*pairs, strict=True))[0]))
    return f"Spearman of boundary contrast and Dice within a run ({len(found)} runs): {interval(found)}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    rows = read(parser.parse_args().results)
    for split, preset in sorted({(row["split"], row["preset"]) for row in rows}, reverse=True):
        results = Results(row for row in rows if (row["split"], row["preset"]) == (split, preset))
        print(f"\n## Split {split}, preset {preset}\n\n{default_table(results)}\n\n{goals(results)}\n")
        print(ranking(results))
        for factor, _ in itertools.groupby(CONFIGURATIONS.values(), key=lambda c: c.factor):
            if any(
                c.factor == factor and results.seeds(name) for name, c in CONFIGURATIONS.items() if name != "default"
            ):
                print(f"\n### {factor}\n\n{factor_table(results, factor)}")


if __name__ == "__main__":
    main()
