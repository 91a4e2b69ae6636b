"""Accuracy on real images: the default over several seeds, and one factor at a time against it.

    python -m tests.benchmarks.accuracy IMAGES WORK RESULTS.csv [--split test] [--seeds 0 1 2] [--only NAME ...]

IMAGES holds FIVES, HRF, CHASE_DB1 (source, with masks) and ROSSA (target). Each adaptation is a workspace below WORK; a
stage whose settings are the default's is taken from the default of the same seed. RESULTS.csv gets one line for each
segmenter; what is in it is not run again, so an interrupted benchmark continues.

``development`` (what settings may be tuned on): every third image of ``ROSSA/train_manual`` is scored, the other two
thirds are the unlabelled target. ``test`` (what is reported): all of ``train_manual`` is the unlabelled target, and
``ROSSA/test`` is scored.
"""

import argparse
import logging
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from monai_vessel_uda import pipeline
from monai_vessel_uda.engines.stage import MARK, is_finished
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.files import load_json
from monai_vessel_uda.settings import load_preset, resolve_settings

from .configurations import CONFIGURATIONS, Configuration
from .results import KEY, SCORES, append, read

SOURCES = ("FIVES", "HRF", "CHASE_DB1")
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
    """Make the workspace's manifest; the default's own where nothing of the preparation is varied."""
    if (workspace / "manifest.json").exists():
        return
    preparing = dict(configuration.preparing)
    if configuration.scale_factor is not None:
        record = load_json(default / "manifest.json")["preprocessing"]["source"]["datasets"]
        preparing["source_scale"] = {name: configuration.scale_factor * item["scale"] for name, item in record.items()}
    if not preparing and workspace != default:
        workspace.mkdir(parents=True)
        shutil.copy2(default / "manifest.json", workspace)
        (workspace / "cache").symlink_to(default / "cache", target_is_directory=True)
        return
    folders = target_folders(arguments.images, arguments.split, arguments.work)
    pipeline.prepare(
        workspace,
        [arguments.images / name for name in SOURCES],
        **folders,
        seed=arguments.seed,
        **{"target_scale": load_preset(arguments.preset)["target_scale"], **preparing},
    )


def take_stages(workspace: Path, default: Path, steps: Iterable[pipeline.Step], settings: Mapping[str, Any]) -> None:
    """Link the default's finished stages into the workspace, as far as settings and what they read are the same."""
    if workspace == default or load_json(workspace / "manifest.json") != load_json(default / "manifest.json"):
        return
    taken = set()
    for step in steps:
        parser = pipeline._stage_workflow(workspace, step, settings).parser
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
    names = {pipeline.SHOWN_AS[name]: name for name in pipeline.SHOWN_AS}
    measures |= {pipeline.SHOWN_AS[name]: values for name, values in rounds["rounds"][0]["candidates"].items()}
    found = []
    for row in load_json(workspace / "scores.json")["rows"]:
        own = stages / "segmenters" / names.get(row["name"], "none") / MARK
        entry = {**common, "segmenter": row["name"], "exported": int(row["exported"])}
        entry["boundary_contrast"] = measures.get(row["name"], {}).get("boundary_contrast", "")
        entry["seconds"] = load_json(own)["seconds"] if own.exists() else ""
        for score in SCORES:
            value = row["scores"].get(score, {})
            entry |= {f"{score}{end}": value.get(part, "") for end, part in _ENDS.items()}
        found.append(entry)
    for name in ("ddpm_source", "ddpm_target", "latent_mining", "co_optimization"):
        found.append({**common, "segmenter": f"stage {name}", "seconds": load_json(stages / name / MARK)["seconds"]})
    return found


_ENDS = {"": "mean", "_low": "low", "_high": "high"}


def run(name: str, configuration: Configuration, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Adapt and score; baselines only with the default."""
    folder = arguments.work / arguments.split / arguments.preset / f"seed_{arguments.seed}"
    workspace, default = folder / name, folder / "default"
    prepare(workspace, default, configuration, arguments)
    settings = resolve_settings(arguments.preset, {**configuration.settings, "seed": arguments.seed, "track": False})
    full = name == "default"
    take_stages(workspace, default, pipeline.stages(False, False), settings)
    began = time.time()
    pipeline.adapt(workspace, arguments.preset, settings, baselines=full)
    common = {"configuration": name, "seed": arguments.seed, "split": arguments.split, "preset": arguments.preset}
    common["threads"] = torch.get_num_threads()
    return [*rows(workspace, common), {**common, "segmenter": "all that was run", "seconds": time.time() - began}]


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
    parser.add_argument("--only", nargs="+", choices=sorted(CONFIGURATIONS), default=list(CONFIGURATIONS))
    arguments = parser.parse_args()
    arguments.images, arguments.work = arguments.images.resolve(), arguments.work.resolve()
    for seed in arguments.seeds:
        arguments.seed = seed
        for name in sorted(arguments.only, key=list(CONFIGURATIONS).index):
            if is_done(arguments.results, name, arguments):
                continue
            found = run(name, CONFIGURATIONS[name], arguments)
            append(arguments.results, found)
            best = next(row for row in found if row.get("exported"))
            print(f"seed {seed}, {name}: {best['segmenter']} exported, Dice {100 * best['dice']:.2f}", flush=True)


def is_done(results: Path, name: str, arguments: argparse.Namespace) -> bool:
    """Whether the results hold this configuration, seed, split and preset."""
    wanted = (name, str(arguments.seed), arguments.split, arguments.preset)
    return results.exists() and any(tuple(row[key] for key in KEY[:4]) == wanted for row in read(results))


if __name__ == "__main__":
    main()
