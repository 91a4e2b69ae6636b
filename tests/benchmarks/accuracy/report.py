"""Tables of the accuracy benchmark as Markdown.

python -m tests.benchmarks.accuracy.report RESULTS.csv [--base space-to-depth]
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
SHOWN = {
    "dice": "Dice %",
    "dice_at_half": "Dice % at 0.5",
    "roc_auc": "ROC-AUC %",
    "pr_auc": "PR-AUC %",
    "cldice": "clDice %",
    "ahd_px": "AHD px",
    "hd95_px": "HD95 px",
}
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


def number(row: Row | None, key: str) -> float:
    """A score of a row, in percent where its heading says so; nan where there is none."""
    score = key.removesuffix("_low").removesuffix("_high")
    factor = 100 if "%" in SHOWN.get(score, "") else 1
    return factor * float(row[key]) if row and row[key] else math.nan


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
        return number(self.row(configuration, seed, segmenter), "dice")

    def seconds(self, configuration: str, seed: int) -> float:
        """Of all stages that an adaptation needs, also of those taken from the default; nan if one was not timed."""
        rows = self.by_run.get((configuration, seed), [])
        needed = [row for row in rows if row["segmenter"].startswith("stage ") or row["segmenter"] in CHOSEN_FROM]
        return sum(number(row, "seconds") for row in needed) if needed else math.nan

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
    lines = [f"| segmenter | {' | '.join(SHOWN.values())} |", "|---|" + "---:|" * len(SHOWN)]
    for name in [*names, "exported"]:
        cells = [interval([number(results.row("default", seed, name), key) for seed in seeds]) for key in SHOWN]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def by_seed(results: Results) -> str:
    """Dice of every segmenter of the default, seed by seed, with its 95 % interval over images."""
    seeds = results.seeds()
    names = dict.fromkeys(row["segmenter"] for seed in seeds for row in results.by_run["default", seed] if row["dice"])
    lines = [f"| Dice % | {' | '.join(f'seed {seed}' for seed in seeds)} |", "|---|" + "---:|" * len(seeds)]
    for name in names:
        cells = []
        for seed in seeds:
            row = results.row("default", seed, name)
            dice, low, high = (number(row, f"dice{end}") for end in ("", "_low", "_high"))
            cells.append(f"{dice:.2f} [{low:.2f}, {high:.2f}]")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def differences(results: Results) -> str:
    """The default's exported segmenter minus others, paired by seed, in all scores."""
    lines = [f"| exported − | {' | '.join(SHOWN.values())} |", "|---|" + "---:|" * len(SHOWN)]
    for name in (NEGATED, ALIGNED, "round 1", BEST):
        cells = [
            interval(
                [
                    number(results.row("default", seed, "exported"), key)
                    - number(results.row("default", seed, name), key)
                    for seed in results.seeds()
                ]
            )
            for key in SHOWN
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
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

    def score(key: str) -> Callable[[str, int, str], float]:
        return lambda name, seed, _: number(results.row(name, seed, "exported"), key)

    def lost(name: str, seed: int, _: str) -> float:
        return regret(results, name, seed)

    def seconds(name: str, seed: int, _: str) -> float:
        return results.seconds(name, seed)

    others = {SHOWN[key]: score(key) for key in ("cldice", "ahd_px")}
    shared = {"Dice % of the exported": exported, "− beside": difference, **others}
    of_rounds = {"first generation": first, "regret": lost}
    return {**shared, **(of_rounds if results.have_rounds() else {}), "seconds": seconds}


def ranking(results: Results, configurations: Sequence[str]) -> str:
    """How well each label-free measure ranks the segmenters of a run, and what choosing a round by it alone would lose.

    Mean and range over the runs: what there are, four rounds each, is too few for intervals of a rank correlation. The
    last two rows are what was exported, by all measures together, and the rule that needs none.
    """
    runs = [rows for (name, _), rows in results.by_run.items() if name in configurations]
    lines = [
        "| label-free measure | Spearman with Dice, candidates and rounds | rounds alone | Dice points lost by it |",
        "|---|---:|---:|---:|",
    ]
    for measure, sign in MEASURES.items():
        columns = zip(*(ranked(rows, measure, sign) for rows in runs), strict=True)
        lines.append(f"| {measure} | {' | '.join(spread(column) for column in columns)} |")
    for rule, choose in (("all together: exported", exported_round), ("the last round", last_round)):
        lines.append(f"| {rule} | | | {spread([lost_by(rows, choose) for rows in runs])} |")
    return "\n".join([*lines, "", f"{len(runs)} runs: {', '.join(configurations)}."])


def spread(values: Iterable[float]) -> str:
    """Mean and range; nan counts as absent."""
    values = [value for value in values if not math.isnan(value)]
    return f"{statistics.fmean(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else "–"


def ranked(rows: Iterable[Row], measure: str, sign: int) -> tuple[float, float, float]:
    """Of one run: rank correlation over candidates and rounds, over rounds alone, and regret; nan where unknown."""
    found = [row for row in rows if row[measure] and row["dice"]]
    of_rounds = [row for row in found if row["segmenter"].startswith("round ")]

    def correlation(some: Iterable[Row]) -> float:
        return spearman([(sign * float(row[measure]), number(row, "dice")) for row in some])

    every = correlation(found) if len(found) > len(of_rounds) else math.nan
    # the earliest of equals, as the package chooses
    lost = lost_by(found, lambda rounds: max(rounds, key=lambda row: sign * float(row[measure])))
    return every, correlation(of_rounds), lost


def exported_round(rounds: Sequence[Row]) -> Row | None:
    """What all measures together chose; None where that was no round."""
    return next((row for row in rounds if row["exported"] == "1"), None)


def last_round(rounds: Sequence[Row]) -> Row:
    """The rule that needs no measure."""
    return max(rounds, key=lambda row: int(row["segmenter"].removeprefix("round ")))


def lost_by(rows: Iterable[Row], choose: Callable[[Sequence[Row]], Row | None]) -> float:
    """Dice that the chosen round of a run lacks of the best; nan without rounds, or where none was chosen."""
    rounds = [row for row in rows if row["segmenter"].startswith("round ")]
    chosen = choose(rounds) if rounds else None
    return max(number(row, "dice") for row in rounds) - number(chosen, "dice") if chosen else math.nan


def spearman(pairs: Iterable[tuple[float, float]]) -> float:
    """Rank correlation; nan for fewer than three pairs, or where all of one side are equal."""
    pairs = list(pairs)
    if len(pairs) < 3 or any(len(set(side)) == 1 for side in zip(*pairs, strict=True)):
        return math.nan
    return float(spearmanr(*zip(*pairs, strict=True))[0])


def todays(rows: Iterable[Row], base: str = "default") -> tuple[list[Row], list[str]]:
    """The rows of configurations as they are today, and the names of those that have other rows.

    With another base these are what was run while that was the default; its own rows take the default's place.
    """
    kept, others = [], {}
    for row in rows:
        name = "default" if row["configuration"] == base else row["configuration"]
        scale = cast(Scale, row["scale"])
        if name in CONFIGURATIONS and row["settings"] == fingerprint(name, row["preset"], scale, base):
            kept.append({**row, "configuration": name})
        else:
            others[name] = None
    return kept, list(others)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--base", choices=sorted(CONFIGURATIONS), default="default", help="what stands for the default")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # MONAI says of every config that it has no logging file
    rows, left_out = todays(read(arguments.results), arguments.base)
    if left_out:
        print(f"Left out, because their settings are others beside {arguments.base}: {', '.join(left_out)}")
    for split, preset, scale in sorted({(row["split"], row["preset"], row["scale"]) for row in rows}, reverse=True):
        results = Results(row for row in rows if (row["split"], row["preset"], row["scale"]) == (split, preset, scale))
        print(f"\n## Split {split}, preset {preset}, {SCALES[scale]}\n")
        if scale == "whole":
            tables = [table(results) for table in (default_table, by_seed, differences, goals)]
            tables.append(ranking(results, ["default"]))
            if others := sorted({name for name, _ in results.by_run} - {"default"}):
                tables.append(ranking(results, ["default", *others]))
            print("\n\n".join(tables))
        for factor in dict.fromkeys(c.factor for name, c in CONFIGURATIONS.items() if name != "default"):
            if any(c.factor == factor and results.seeds(name) for name, c in CONFIGURATIONS.items()):
                print(f"\n### {factor}\n\n{factor_table(results, factor)}")


if __name__ == "__main__":
    main()
