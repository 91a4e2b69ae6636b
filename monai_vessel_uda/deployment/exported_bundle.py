"""The exported bundle: what an adaptation has learnt, as a MONAI bundle that needs nothing of this package.

``bundles/vessel_segmentation`` is its template. Exporting sets the ids that the adaptation decided (architecture, patch
size, working scale, percentiles, polarity, threshold), copies the weights, and says where they come from.
"""

import itertools
import json
import logging
import os
import platform
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import __version__
from ..config_ids import set_id
from ..data.licences import known_licence, licence_file
from ..errors import InputError
from ..files import load_json, load_tensors, replacing, save_json, sha256
from ..settings import bundle_folder

logger = logging.getLogger("monai_vessel_uda")

NAME = "vessel_segmentation"
SCORED = {"dice": "mean_dice", "cldice": "mean_cldice", "ahd_px": "mean_average_hausdorff_distance_px"}
"""Scores that go into the metadata, and what they are called there."""

_PACKAGE_CONFIGS = ("segment.json", "score.json", "inference_onnx.json")
"""Laid over ``inference.json`` by this package; they use its classes and stay here."""
_MONAI_ONLY_CONFIGS = ("evaluate.json", "train.json", "multi_gpu_train.json", "multi_gpu_inference.json")
_SAID_WITH_MONAI = ("output_ext", "percentiles", "vessels")
"""Options of MONAI's preprocessing and writing, without effect where this package does both."""
_KEPT_SETTINGS = ("segmenter_def", "patch_size", "sw_batch_size", "overlap")
"""Settings of an adaptation that its segmenter keeps; others, such as the device, were those of its training."""
_METADATA = "configs/metadata.json"
_WITH_SCORES = (_METADATA, "docs/README.md")
"""Files of an export that change when it is scored."""
_REQUIRED = ("nibabel", "itk", "pydicom", "pytorch-ignite", "pillow", "scipy")


def export_bundle(workspace: Path, settings: Mapping[str, Any]) -> Path:
    """Make ``vessel_segmentation`` in the workspace from the exported round, or renew an export of the same weights.

    That one is touched only if it would now be written otherwise; scores, converted files and whatever else lies in it
    stay. If a person changed its files, all of it stays, with a warning. An export of other weights is replaced; if a
    person added or changed files there, it is kept as ``vessel_segmentation.before-<hash of the new weights>``.

    Args:
        workspace: folder of a finished co-optimisation.
        settings: ids of the bundle configs and their values, as in ``settings.json``.

    Returns:
        The bundle's folder.

    Raises:
        InputError: the weights changed since the export, by fine-tuning.
    """
    destination = workspace / NAME
    weights = workspace / "stages" / "co_optimization" / "weights.pt"
    exported = destination / "models" / "model.pt"
    same_weights = exported.exists() and sha256(exported) == sha256(weights)
    if exported.exists() and not same_weights and sha256(exported) != _recorded_hash(destination):
        raise InputError(
            f"{destination}: its weights changed since the export (fine-tuned?); move the folder away first"
        )
    making = workspace / f".{NAME}"
    shutil.rmtree(making, ignore_errors=True)
    try:
        _make_bundle(making, workspace, weights, settings)
        if same_weights:
            _renew_bundle(destination, making)
        else:
            _replace_bundle(destination, making)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return destination


def _make_bundle(making: Path, workspace: Path, weights: Path, settings: Mapping[str, Any]) -> None:
    unwanted = shutil.ignore_patterns("models", "eval", "__pycache__", *_PACKAGE_CONFIGS)
    shutil.copytree(bundle_folder(NAME), making, ignore=unwanted)
    (making / "models").mkdir()
    shutil.copy2(weights, making / "models" / "model.pt")
    description = load_json(weights.with_suffix(".json"))
    # without their hash, since fine-tuning may change the weights; the metadata has it
    kept = {key: value for key, value in description.items() if key != "sha256"}
    save_json({**kept, "exported_with": __version__}, making / "models" / "model.json")
    manifest = load_json(workspace / "manifest.json")
    _set_configs(making / "configs", description, settings)
    if reason := needs_package(description["preprocessing"]):
        _write_needs(making / "docs" / "README.md", reason)
    _write_licences(making / "docs" / "data_license.txt", manifest)
    _write_metadata(making, description, manifest, settings)


def _renew_bundle(bundle: Path, made: Path) -> None:
    """Move the files of ``made`` into an older export of the same weights, unless they are as they were there."""
    old, new = (load_json(folder / _METADATA) for folder in (bundle, made))
    made_by = old.get("provenance", {})
    before, after = made_by.get("files", {}), new["provenance"]["files"]
    if before == after:
        return
    written = {name: (digest, after.get(name)) for name, digest in before.items() if name not in _WITH_SCORES}
    edited = [name for name in written if (bundle / name).is_file() and sha256(bundle / name) not in written[name]]
    if edited:
        logger.warning(
            "%s: not renewed for monai_vessel_uda %s, since %s changed after the export; move the folder away to "
            "have it exported anew",
            bundle,
            __version__,
            ", ".join(edited),
        )
        return
    new["provenance"] |= {key: made_by[key] for key in ("package", "python") if key in made_by}  # made the weights
    _write_config(new, made / _METADATA)
    if scores := made_by.get("scores"):
        record_scores(made, scores["summary"], scores["images"])
    for name in before.keys() - after.keys():
        (bundle / name).unlink(missing_ok=True)
    for name in sorted(after, key=lambda name: name == _METADATA):  # it last: until then the next run begins again
        (bundle / name).parent.mkdir(exist_ok=True)
        os.replace(made / name, bundle / name)


def _replace_bundle(bundle: Path, made: Path) -> None:
    """Put ``made`` where an export of other weights may lie, which is kept if it holds what is a person's."""
    touched = _not_as_exported(bundle, made)
    if touched:
        kept = _free_name(f"{bundle}.before-{sha256(made / 'models' / 'model.pt')[:8]}")
        bundle.rename(kept)
        logger.warning(
            "%s: kept as %s, since it holds files that were added or changed after the export (%s)",
            bundle,
            kept.name,
            ", ".join([*touched[:3], *([f"and {len(touched) - 3} more"] if len(touched) > 3 else [])]),
        )
    else:
        shutil.rmtree(bundle, ignore_errors=True)
    made.rename(bundle)


def _not_as_exported(bundle: Path, made: Path) -> list[str]:
    """Files that the export of ``bundle`` did not write so; those with scores if the rest differs from ``made``."""
    names = sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if not path.is_dir())
    if _METADATA not in names:
        return names
    written = load_json(bundle / _METADATA).get("provenance", {}).get("files", {})
    plain = [name for name in names if name not in _WITH_SCORES and sha256(bundle / name) != written.get(name)]
    scored = [name for name in _WITH_SCORES if name in names and _unscored(bundle / name) != _unscored(made / name)]
    return [*plain, *scored]


def _unscored(path: Path) -> Any:
    """What scores and versions do not change in one of the files that hold them."""
    if path.name == "metadata.json":
        vary = {"eval_metrics", "provenance", "required_packages_version"}
        return {key: v for key, v in load_json(path).items() if key not in vary and not key.endswith("_version")}
    before, _, rest = path.read_text(encoding="utf-8").partition("<!-- performance -->")
    return before, rest.partition("<!-- /performance -->")[2]


def _free_name(name: str) -> Path:
    further = (f"{name}-{number}" for number in itertools.count(2))
    return next(path for path in map(Path, itertools.chain([name], further)) if not path.exists())


def _file_hashes(bundle: Path) -> dict[str, str]:
    """SHA-256 of each file of a bundle being made; of the template's where scores will come in."""
    names = sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file())
    return {name: sha256((bundle_folder(NAME) if name in _WITH_SCORES else bundle) / name) for name in names}


def record_scores(bundle: Path, summary: Mapping[str, Mapping[str, float]], images: int) -> None:
    """Put the scores of the exported segmenter into the bundle's metadata and its page.

    Args:
        bundle: exported bundle.
        summary: mean and 95 % interval of each score, as the evaluation writes them.
        images: number of images they were taken on.
    """
    path = bundle / _METADATA
    metadata = load_json(path)
    metadata["eval_metrics"] = {
        name: round(summary[key]["mean"], 4)
        for key, name in SCORED.items()
        if summary.get(key, {}).get("mean") is not None
    }
    metadata["provenance"]["scores"] = {"images": images, "summary": summary}
    _write_config(metadata, path)
    _write_performance(bundle / "docs" / "README.md", summary, images)


def needs_package(preprocessing: Mapping[str, Any]) -> str | None:
    """Why a target's preprocessing cannot be said with MONAI's transforms alone; None if it can."""
    target = preprocessing["target"]
    if target["field_of_view"]:
        return "the images have a round field of view on a black surround"
    if target["grey"] != "luma":
        return f"the images are in colour and their {target['grey']} channel is used"
    return None


def check_bundle(folder: Path) -> Path:
    """Refuse a folder that is no complete segmentation bundle, before anything is started with it.

    Weights must load strictly into the bundle's own network: MONAI Label would accept any.

    Returns:
        ``folder``.

    Raises:
        InputError: configs or weights are missing, the weights are not tensors or of another architecture.
    """
    for name in ("configs/inference.json", "configs/metadata.json"):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: expected a vessel_segmentation bundle; it has no {name}")
    weights = folder / "models" / "model.pt"
    if not weights.is_file():
        raise InputError(f"{folder}: this bundle has no weights (models/model.pt); run 'vessel-uda adapt' first")
    state = load_tensors(weights, map_location="cpu")
    expected = {name: tuple(tensor.shape) for name, tensor in bundle_network(folder).state_dict().items()}
    try:
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    except AttributeError as error:
        raise InputError(f"{weights}: expected a state dict of tensors, got {type(state).__name__}") from error
    if found != expected:
        name = min(key for key in {*found, *expected} if found.get(key) != expected.get(key))
        raise InputError(
            f"{weights}: weights of another architecture than configs/inference.json: {name} is "
            f"{found.get(name, 'absent')}, expected {expected.get(name, 'no such tensor')}"
        )
    return folder


def bundle_network(folder: Path) -> Any:
    """The bundle's segmenter, without its weights."""
    from monai.bundle import ConfigParser

    config = load_json(folder / "configs" / "inference.json")
    definition = config.get("network_def")
    text = json.dumps(definition)
    if not text.startswith('{"_target_": "monai.networks.nets.') or any(f'"{mark}' in text for mark in "$@%"):
        # a config is a program; this one is looked at before anything of it is run
        raise InputError(f"{folder}: network_def: expected one of MONAI's networks with plain values")
    parser = ConfigParser()
    parser.read_config({"network_def": definition})
    return parser.get_parsed_content("network_def")


def _recorded_hash(bundle: Path) -> Any:
    return load_json(bundle / _METADATA).get("provenance", {}).get("weights_sha256")


def _set_configs(configs: Path, description: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    target = description["preprocessing"]["target"]
    decided = {
        "scale": target["scale"],
        "percentiles": target["percentiles"],
        "vessels": target["polarity"],
    }
    kept = {key: value for key, value in settings.items() if key.split("#")[0] in _KEPT_SETTINGS}
    renamed = {key.replace("segmenter_def", "network_def", 1): value for key, value in kept.items()}
    # MONAI Label shows displayable_configs, and asks for them with every request where a training has some
    for name, threshold in (("inference.json", "displayable_configs#threshold"), ("train.json", "threshold")):
        path = configs / name
        config = load_json(path)
        for key, value in {**decided, **renamed, threshold: description["threshold"]}.items():
            set_id(config, key, value)
        _write_config(config, path)
    if needs_package(description["preprocessing"]):
        inference = load_json(configs / "inference.json")
        ours = load_json(bundle_folder(NAME) / "configs" / "segment.json")
        options = [key for key in inference["options"] if key not in _SAID_WITH_MONAI]
        options += [key for key in ours if key not in inference]
        _write_config({**inference, **ours, "options": options}, configs / "inference.json")
        for name in _MONAI_ONLY_CONFIGS:
            (configs / name).unlink(missing_ok=True)


def _write_metadata(
    bundle: Path, description: Mapping[str, Any], manifest: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    path = bundle / _METADATA
    metadata = load_json(path)
    target = description["preprocessing"]["target"]
    sources = _counts(manifest["source"])
    targets = _counts(manifest["target"])
    required = {name: version(name) for name in _REQUIRED}
    reason = needs_package(description["preprocessing"])
    if reason:
        required["monai-vessel-uda"] = __version__
    sizes = sorted(tuple(item["size"]) for item in manifest["target"])
    metadata |= {
        "monai_version": version("monai"),
        "pytorch_version": version("torch").split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": required,
        "data_source": f"source with masks: {_listed(sources)}; target without masks: {_listed(targets)}",
        "provenance": {
            "package": f"monai_vessel_uda {__version__}",
            "python": platform.python_version(),
            "manifest_created": manifest["created"],
            "seed": manifest["seed"],
            "settings": {key: value for key, value in settings.items() if key != "device"},
            "source_images": sources,
            "target_images": targets,
            "target_size_px": {"smallest": list(sizes[0]), "largest": list(sizes[-1])},
            "working_scale": target["scale"],
            "working_calibre_px": target["working_calibre"],
            "vessels_in_the_files": target["polarity"],
            "polarity_by": target["polarity_by"],
            "threshold": description["threshold"],
            "round": description["round"],
            "chosen_by": description["chosen_by"],
            "label_free_scores": description["scores"],
            "weights_sha256": description["sha256"],
            "files": _file_hashes(bundle),
            "needs_this_package": reason,
        },
    }
    shape = [settings.get("patch_size", load_json(bundle / "configs" / "inference.json")["patch_size"])] * 2
    for side in ("inputs", "outputs"):
        for entry in metadata["network_data_format"][side].values():
            entry["spatial_shape"] = shape
    _write_config(metadata, path)


def _write_licences(path: Path, manifest: Mapping[str, Any]) -> None:
    """Licence and number of images of every data set that the weights were trained on."""
    lines = [
        "The weights of this bundle derive from these data sets; their licences, and the patients' privacy, concern it",
        "too. What is said of a public data set is as known when this was written; its own page decides.",
        "",
    ]
    for role in ("source", "target"):
        items = manifest[role]
        for dataset, count in _counts(items).items():
            known = known_licence(dataset)
            found = licence_file(item["image"] for item in items if item["dataset"] == dataset)
            what = "images with masks" if role == "source" else "images, masks not used"
            lines.append(f"{dataset} ({role}, {count} {what})")
            lines.append(
                f"    {known.citation}; {known.licence}" if known else "    no public data set that is known here"
            )
            if found is not None:
                lines += ["    A licence lay beside the images:", ""]
                lines += [
                    f"    | {line}" for line in found.read_text(encoding="utf-8", errors="replace")[:20000].splitlines()
                ]
            elif known is None:
                lines.append("    No licence lay beside the images. Whoever trained this bundle must state it here.")
            lines.append("")
    _write_text("\n".join(lines), path)


def _write_performance(page: Path, summary: Mapping[str, Mapping[str, float]], images: int) -> None:
    """Fill the section between the page's ``performance`` marks."""
    before, mark, rest = page.read_text(encoding="utf-8").partition("<!-- performance -->\n")
    _, end, after = rest.partition("<!-- /performance -->")
    if not (mark and end):
        raise ValueError(f"{page}: expected the marks of the section 'performance'")
    rows = [
        f"| {name} | {score['mean']:.4f} | {score['low']:.4f} to {score['high']:.4f} |"
        for name, score in summary.items()
        if score.get("mean") is not None
    ]
    text = [
        f"This bundle's segmenter on {images} images whose masks took no part in training or choosing it:",
        "",
        "| score | mean | 95 % interval |",
        "|---|---:|---:|",
        *rows,
        "",
    ]
    _write_text(before + mark + "\n".join(text) + end + after, page)


def _write_needs(page: Path, reason: str) -> None:
    """Say on the bundle's page that it needs this package, and what else of the page does not apply."""
    text = page.read_text(encoding="utf-8")
    alone = "MONAI is enough; this package need not be installed."
    if alone not in text:
        raise ValueError(f"{page}: expected the sentence {alone!r}")
    needs = (
        f"**This bundle needs monai_vessel_uda {__version__}**, because {reason}: MONAI's transforms cannot say that. "
        "Of the commands below, the first (inference) and those of this package are there; `vessel-uda evaluate` "
        "scores. The options `output_ext`, `vessels` and `percentiles` do not exist; `output_suffix` names the format."
    )
    _write_text(text.replace(alone, needs), page)


def _counts(items: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return dict(sorted(Counter(item["dataset"] for item in items).items()))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items())


def _write_config(config: Mapping[str, Any], path: Path) -> None:
    """Keys in their order: a config is read by people."""
    _write_text(json.dumps(config, indent=4, ensure_ascii=False) + "\n", path)


def _write_text(text: str, path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
