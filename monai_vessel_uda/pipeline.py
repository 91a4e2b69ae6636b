"""The stages over a workspace: each is a bundle config, run exactly as ``python -m monai.bundle run`` runs it.

A workspace is a folder::

    manifest.json               who is in which list, preprocessing, versions
    settings.json               preset and overrides
    stages/ddpm_source, …       one folder for each stage, marked finished by its stage.json
    vessel_segmentation/        the exported bundle
    scores.json, .csv, .md      every segmenter against the evaluation masks, if there are any
    report.html                 all of it on one page
    mlruns.db                   tracking
"""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from .errors import InputError, surfacing_input_errors
from .files import load_json, replacing, save_json, sha256
from .settings import bundle_folder, device_override, resolve_settings, set_id, warn_if_hopeless

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger("monai_vessel_uda")

BASELINES = ("raw", "negated", "matched", "fda", "aligned")
CANDIDATES = ("aligned", "matched", "negated")
"""Segmenters besides the mined one from which co-optimisation may start."""

SHOWN_AS = {
    "raw": "source-only",
    "negated": "source-negated",
    "matched": "source matched to target histograms",
    "fda": "Fourier amplitude swap (FDA)",
    "aligned": "aligned, no diffusion",
    "mined": "first generation",
    "supervised": "upper bound (target masks)",
}


@dataclass(frozen=True)
class Step:
    """One stage: which config of which bundle, and what is overridden."""

    bundle: str
    config: str
    overrides: Mapping[str, Any]


def prepare(
    workspace: str | Path,
    source: Sequence[str | Path],
    target: str | Path,
    evaluation: str | Path | None = None,
    supervised: str | Path | None = None,
    *,
    seed: int = 0,
    **preprocessing: Any,
) -> Path:
    """Write the manifest: find the images, check them, decide how both domains are brought into one space.

    Args:
        workspace: folder to make.
        source: folders of labelled source images, in any known layout.
        target: folder of target images; masks in it are not looked at.
        evaluation: folder of target images with masks, for scores only.
        supervised: folder of target images with masks, for the upper bound only.
        seed: of everything random.
        preprocessing: options of
            :func:`~monai_vessel_uda.transforms.preprocessing.estimate_preprocessing`.

    Returns:
        Path of the manifest.

    Raises:
        InputError: anything that cannot be used; names the file.
    """
    from .data.layouts import find_items
    from .data.manifest import build_manifest, save_manifest
    from .engines.stage import check_path
    from .progress import Progress
    from .transforms.preprocessing import estimate_preprocessing

    check_path(Path(workspace).resolve())
    sources = [item for folder in source for item in find_items(folder, domain="source", labels="required")]
    targets = find_items(target, domain="target", labels="forbidden")
    known = {
        name: find_items(folder, domain="target", labels="required") if folder is not None else []
        for name, folder in (("evaluation", evaluation), ("supervised", supervised))
    }
    progress = Progress("looking at the images", 100)
    record = estimate_preprocessing(
        sources,
        targets,
        seed=seed,
        progress=lambda share, what: progress.update(round(100 * share) - progress.done),
        **preprocessing,
    )
    manifest = build_manifest(
        source=sources,
        target=targets,
        evaluation=known["evaluation"],
        supervised=known["supervised"],
        preprocessing=record,
        seed=seed,
    )
    path = Path(workspace) / "manifest.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and any((path.parent / "stages").glob("*")):
        raise InputError(
            f"{path}: this workspace has stages of an earlier adaptation; choose another folder or delete it"
        )
    save_manifest(manifest, path)
    return path


def adapt(
    workspace: str | Path,
    preset: str = "full",
    overrides: Mapping[str, Any] | None = None,
    baselines: bool = True,
    device: str | None = None,
) -> Path:
    """Run all stages, skipping finished ones and resuming an interrupted one; evaluate, export, report.

    Args:
        workspace: folder with a manifest.
        preset: ``full``, ``small`` or ``demo``: see ``bundles/presets``.
        overrides: ids of the bundle configs and their values, for all stages that have them.
        baselines: also train the baselines, and the upper bound if the manifest has masks for it.
        device: ``cpu`` or ``cuda``; a GPU where there is one by default.

    Returns:
        The exported bundle's folder.

    Raises:
        InputError: no manifest, changed files, an unknown override, a device that is not there.
    """
    from .data.manifest import load_manifest, verify_files
    from .report.example import write_example
    from .report.html import write_report

    workspace = Path(workspace)
    manifest = load_manifest(workspace / "manifest.json")
    verify_files(manifest)
    settings = resolve_settings(preset, {**(overrides or {}), **device_override(device), "seed": manifest["seed"]})
    save_json({"version": 1, "preset": preset, "settings": settings}, workspace / "settings.json")
    warn_if_hopeless(preset, device)
    evaluated = bool(manifest["evaluation"])
    for step in stages(baselines, baselines and evaluated and bool(manifest["supervised"])):
        run_step(workspace, step, settings)
    bundle = export(workspace, settings)
    if evaluated:
        score(workspace, settings)
    write_example(workspace, _predictions(workspace, 3))
    write_report(workspace)
    return bundle


def stages(baselines: bool, upper_bound: bool) -> Iterator[Step]:
    """All stages in their order."""
    yield Step("ddpm_pretrain", "train.json", {"domain": "source"})
    yield Step("ddpm_pretrain", "train.json", {"domain": "target"})
    yield Step("latent_mining", "mine.json", {})
    names = ["mined", *(BASELINES if baselines else CANDIDATES), *(["supervised"] if upper_bound else [])]
    for name in names:
        yield Step("latent_mining", "train.json", {"training_set": name})
    yield Step("co_optimization", "train.json", {})


def run_step(workspace: Path, step: Step, settings: Mapping[str, Any]) -> bool:
    """Run one stage unless it is finished; returns whether it ran."""
    from .engines.stage import is_finished

    workflow = _workflow([step.config], step.bundle, {**settings, **step.overrides, "workspace": str(workspace)})
    parser = workflow.parser
    with surfacing_input_errors():
        parser.parse(True)
        output_dir = parser.get_parsed_content("output_dir")
        if is_finished(output_dir, parser.get_parsed_content("settings")):
            logger.info("%s: finished before, skipped", Path(output_dir).name)
            return False
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    return True


def export(workspace: Path, settings: Mapping[str, Any]) -> Path:
    """Copy the inference bundle into the workspace, with the best round's weights and their description."""
    destination = workspace / "vessel_segmentation"
    weights = workspace / "stages" / "co_optimization" / "weights.pt"
    if (destination / "models" / "model.pt").exists() and sha256(destination / "models" / "model.pt") == sha256(
        weights
    ):
        return destination
    making = workspace / ".vessel_segmentation"
    shutil.rmtree(making, ignore_errors=True)
    shutil.copytree(bundle_folder("vessel_segmentation"), making, ignore=shutil.ignore_patterns("models"))
    (making / "models").mkdir()
    shutil.copy2(weights, making / "models" / "model.pt")
    description = load_json(weights.with_suffix(".json"))
    save_json({**description, "exported_with": __version__}, making / "models" / "model.json")
    inference = making / "configs" / "inference.json"
    config = load_json(inference)
    for key, value in settings.items():
        set_id(config, key, value)
    inference.write_text(_as_config(config))
    shutil.rmtree(destination, ignore_errors=True)
    making.rename(destination)
    return destination


def segment(
    source: str | Path,
    output: str | Path,
    bundle: str | Path,
    *,
    probability: bool = False,
    overlay: bool = False,
    scale: float | None = None,
    threshold: float | None = None,
    suffix: str | None = None,
    device: str | None = None,
) -> Path:
    """Segment one image or a folder with an exported bundle.

    Args:
        source: image file or folder.
        output: folder of the results.
        bundle: a ``vessel_segmentation`` folder, or a workspace that holds one.
        probability: also write probability maps.
        overlay: also write overlays.
        scale: working pixels for one pixel of the images, if they differ in resolution from the training images.
        threshold: probability from which on a pixel is vessel, in (0, 1); by default the segmenter's own.
        suffix: format of the results; by default the input's own.
        device: ``cpu`` or ``cuda``.

    Returns:
        ``output``.

    Raises:
        InputError: nothing to segment, or an option out of range.
    """
    if threshold is not None and not 0 < threshold < 1:
        raise InputError(f"threshold: expected a probability between 0 and 1, got {threshold}")
    overrides = {
        "dataset_dir": str(source),
        "output_dir": str(output),
        "probability": probability,
        "overlay": overlay,
        "scale": scale,
        "output_suffix": suffix,
        **({} if threshold is None else {"threshold": threshold}),
        **device_override(device),
    }
    _run_inference(["inference.json"], _bundle(bundle), overrides)
    return Path(output)


def evaluate(
    bundle: str | Path,
    folder: str | Path | None = None,
    output: str | Path | None = None,
    *,
    manifest: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Score a bundle against masks of a folder or of a manifest's evaluation list."""
    values = {"evaluation_dir": _text(folder), "manifest": _text(manifest), **(overrides or {})}
    if output is not None:
        values["output"] = str(output)
    result: dict[str, Any] = _run_inference(["inference.json", "evaluate.json"], _bundle(bundle), values)[0]
    return result


def score(workspace: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Score every segmenter of the workspace; write ``scores.json``, ``.csv`` and ``.md``.

    The only step that reads evaluation masks, and nothing is chosen by it.
    """
    from .report.table import score_csv, score_table

    bundle = workspace / "vessel_segmentation"
    rounds = load_json(workspace / "stages" / "co_optimization" / "rounds.json")
    exported = rounds["exported_round"]
    rows = []
    for name, weights in trained_segmenters(workspace, len(rounds["rounds"]) - 1):
        output = weights.parent / "evaluation.json"
        if not output.exists() or load_json(output).get("weights_sha256") != sha256(weights):
            overrides = {
                "model": str(weights),
                "model_description": str(weights.with_suffix(".json")),
                "seed": settings["seed"],
            }
            manifest = workspace / "manifest.json"
            result = evaluate(bundle, None, output, manifest=manifest, overrides=overrides)
            save_json({**result, "weights_sha256": sha256(weights)}, output)
        is_exported = name == (f"round {exported}" if exported else SHOWN_AS[rounds["started_from"]])
        rows.append({"name": name, "scores": load_json(output)["summary"], "exported": is_exported, "note": ""})
    conditions = {
        "seed": settings["seed"],
        "started_from": rounds["started_from"],
        "exported_round": exported,
        "version": __version__,
        "settings": {key: value for key, value in settings.items()},
    }
    result = {"rows": rows, "conditions": conditions}
    save_json(result, workspace / "scores.json")
    for suffix, text in ((".md", score_table(rows)), (".csv", score_csv(rows))):
        with replacing(workspace / f"scores{suffix}") as temporary:
            temporary.write_text(text)
    return result


def _workflow(configs: Sequence[str], bundle: str | Path, overrides: Mapping[str, Any]) -> Any:
    from monai.bundle import ConfigWorkflow

    root = bundle_folder(bundle) if isinstance(bundle, str) else bundle
    files = [str(root / "configs" / name) for name in configs]
    ids = {key for file in files for key in load_json(file)}
    known = {key: value for key, value in overrides.items() if key.split("#")[0] in ids}
    logging.getLogger("ignite").setLevel(logging.WARNING)
    return ConfigWorkflow(files, logging_file=False, workflow_type=None, bundle_root=str(root), **known)


def _run_inference(configs: Sequence[str], bundle: Path, overrides: Mapping[str, Any]) -> list[Any]:
    from .engines.stage import check_path

    for key in ("dataset_dir", "output_dir", "output"):
        if overrides.get(key):
            check_path(overrides[key])
    workflow = _workflow(configs, bundle, overrides)
    with surfacing_input_errors():
        workflow.initialize()
        results: list[Any] = workflow.run()
        workflow.finalize()
    return results


def _predictions(workspace: Path, count: int) -> "Iterator[tuple[Tensor, Tensor]]":
    """The first target images, at the working resolution, and what the exported bundle marks in them."""
    from .data.manifest import datalist, load_manifest
    from .engines.inference import native_probabilities

    workflow = _workflow(["inference.json"], _bundle(workspace), {})
    workflow.parser.parse(True)
    network, transform, inferer, threshold = (
        workflow.parser.get_parsed_content(name) for name in ("network", "preprocessing", "inferer", "threshold")
    )
    items = datalist(load_manifest(workspace / "manifest.json"), "target")[:count]
    for item, probability in zip(items, native_probabilities(network, items, transform, inferer), strict=True):
        yield transform(dict(item))["image"], probability >= threshold


def trained_segmenters(workspace: Path, rounds: int) -> Iterator[tuple[str, Path]]:
    """Name and weights of every segmenter that was trained, in the order of the table."""
    folder = workspace / "stages"
    places = {SHOWN_AS[name]: folder / "segmenters" / name for name in (*BASELINES, "mined")}
    for k in range(1, rounds + 1):
        places[f"round {k}"] = folder / "co_optimization" / f"round_{k:02d}" / "segmenter"
    places[SHOWN_AS["supervised"]] = folder / "segmenters" / "supervised"
    for name, place in places.items():
        if (place / "weights.pt").exists():
            yield name, place / "weights.pt"


def _bundle(path: str | Path) -> Path:
    for folder in (Path(path), Path(path) / "vessel_segmentation"):
        if (folder / "configs" / "inference.json").exists():
            if not (folder / "models" / "model.pt").exists():
                raise InputError(
                    f"{folder}: this bundle has no weights (models/model.pt); run 'vessel-uda adapt' first"
                )
            return folder.resolve()
    raise InputError(f"{path}: expected a vessel_segmentation bundle or a workspace that holds one")


def _as_config(config: Mapping[str, Any]) -> str:
    import json

    return json.dumps(config, indent=4) + "\n"


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)
