"""How cost grows: with the patches of a step, with the pairs mined, with a second process."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch

from .measure import Options, Row, interleaved, run_child, timed_rows
from .networks import TrainingStep, Variant, noise_batch, ours
from .stages import generator_definition, mine, stage_parser

SECTION = "growth"
FACTORS = (1, 2, 4, 8)
MINING_BATCH, MINING_T0 = 4, 5
"""Small shards, so that eight times the pairs are still seconds; time grows as with the stage's own."""
PROCESS_RUNS, PROCESS_STEPS = 3, 24


def run(options: Options) -> list[Row]:
    """Rows of all three."""
    return [*step_rows(options), *mining_rows(options), *process_rows(options)]


def step_rows(options: Options) -> list[Row]:
    """Training step of the generator with 1, 2, 4, 8 times half the preset's batch."""
    config, definition = stage_parser("ddpm_pretrain", "train.json", options), generator_definition(options)
    patch, least = config.get("patch_size"), max(1, config.get("batch_size") // 2)
    variant, device = Variant(ours(definition)), options.device
    functions = {f: TrainingStep(variant, noise_batch(f * least, patch, device), device) for f in FACTORS}
    case = f"training step of the generator, {least} patches of {patch} x {patch} times"
    return grown_rows(case, functions, max(1, options.repeats // 3), options)


def mining_rows(options: Options) -> list[Row]:
    """``mine_pairs``, writing included, for 1, 2, 4, 8 times as many pairs."""
    network = ours(generator_definition(options))()

    def mined(pairs: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            mine(network, options, folder, pairs, MINING_BATCH, MINING_T0)

    case = f"mining with t0 = {MINING_T0}, {MINING_BATCH} pairs times"
    functions = {factor: partial(mined, factor * MINING_BATCH) for factor in FACTORS}
    return grown_rows(case, functions, min(3, options.repeats), options)


def grown_rows(case: str, functions: Mapping[int, Callable[[], Any]], repeats: int, options: Options) -> list[Row]:
    """Seconds at each factor, and for one unit of work against the smallest."""
    times = interleaved({str(factor): function for factor, function in functions.items()}, repeats, options.device)
    rows = timed_rows(SECTION, case, "all", times)
    least = median(times["1"])
    for factor in functions:
        share = median(times[str(factor)]) / factor / least
        rows.append(Row(SECTION, case, str(factor), "seconds for a unit of work, against factor 1", share))
    return rows


def process_rows(options: Options) -> list[Row]:
    """The noise trainer on the joint batch: one process, and two under torchrun that share the same cores."""
    config = stage_parser("ddpm_pretrain", "train.json", options)
    case = f"noise trainer, joint batch of {config.get('batch_size')}, {options.threads} cores"
    devices = torch.cuda.device_count() if options.device.startswith("cuda") else options.threads
    if devices < 2 or config.get("batch_size") % 2:
        note = "needs two GPUs, or two cores, and an even batch"
        return [Row(SECTION, case, "2 processes", "iteration, seconds", "skipped", note=note)]
    starts: dict[str, tuple[int | None, int]] = {
        f"1 process of {options.threads} threads": (None, options.threads),
        f"2 processes of {options.threads // 2} threads": (2, options.threads // 2),
    }
    times: dict[str, Sequence[float]] = {name: [] for name in starts}
    for _ in range(min(PROCESS_RUNS, options.repeats)):
        for name, (processes, threads) in starts.items():
            arguments = (options.preset, options.device, json.dumps(dict(options.overrides)), PROCESS_STEPS)
            text = run_child("training", *arguments, processes=processes, threads=threads)
            times[name] = [*times[name], json.loads(text.splitlines()[-1])]
    return timed_rows(SECTION, case, "iteration", times, next(iter(starts)))
