"""The whole job on drawn phantoms, to see it work where there are no data."""

import logging
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from . import pipeline, preparation
from .files import load_json, replacing
from .progress import log_to_stderr

logger = logging.getLogger("monai_vessel_uda")


def run_demo(folder: str | Path, seeds: Sequence[int] = (0, 1, 2), jobs: int | None = None) -> str:
    """The main job on phantoms: make them, adapt, evaluate, once for each seed.

    Args:
        folder: where everything goes, ``seed_0`` and so on; finished seeds are not run again.
        seeds: of the phantoms and of everything else.
        jobs: seeds that run side by side, each with its share of the threads; all of them by default, but at most two
            for each thread. (Networks this small gain little from a second thread.)

    Returns:
        Markdown table of Dice, also written to ``demo.md``.
    """
    import torch

    folder, threads = Path(folder), torch.get_num_threads()
    jobs = min(len(seeds), jobs or 2 * threads)
    if jobs == 1:
        scores = dict(zip(seeds, map(partial(adapt_phantoms, folder), seeds), strict=True))
    else:
        context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads in an unknown state
        job = partial(_job, adapt_phantoms, folder, max(1, threads // jobs))
        with ProcessPoolExecutor(jobs, mp_context=context) as pool:
            scores = dict(zip(seeds, pool.map(job, seeds), strict=True))
    table = _table(scores)
    with replacing(folder / "demo.md") as temporary:
        temporary.write_text(table, encoding="utf-8")
    return table


def adapt_phantoms(folder: Path, seed: int) -> dict[str, Any]:
    """One seed of the demo; returns its scores."""
    from .data.phantoms import write_phantoms

    logger.info("demo: seed %d", seed)
    workspace = folder / f"seed_{seed}"
    if not (workspace / "manifest.json").exists():
        sets = write_phantoms(workspace / "phantoms", seed=seed)
        folders = (sets[name] for name in ("target", "evaluation", "supervised"))
        preparation.prepare(workspace, [sets["source"]], *folders, seed=seed)
    pipeline.adapt(workspace, preset="demo")
    scores: dict[str, Any] = load_json(workspace / "scores.json")
    return scores


def _job(work: Callable[[Path, int], dict[str, Any]], folder: Path, threads: int, seed: int) -> dict[str, Any]:
    """``work`` in a process of its own, with some of the threads, and its seed before every line of its log."""
    import torch

    torch.set_num_threads(threads)
    log_to_stderr(f"seed {seed}: ")
    return work(folder, seed)


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
