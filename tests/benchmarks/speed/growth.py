"""How cost grows: with the patches of a step, pairs, images and rounds, and with a second process."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image

from monai_vessel_uda import pipeline, preparation
from monai_vessel_uda.data.phantoms import write_phantoms
from monai_vessel_uda.segmenter import segment
from monai_vessel_uda.settings import resolve_settings

from .inference import SIDES, exported, picture
from .measure import Options, Row, interleaved, run_child, timed_rows
from .networks import TrainingStep, Variant, noise_batch, ours
from .stages import generator_definition, mine, phantom_workspace, stage_parser
from .step import as_shipped

SECTION = "growth"
FACTORS = (1, 2, 4, 8)
MINING_BATCH, MINING_T0 = 4, 5
"""Small shards, so that eight times the pairs are still seconds; time grows as with the stage's own."""
IMAGES, IMAGE_SIDE = 4, 128
"""Of each domain, and pixels per side of an angiogram, at factor 1."""
ROUND_STEPS, ROUND_PAIRS = 10, 32
"""Iterations of each training and pairs of each start in a round, a small part of the presets'."""
PROCESS_RUNS, PROCESS_STEPS = 3, 24


def run(options: Options) -> list[Row]:
    """Rows of everything that grows."""
    parts = (step_rows, mining_rows, preparation_rows, segmentation_rows, round_rows, process_rows)
    return [row for rows in parts for row in rows(options)]


def step_rows(options: Options) -> list[Row]:
    """Training step of the generator with 1, 2, 4, 8 times half the preset's batch."""
    config, definition = stage_parser("ddpm_pretrain", "train.json", options), generator_definition(options)
    patch, least = config.get("patch_size"), max(1, config.get("batch_size") // 2)
    variant, device = Variant(ours(definition), **as_shipped(options)["training"]), options.device
    functions = {f: TrainingStep(variant, noise_batch(f * least, patch, device), device) for f in FACTORS}
    functions = {factor: function for factor, function in functions.items() if fits(function)}
    case = f"training step of the generator, {least} patches of {patch} x {patch} times"
    return grown_rows(case, functions, max(1, options.repeats // 3), options)


def fits(function: Callable[[], Any]) -> bool:
    """Whether a GPU has memory enough for it."""
    try:
        function()
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return False
    return True


def mining_rows(options: Options) -> list[Row]:
    """``mine_pairs``, writing included, for 1, 2, 4, 8 times as many pairs."""
    network = ours(generator_definition(options))()

    def mined(pairs: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            mine(network, options, folder, pairs, MINING_BATCH, MINING_T0)

    case = f"mining with t0 = {MINING_T0}, {MINING_BATCH} pairs times"
    functions = {factor: partial(mined, factor * MINING_BATCH) for factor in FACTORS}
    return grown_rows(case, functions, min(3, options.repeats), options)


def preparation_rows(options: Options) -> list[Row]:
    """``preparation.prepare``, which looks at every image, on 1, 2, 4, 8 times as many images."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def prepare(factor: int) -> None:
            sets = folder / str(factor)
            workspace = Path(tempfile.mkdtemp(dir=folder)) / "workspace"
            preparation.prepare(workspace, [sets / "source"], sets / "target")

        for factor in FACTORS:
            count = factor * IMAGES
            size = IMAGE_SIDE
            write_phantoms(folder / str(factor), source=count, target=count, evaluation=0, supervised=0, size=size)
        case = (
            f"preparing a workspace, {IMAGES} photographs and {IMAGES} angiograms of {IMAGE_SIDE} x {IMAGE_SIDE} times"
        )
        functions = {factor: partial(prepare, factor) for factor in FACTORS}
        return grown_rows(case, functions, min(3, options.repeats), options)


def segmentation_rows(options: Options) -> list[Row]:
    """``segment`` with the default network on 1, 2, 4, 8 times as many files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = exported(phantom_workspace(folder, 64, 128), {}, folder / "bundle")
        for factor in FACTORS:
            (folder / str(factor)).mkdir()
            for number in range(factor * IMAGES):
                Image.fromarray(picture(SIDES[0])).save(folder / str(factor) / f"{number}.png")
        functions = {
            factor: partial(segment, folder / str(factor), folder / "out", bundle, device=options.device)
            for factor in FACTORS
        }
        case = f"segmenting, {IMAGES} files of {SIDES[0]} x {SIDES[0]} times"
        return grown_rows(case, functions, min(3, options.repeats), options)


def round_rows(options: Options) -> list[Row]:
    """The rounds' stage with K = 1, 2, 4, 8, after stages as short as they can be."""
    short = {"iterations": 2, "source_iterations": 2, "segmenter_iterations": 2}
    rounds = {"round_iterations": ROUND_STEPS, "refine_iterations": ROUND_STEPS}
    epochs = {f"{name.removeprefix('source_')}_per_epoch": count for name, count in (short | rounds).items()}
    counts = {
        "pairs": ROUND_PAIRS,
        "round_pairs": None,
        "measured_patches": 16,
        "sampled_patches": 2,
        "sample_steps": 2,
    }
    fixed = {**options.overrides, "seed": 0, "track": False, "device": f"$torch.device('{options.device}')"}
    settings = resolve_settings(options.preset, {**fixed, **short, **rounds, **epochs, **counts})
    with tempfile.TemporaryDirectory() as name:
        patch = stage_parser("ddpm_pretrain", "train.json", options).get("patch_size")
        prepared = phantom_workspace(Path(name), max(IMAGE_SIDE, patch), 2 * max(IMAGE_SIDE, patch))
        *before, co_optimization = pipeline.stages(baselines=False, upper_bound=False)
        for step in before:
            pipeline.run_step(prepared, step, settings)

        def co_optimize(count: int) -> None:
            with tempfile.TemporaryDirectory(dir=name) as place:
                workspace = shutil.copytree(prepared, Path(place) / "workspace")
                pipeline.run_step(workspace, co_optimization, {**settings, "rounds": count})

        case = f"rounds of {ROUND_STEPS} iterations each and {ROUND_PAIRS} pairs of each start, times"
        functions = {count: partial(co_optimize, count) for count in FACTORS}
        return grown_rows(case, functions, min(2, options.repeats), options)


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
            text = run_child("training", *arguments, processes=processes, threads=threads, on_gpu=options.on_gpu)
            times[name] = [*times[name], json.loads(text.splitlines()[-1])]
    return timed_rows(SECTION, case, "iteration", times, next(iter(starts)))
