"""Accuracy on real images: the default over several seeds, and one factor at a time against it.

    python -m tests.benchmarks.accuracy IMAGES WORK RESULTS.csv [--split test] [--seeds 0 1 2] [--only NAME ...]
                                        [--scales whole round segmenter]

IMAGES holds FIVES, HRF, CHASE_DB1 (source, with masks) and ROSSA (target). Each adaptation is a workspace below WORK; a
stage whose settings are the default's is taken from the default of the same seed. RESULTS.csv gets one line for each
segmenter; what is in it with today's settings is not run again, so an interrupted benchmark continues. Several may run
at once, with other seeds or configurations, and write to one file; whichever comes first makes a seed's default, and
the others wait for it. What is done on one machine is not run again on another: give a GPU's rows a file of their own.

A configuration is compared with the default at the scales named in ``configurations.py``: ``whole`` adaptations, the
generators and one ``round``, or one ``segmenter`` alone.

``development`` (what settings may be tuned on): every third image of ``ROSSA/train_manual`` is scored, the other two
thirds are the unlabelled target. ``test`` (what is reported): all of ``train_manual`` is the unlabelled target, and
``ROSSA/test`` is scored.
"""

import argparse
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any, get_args

import torch
from filelock import FileLock

from monai_vessel_uda import pipeline, preparation
from monai_vessel_uda.data.inference_items import images_to_evaluate
from monai_vessel_uda.engines.inference import evaluate_segmenter
from monai_vessel_uda.engines.stage import MARK, is_finished
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.files import load_json, save_json
from monai_vessel_uda.settings import resolve_settings
from monai_vessel_uda.training_sets import TRAINING_SETS

from ..speed.measure import commit, processor
from .configurations import CONFIGURATIONS, Configuration, Scale, criterion, fingerprint
from .results import KEY, MEASURES, SCORES, append, read

SOURCES = ("FIVES", "HRF", "CHASE_DB1")
MADE_WITH = "made_with.json"
"""In a workspace: its preparation, and the criterion that chose in it."""
NEEDS = {
    "ddpm_source": (),
    "ddpm_target": (),
    "latent_mining": ("ddpm_source", "ddpm_target"),
    "segmenters/mined": ("latent_mining",),
    "co_optimization": ("ddpm_target", "latent_mining", "segmenters/mined"),
}
"""Stages that a stage reads; the other segmenters read images alone, and a target generator its warm start."""


def target_folders(images: Path, split: str, work: Path) -> dict[str, Path]:
    """Unlabelled target, images to score and images of the upper bound; the development split as links."""
    rossa = images / "ROSSA"
    if split == "test":
        return {"target": rossa / "train_manual", "evaluation": rossa / "test", "supervised": rossa / "train_manual"}
    parts = {"evaluation": work / "development" / "scored", "target": work / "development" / "unlabelled"}
    for kind in ("image", "label"):
        for i, path in enumerate(sorted((rossa / "train_manual" / kind).iterdir(), key=lambda path: path.name)):
            link = parts["target" if i % 3 else "evaluation"] / kind / path.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(path.resolve())
    return {**parts, "supervised": parts["target"]}


def prepare(workspace: Path, default: Path, configuration: Configuration, arguments: argparse.Namespace) -> None:
    """Make the workspace's manifest; the default's own where nothing of the preparation is varied.

    Raises:
        InputError: the workspace was prepared otherwise, or another criterion chose in it.
    """
    made_with = {"preparing": configuration.preparing, "scale_factor": configuration.scale_factor}
    made_with = json.loads(json.dumps({**made_with, "criterion": criterion()}))
    if (workspace / "manifest.json").exists():
        if load_json(workspace / MADE_WITH) != made_with:
            raise InputError(f"{workspace}: made with another preparation or criterion; delete the folder")
        return
    workspace.mkdir(parents=True, exist_ok=True)
    save_json(made_with, workspace / MADE_WITH)
    preparing = dict(configuration.preparing)
    if configuration.scale_factor is not None:
        record = load_json(default / "manifest.json")["preprocessing"]["source"]["datasets"]
        preparing["source_scale"] = {name: configuration.scale_factor * item["scale"] for name, item in record.items()}
    if not preparing and workspace != default:
        if not (workspace / "cache").is_symlink():
            (default / "cache").mkdir(exist_ok=True)
            (workspace / "cache").symlink_to(default / "cache", target_is_directory=True)
        shutil.copy2(default / "manifest.json", workspace)
        return
    folders = target_folders(arguments.images, arguments.split, arguments.work)
    sources = [arguments.images / name for name in SOURCES]
    preparation.prepare(workspace, sources, **folders, seed=arguments.seed, **preparing)


def take_stages(workspace: Path, default: Path, steps: Iterable[pipeline.Step], settings: Mapping[str, Any]) -> None:
    """Link the default's finished stages into the workspace, as far as settings and what they read are the same."""
    if workspace == default or load_json(workspace / "manifest.json") != load_json(default / "manifest.json"):
        return
    taken = set()
    for step in steps:
        parser = pipeline.stage_workflow(workspace, step, settings).parser
        parser.parse(True)
        place = Path(parser.get_parsed_content("output_dir"))
        name = place.relative_to(workspace / "stages").as_posix()
        theirs = default / "stages" / name
        try:
            same = is_finished(theirs, parser.get_parsed_content("settings"))
        except InputError:
            same = False
        reads = ("ddpm_source",) if name == "ddpm_target" and settings.get("warm_start") else NEEDS.get(name, ())
        if same and taken.issuperset(reads):
            taken.add(name)
            if not place.exists():
                shutil.copytree(theirs, place, copy_function=os.link)


def rows(workspace: Path, common: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row for each segmenter that was scored."""
    stages = workspace / "stages"
    rounds = load_json(stages / "co_optimization" / "rounds.json")
    measures = {f"round {record['round']}": record["measures"] for record in rounds["rounds"][1:]}
    names = {training_set.shown_as: name for name, training_set in TRAINING_SETS.items()}
    measures |= {TRAINING_SETS[name].shown_as: found for name, found in rounds["rounds"][0]["candidates"].items()}
    found = []
    for row in load_json(workspace / "scores.json")["rows"]:
        own = stages / "segmenters" / names.get(row["name"], "none") / MARK
        entry = {**common, "segmenter": row["name"], "exported": int(row["exported"])}
        entry |= {measure: measures.get(row["name"], {}).get(measure, "") for measure in MEASURES}
        entry["seconds"] = seconds(own) if own.exists() else ""
        found.append(entry | scores(row["scores"]))
    for name in ("ddpm_source", "ddpm_target", "latent_mining", "co_optimization"):
        found.append({**common, "segmenter": f"stage {name}", "seconds": seconds(stages / name / MARK)})
    return found


def seconds(mark: Path) -> float | str:
    """How long a finished stage took; empty if it was interrupted, because only its last part was timed."""
    record = load_json(mark)
    return "" if record.get("continued") else record["seconds"]


def run(name: str, scale: Scale, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Adapt and score; baselines only with the whole default, whose workspace the others take stages from."""
    configuration = CONFIGURATIONS[name]
    default = default_workspace(arguments)
    workspace = default.parent / name if scale == "whole" else default.parent / scale / name
    was_begun = (workspace / "stages").exists()
    prepare(workspace, default, configuration, arguments)
    settings = settings_of(name, scale, arguments)
    common = {**key_of(name, scale, arguments), **conditions()}
    began = time.time()
    if scale == "segmenter":
        found = [{**common, **run_segmenter(workspace, default, configuration, settings)}]
    else:
        take_stages(workspace, default, pipeline.stages(False, False), settings)
        pipeline.adapt(workspace, arguments.preset, settings, baselines=workspace == default)
        found = rows(workspace, common)
    elapsed = "" if was_begun else time.time() - began
    return [*found, {**common, "segmenter": "all that was run", "seconds": elapsed}]


def conditions() -> dict[str, Any]:
    """When, on what and with which code; the GPU where there is one, as the presets have it, else the processor."""
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    today = date.today().isoformat()
    return {"threads": torch.get_num_threads(), "machine": machine, "commit": commit(), "date": today}


def settings_of(name: str, scale: Scale, arguments: argparse.Namespace) -> dict[str, Any]:
    """The preset's, with the configuration's overrides and the seed; nothing is tracked."""
    overrides = {**CONFIGURATIONS[name].settings_at(scale), "seed": arguments.seed, "track": False}
    return resolve_settings(arguments.preset, overrides)


def default_workspace(arguments: argparse.Namespace) -> Path:
    """Of the seed: whole, with the baselines."""
    return arguments.work / arguments.split / arguments.preset / f"seed_{arguments.seed}" / "default"


def run_and_keep(name: str, scale: Scale, arguments: argparse.Namespace) -> None:
    """Run a configuration, if the results do not hold it."""
    if is_done(arguments.results, name, scale, arguments):
        return
    found = run(name, scale, arguments)
    append(arguments.results, found)
    best = next(row for row in found if row.get("exported"))
    dice = f"Dice {100 * best['dice']:.2f}"
    print(f"seed {arguments.seed}, {name} ({scale}): {best['segmenter']}, {dice}", flush=True)


def make_default(arguments: argparse.Namespace) -> None:
    """The seed's whole default, in the results; where these came without its workspace, what others take from it.

    These are its stages up to the rounds. Segmenters alone take its prepared images and train what they need.
    """
    default = default_workspace(arguments)
    default.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(default.with_suffix(".lock")):
        run_and_keep("default", "whole", arguments)
        if (default / "vessel_segmentation").is_dir():
            return
        prepare(default, default, CONFIGURATIONS["default"], arguments)
        if arguments.scales == ["segmenter"]:
            return
        settings = settings_of("default", "whole", arguments)
        for step in pipeline.stages(baselines=False, upper_bound=False):
            if step.bundle != "co_optimization":
                pipeline.run_step(default, step, settings)


def run_segmenter(
    workspace: Path, default: Path, configuration: Configuration, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Train one segmenter alone and score it as an exported one is."""
    step = configuration.segmenter()
    take_stages(workspace, default, [step], settings)
    pipeline.run_step(workspace, step, settings)
    training_set = configuration.training_set
    use = pipeline.Step("latent_mining", "inference.json", {"training_set": training_set})
    parser = pipeline.stage_workflow(workspace, use, settings).parser
    parser.parse(True)
    network, transform, inferer, threshold = (
        parser.get_parsed_content(name) for name in ("network", "preprocessing", "inferer", "threshold")
    )
    items = images_to_evaluate(manifest=workspace / "manifest.json")
    result = evaluate_segmenter(network, items, transform, inferer, threshold=threshold, seed=settings["seed"])
    took = seconds(workspace / "stages" / "segmenters" / training_set / MARK)
    return {
        "segmenter": TRAINING_SETS[training_set].shown_as,
        "exported": 1,
        "seconds": took,
        **scores(result["summary"]),
    }


def scores(summary: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Columns of the results for the scores of one segmenter."""
    ends = {"": "mean", "_low": "low", "_high": "high"}
    return {f"{s}{end}": summary.get(s, {}).get(part, "") for s in SCORES for end, part in ends.items()}


def main() -> None:
    """Run what is not in the results yet."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--split", choices=("development", "test"), default="development")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scales", nargs="+", choices=get_args(Scale), default=get_args(Scale))
    parser.add_argument("--only", nargs="+", choices=sorted(CONFIGURATIONS), default=list(CONFIGURATIONS))
    arguments = parser.parse_args()
    arguments.images, arguments.work = arguments.images.resolve(), arguments.work.resolve()
    runs = [(name, scale) for name in arguments.only for scale in CONFIGURATIONS[name].scales]
    runs = [(name, scale) for name, scale in runs if scale in arguments.scales]
    for name, scale in runs:
        fingerprint(name, arguments.preset, scale)  # what the preset does not allow is refused before anything runs
    for seed in arguments.seeds:
        arguments.seed = seed
        make_default(arguments)
        for name, scale in runs:
            run_and_keep(name, scale, arguments)


def key_of(name: str, scale: Scale, arguments: argparse.Namespace) -> dict[str, Any]:
    """What tells a run's rows from other runs'."""
    settings = fingerprint(name, arguments.preset, scale)
    values = (name, settings, arguments.seed, arguments.split, arguments.preset, scale)
    return dict(zip(KEY[:-1], values, strict=True))


def is_done(results: Path, name: str, scale: Scale, arguments: argparse.Namespace) -> bool:
    """Whether the results hold this configuration as it is today, with this seed, split and preset."""
    wanted = {column: str(value) for column, value in key_of(name, scale, arguments).items()}
    return results.exists() and any(wanted.items() <= row.items() for row in read(results))


if __name__ == "__main__":
    main()
