"""Preparing images; the loader: patches per second, what it adds to a step, what each transform of a patch costs."""

import tempfile
import time
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.data import set_track_meta
from monai.transforms import Randomizable

from monai_vessel_uda.data.manifest import load_manifest
from monai_vessel_uda.data.patches import PatchDataset
from monai_vessel_uda.transforms.prepared import prepared_images

from .measure import Options, Row, interleaved, quartiles
from .networks import layout
from .stages import phantom_workspace, stage_parser

SECTION = "data"
IMAGE_SIDE, PHOTOGRAPH_SIDE = 304, 2048
PATCHES = 400
"""For the loader's throughput and the profile of its transforms."""


def run(options: Options) -> list[Row]:
    """Rows of every kind of training, on phantoms."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = phantom_workspace(Path(folder), IMAGE_SIDE, PHOTOGRAPH_SIDE)
        rows = preparing_rows(workspace, options)
        for name, parser in trainings(workspace, options).items():
            dataset = parser.get_parsed_content("train#dataset")
            rows += throughput_rows(name, parser.get_parsed_content("train#trainer").data_loader)
            rows += transform_rows(name, dataset)
            rows += step_rows(name, parser, options)
    return rows


def preparing_rows(workspace: Path, options: Options) -> list[Row]:
    """Seconds for the images of a training when the first stage prepares them and when a later one takes them."""
    manifest = load_manifest(workspace / "manifest.json")
    side = stage_parser("ddpm_pretrain", "train.json", options).get("patch_size")
    rows = []
    for name, what in (("source", PHOTOGRAPH_SIDE), ("target", IMAGE_SIDE)):
        case = f"{len(manifest[name])} {name} images of {what} x {what}"
        with tempfile.TemporaryDirectory() as cache:
            for variant in ("prepared", "from the disk cache"):
                start = time.perf_counter()
                prepared_images(manifest, name, patch_size=side, cache_dir=cache)  # type: ignore[arg-type]
                rows.append(Row(SECTION, case, variant, "images of a stage", time.perf_counter() - start, "s"))
    return rows


def trainings(workspace: Path, options: Options) -> dict[str, Any]:
    """The stages that train, by what their patches are."""
    manifest = load_manifest(workspace / "manifest.json")
    common = {"workspace": str(workspace), "seed": manifest["seed"]}
    pairs = workspace / "stages" / "latent_mining" / "pairs"
    pairs.mkdir(parents=True, exist_ok=True)
    side = stage_parser("latent_mining", "mine.json", options).get("patch_size")
    for name in ("00000", "00001"):
        shard = {"image": torch.rand(32, 1, side, side), "label": (torch.rand(32, 1, side, side) < 0.1).byte()}
        torch.save(shard, pairs / f"{name}.pt")
    return {
        "generator, source patches": stage_parser("ddpm_pretrain", "train.json", options, domain="source", **common),
        "generator, target patches": stage_parser("ddpm_pretrain", "train.json", options, domain="target", **common),
        "segmenter, source patches, augmented": stage_parser(
            "latent_mining", "train.json", options, training_set="aligned", **common
        ),
        "segmenter, mined pairs, augmented": stage_parser(
            "latent_mining", "train.json", options, training_set="mined", **common
        ),
    }


def throughput_rows(name: str, loader: Any, patches: int = PATCHES) -> list[Row]:
    """Patches per second of the stage's own loader."""
    batches = chain.from_iterable(repeat(loader))
    size = len(next(batches)["image"])
    rates = []
    for _ in range(max(1, patches // size)):
        start = time.perf_counter()
        next(batches)
        rates.append(size / (time.perf_counter() - start))
    low, middle, high = quartiles(rates)
    return [Row(SECTION, name, "loader", "throughput", middle, "patches/s", low, high, f"{loader.num_workers} workers")]


class Alternating:
    """Batches of a loader and the same resident batch in turn."""

    def __init__(self, loader: Any, batches: int) -> None:
        self.loader, self.batches, self.resident = loader, batches, next(iter(loader))

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Any]:
        real = chain.from_iterable(repeat(self.loader))
        for i in range(self.batches):
            yield next(real) if i % 2 == 0 else self.resident


def step_rows(name: str, parser: Any, options: Options) -> list[Row]:
    """Seconds of the trainer's iterations with loaded and with resident batches, all its handlers included."""
    trainer = parser.get_parsed_content("train#trainer")
    trainer.data_loader = Alternating(trainer.data_loader, 4 + 2 * options.repeats)
    trainer.state.max_epochs, trainer.state.epoch_length = 1, len(trainer.data_loader)
    marks: list[float] = []

    def mark() -> None:
        if options.device.startswith("cuda"):
            torch.cuda.synchronize(options.device)
        marks.append(time.perf_counter())

    trainer.add_event_handler(Events.GET_BATCH_STARTED, mark)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, mark)
    trainer.run()
    seconds = [end - start for start, end in zip(marks[0::2], marks[1::2], strict=True)][4:]
    loaded, resident = seconds[0::2], seconds[1::2]
    rows = []
    for variant, values in (("loaded batch", loaded), ("resident batch", resident)):
        low, middle, high = quartiles(values)
        rows.append(Row(SECTION, name, variant, "iteration", 1000 * middle, "ms", 1000 * low, 1000 * high))
    low, ratio, high = quartiles([a / b for a, b in zip(loaded, resident, strict=True)])
    rows.append(Row(SECTION, name, "loaded batch", "times a resident batch", ratio, "", low, high))
    batch = trainer.data_loader.resident
    preparing = interleaved({"": lambda: trainer.prepare_batch(batch, torch.device(options.device))}, 5, options.device)
    each = 1e6 * median(preparing[""]) / len(batch["image"])
    rows.append(Row(SECTION, name, "then prepare_batch of the trainer", "time of a patch", each, "us"))
    network = parser.get_parsed_content("network")
    rows.append(Row(SECTION, name, "network", "layout in training", layout(network)))
    return rows


def transform_rows(name: str, dataset: PatchDataset, patches: int = PATCHES) -> list[Row]:
    """Microseconds for a patch that each part of ``PatchDataset.__getitem__`` takes."""
    transforms = dataset.transform.transforms
    random = np.random.RandomState()

    def seed_all(seed: int) -> None:  # as the dataset does
        random.seed(seed)
        for transform in transforms:
            if isinstance(transform, Randomizable):
                transform.set_random_state(seed=int(random.randint(2**31)))

    seconds: dict[str, float] = {}

    def timed(what: str, function: Any, *arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        result = function(*arguments, **options)
        seconds[what] = seconds.get(what, 0.0) + time.perf_counter() - start
        return result

    timed("whole patch", lambda: [dataset[i] for i in range(patches)])
    set_track_meta(False)
    try:
        for i in range(patches):
            item = dict(timed("reading the item", lambda i=i: dataset.images[i % len(dataset.images)]))
            timed("seeding the transforms", seed_all, i)
            for transform in transforms:
                item = timed(type(transform).__name__, transform, item)
    finally:
        set_track_meta(True)
    return [Row(SECTION, name, what, "time of a patch", 1e6 * s / patches, "us") for what, s in seconds.items()]
