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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .deployment.export import export_bundle
from .errors import InputError, surfacing_input_errors
from .files import save_json, working_alone
from .scoring import score
from .segmenter import inference_workflow
from .settings import announce, begun_with, bundle_folder, device_override, preset_and_overrides, resolve_settings
from .training_sets import BASELINES, CANDIDATES
from .workflows import bundle_workflow

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger("monai_vessel_uda")


@dataclass(frozen=True)
class Step:
    """One stage: which config of which bundle, and what is overridden."""

    bundle: str
    config: str
    overrides: Mapping[str, Any]


def adapt(
    workspace: str | Path,
    preset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    baselines: bool | None = None,
    device: str | None = None,
    registered_model: str | None = None,
) -> Path:
    """Run all stages, skipping finished ones and resuming an interrupted one; export, score, report.

    Args:
        workspace: folder with a manifest.
        preset: a file of ``bundles/presets``. Without it, preset and overrides that the adaptation was begun with, or
            ``full`` with a GPU and ``small`` without.
        overrides: ids of the bundle configs and their values, for all stages that have them.
        baselines: also train the baselines, and the upper bound if the manifest has masks for it. As the adaptation was
            begun by default, at first True.
        device: ``cpu`` or ``cuda``; a GPU where there is one by default.
        registered_model: name in MLflow's model registry of which the exported bundle becomes a version. As the
            adaptation was begun by default, at first "vessel_segmentation".

    Returns:
        The exported bundle's folder.

    Raises:
        InputError: no manifest, changed files, masks that cannot be used, an unknown override, a device that is not
            there, an MLflow server that does not answer, another process that works in the workspace.
    """
    from .data.manifest import datalist, load_manifest, verify_files
    from .engines.adaptation_tracking import AdaptationTracker
    from .engines.inference import check_evaluation
    from .engines.model_registry import check_model_name

    workspace = Path(workspace)
    if baselines is None:
        baselines = begun_with(workspace, "baselines", True)
    if registered_model is None:
        registered_model = begun_with(workspace, "registered_model", "vessel_segmentation")
    check_model_name(registered_model)
    manifest = load_manifest(workspace / "manifest.json")
    verify_files(manifest)
    preset, overrides = preset_and_overrides(workspace, preset, overrides or {}, device)
    settings = _settings(manifest, preset, overrides, device)
    evaluated = bool(manifest["evaluation"])
    if baselines and evaluated:
        verify_files(manifest, ["supervised"])
    check_evaluation(datalist(manifest, "evaluation"))
    steps = list(stages(baselines, baselines and evaluated and bool(manifest["supervised"])))
    for step in steps:
        check_step(workspace, step, settings)
    trained = [step.overrides["training_set"] for step in steps if "training_set" in step.overrides]
    parser = stage_workflow(workspace, steps[-1], settings).parser
    parser.parse(True)
    for start in parser.get_parsed_content("start_segmenter"):
        if start not in trained:
            raise InputError(f"start_segmenter: {start!r} is one of the baselines, which are not to be trained")
    _check_networks(parser)
    _check_sizes(manifest, trained, parser.get_parsed_content("patch_size"))
    with working_alone(workspace):
        tracking = AdaptationTracker(workspace, settings.get("track", True)).start({"preset": preset, **settings})
        begun = {"preset": preset, "settings": settings, "baselines": baselines, "registered_model": registered_model}
        save_json({"version": 1, **begun}, workspace / "settings.json")
        announce(preset, device)
        bundle = _run(workspace, steps, settings, evaluated)
        tracking.log_results()
        tracking.log_bundle(bundle, registered_model)
        tracking.finish()
    return bundle


def _run(workspace: Path, steps: Sequence[Step], settings: Mapping[str, Any], evaluated: bool) -> Path:
    """All stages, the exported bundle, scores and the report."""
    from .report.example import write_example
    from .report.html import write_report

    for step in steps:
        run_step(workspace, step, settings)
    bundle = export_bundle(workspace, settings)
    if evaluated:
        score(workspace, settings)
    write_example(workspace, _predictions(workspace, settings, 3))
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


def check_step(workspace: Path, step: Step, settings: Mapping[str, Any]) -> None:
    """Refuse a stage that was begun or finished with other settings, before any stage runs and anything is recorded."""
    from .engines.stage import check_begun

    parser = stage_workflow(workspace, step, settings).parser
    with surfacing_input_errors():
        parser.parse(True)
        check_begun(parser.get_parsed_content("output_dir"), parser.get_parsed_content("settings"))


def _check_networks(parser: Any) -> None:
    """Refuse networks that cannot be built as they were asked for."""
    import torch

    for name in ("generator_def", "segmenter_def"):
        try:
            with torch.device("meta"):  # takes no memory
                parser.get_parsed_content(name)
        except Exception as error:  # MONAI wraps whatever the network says of its arguments
            raise InputError(f"{name}: {' '.join(str(error.__cause__ or error).split())}") from error


def _check_sizes(manifest: Mapping[str, Any], training_sets: Sequence[str], patch_size: int) -> None:
    """Refuse images that hold no patch at the working resolution, rather than when their stage's turn comes."""
    from .transforms.field_of_view import holds_patch
    from .transforms.resize import scaled_size

    source, target = (manifest["preprocessing"][domain] for domain in ("source", "target"))
    scales = {name: min(entry["scale"], entry["nominal_scale"]) for name, entry in source["datasets"].items()}
    for name in ("source", "target", *(["supervised"] if "supervised" in training_sets else [])):
        for entry in manifest[name]:
            scale = scales[entry["dataset"]] if name == "source" else target["scale"]
            rows, columns = scaled_size(entry["size"], scale)
            padded = name != "target"
            if not holds_patch((rows, columns), patch_size, padded):
                least, most = ("half a patch", 2 * min(rows, columns)) if padded else ("a patch", min(rows, columns))
                raise InputError(
                    f"{entry['image']}: {columns} x {rows} pixels at the working resolution, less than {least}; leave "
                    f"it out, or set a patch_size of at most {most}"
                )


def run_step(workspace: Path, step: Step, settings: Mapping[str, Any]) -> bool:
    """Run one stage unless it is finished; returns whether it ran."""
    from .engines.stage import is_finished

    workflow = stage_workflow(workspace, step, settings)
    parser = workflow.parser
    with surfacing_input_errors():
        parser.parse(True)
        output_dir = parser.get_parsed_content("output_dir")
        if is_finished(output_dir, parser.get_parsed_content("settings"), parser.get_parsed_content("inputs")):
            logger.info("%s: finished before, skipped", Path(output_dir).name)
            return False
        workflow.initialize()
        parser.get_parsed_content("stage").tracker.log_config(parser.get())
        workflow.run()
        workflow.finalize()
    return True


def import_generator(
    workspace: str | Path,
    checkpoint: str | Path,
    domain: str,
    preset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    key: str | None = None,
    device: str | None = None,
) -> Path:
    """Make a checkpoint that was trained with monai-generative the generator of one domain, instead of training it.

    Args:
        workspace: folder with a manifest.
        checkpoint: file with the state dict of monai-generative's ``DiffusionModelUNet``, trained to predict the noise
            of images in [-1, 1] with the linear beta schedule.
        domain: ``source`` or ``target``.
        preset: as for :func:`adapt`, which skips the stage where it is given the same preset and overrides.
        overrides: as for :func:`adapt`.
        key: which network, where the checkpoint holds several.
        device: ``cpu`` or ``cuda``; a GPU where there is one by default.

    Returns:
        The stage's folder.

    Raises:
        InputError: no manifest, a checkpoint that cannot be used, or another process that works in the workspace; then
            nothing is written.
    """
    from .data.manifest import load_manifest, verify_files
    from .engines import generator_import

    workspace = Path(workspace)
    manifest = load_manifest(workspace / "manifest.json")
    verify_files(manifest)
    if domain not in ("source", "target"):
        raise InputError(f"domain: expected 'source' or 'target', got {domain!r}")
    settings = _settings(manifest, *preset_and_overrides(workspace, preset, overrides or {}, device), device)
    parser = stage_workflow(workspace, Step("ddpm_pretrain", "train.json", {"domain": domain}), settings).parser
    with working_alone(workspace), surfacing_input_errors():
        parser.parse(True)
        folder = Path(parser.get_parsed_content("output_dir"))
        if not generator_import.import_generator(parser.get_parsed_content, checkpoint, key):
            logger.info("%s: imported before, skipped", folder.name)
    return folder


def stage_workflow(workspace: str | Path, step: Step, settings: Mapping[str, Any]) -> Any:
    """One stage as MONAI's ``ConfigWorkflow``, not yet parsed, run or initialised."""
    root = bundle_folder(step.bundle)
    overrides = {**settings, **step.overrides, "workspace": str(workspace)}
    return bundle_workflow([root / "configs" / step.config], root, overrides)


def _settings(
    manifest: Mapping[str, Any], preset: str, overrides: Mapping[str, Any], device: str | None
) -> dict[str, Any]:
    """Preset and overrides with the seed that the images were prepared with; another seed is refused."""
    prepared: dict[str, Any] = {**device_override(device), "seed": manifest["seed"]}
    if overrides.get("seed", manifest["seed"]) != manifest["seed"]:
        raise InputError(
            f"seed {overrides['seed']}: the images were prepared with {manifest['seed']}; prepare them anew"
        )
    return resolve_settings(preset, {**overrides, **prepared})


def _predictions(workspace: Path, settings: Mapping[str, Any], count: int) -> "Iterator[tuple[Tensor, Tensor]]":
    """The first target images at the working resolution, and what the exported bundle marks in them at the native."""
    from .data.manifest import datalist, load_manifest
    from .engines.inference import native_probabilities

    device = {"device": settings["device"]} if "device" in settings else {}
    workflow = inference_workflow(workspace / "vessel_segmentation", ["segment.json"], device)
    workflow.parser.parse(True)
    network, transform, inferer, threshold = (
        workflow.parser.get_parsed_content(name) for name in ("network", "preprocessing", "inferer", "threshold")
    )
    items = datalist(load_manifest(workspace / "manifest.json"), "target")[:count]
    for item, probability in zip(items, native_probabilities(network, items, transform, inferer), strict=True):
        yield transform(dict(item))["image"], probability >= threshold
