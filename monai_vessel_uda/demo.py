"""The whole job on drawn phantoms, to see it work where there are no data."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import pipeline
from .files import load_json, replacing

logger = logging.getLogger("monai_vessel_uda")


def run_demo(folder: str | Path, seeds: Sequence[int] = (0, 1, 2)) -> str:
    """The main job on phantoms: make them, adapt, evaluate, once for each seed.

    Args:
        folder: where everything goes, ``seed_0`` and so on; finished seeds are not run again.
        seeds: of the phantoms and of everything else.

    Returns:
        Markdown table of Dice, also written to ``demo.md``.
    """
    from .data.phantoms import write_phantoms

    folder = Path(folder)
    scores: dict[int, dict[str, Any]] = {}
    for seed in seeds:
        logger.info("demo: seed %d", seed)
        workspace, data = folder / f"seed_{seed}", folder / f"seed_{seed}" / "phantoms"
        if not (workspace / "manifest.json").exists():
            sets = write_phantoms(data, seed=seed)
            pipeline.prepare(
                workspace, [sets["source"]], sets["target"], sets["evaluation"], sets["supervised"], seed=seed
            )
        pipeline.adapt(workspace, preset="demo")
        scores[seed] = load_json(workspace / "scores.json")
    table = _table(scores)
    with replacing(folder / "demo.md") as temporary:
        temporary.write_text(table)
    return table


def _table(scores: Mapping[int, Mapping[str, Any]]) -> str:
    """Dice in percent, one row for each segmenter and one column for each seed; the exported one as the last row."""
    seeds = list(scores)
    names = [row["name"] for row in scores[seeds[0]]["rows"]]
    columns = {seed: {row["name"]: row["scores"]["dice"]["mean"] for row in scores[seed]["rows"]} for seed in seeds}
    final = {
        seed: next(row["scores"]["dice"]["mean"] for row in scores[seed]["rows"] if row["exported"]) for seed in seeds
    }
    lines = ["| Dice, % | " + " | ".join(f"seed {seed}" for seed in seeds) + " |", "|---|" + "---|" * len(seeds)]
    for name, values in [
        *((name, [columns[seed].get(name) for seed in seeds]) for name in names),
        ("**final (exported)**", [final[seed] for seed in seeds]),
    ]:
        lines.append(f"| {name} | " + " | ".join("–" if v is None else f"{100 * v:.1f}" for v in values) + " |")
    return "\n".join(lines) + "\n"
