"""Exporting: what an adaptation has learnt, as a MONAI bundle that needs nothing of this package.

``bundles/vessel_segmentation`` is its template. Exporting sets the ids that the adaptation decided (architecture, patch
size, working scale, percentiles, polarity, threshold), copies the weights, and says where they come from.
"""

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
from ..files import load_json, save_json, sha256
from ..settings import bundle_folder
from .earlier_export import renew_bundle, replace_bundle
from .exported_bundle import METADATA, NAME, WITH_SCORES, write_config, write_text

_PACKAGE_CONFIGS = ("segment.json", "score.json", "inference_onnx.json")
"""Laid over ``inference.json`` by this package; they use its classes and stay here."""
_MONAI_ONLY_CONFIGS = ("evaluate.json", "train.json", "multi_gpu_train.json", "multi_gpu_inference.json")
_SAID_WITH_MONAI = ("output_ext", "percentiles", "vessels")
"""Options of MONAI's preprocessing and writing, without effect where this package does both."""
_KEPT_SETTINGS = ("segmenter_def", "patch_size", "sw_batch_size", "overlap")
"""Settings of an adaptation that its segmenter keeps; others, such as the device, were those of its training."""
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
            renew_bundle(destination, making)
        else:
            replace_bundle(destination, making)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return destination


def needs_package(preprocessing: Mapping[str, Any]) -> str | None:
    """Why a target's preprocessing cannot be said with MONAI's transforms alone; None if it can."""
    target = preprocessing["target"]
    if target["field_of_view"]:
        return "the images have a round field of view on a black surround"
    if target["grey"] != "luma":
        return f"the images are in colour and their {target['grey']} channel is used"
    return None


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
        write_config(config, path)
    if needs_package(description["preprocessing"]):
        inference = load_json(configs / "inference.json")
        ours = load_json(bundle_folder(NAME) / "configs" / "segment.json")
        options = [key for key in inference["options"] if key not in _SAID_WITH_MONAI]
        options += [key for key in ours if key not in inference]
        write_config({**inference, **ours, "options": options}, configs / "inference.json")
        for name in _MONAI_ONLY_CONFIGS:
            (configs / name).unlink(missing_ok=True)


def _write_metadata(
    bundle: Path, description: Mapping[str, Any], manifest: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    path = bundle / METADATA
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
    write_config(metadata, path)


def _recorded_hash(bundle: Path) -> Any:
    return load_json(bundle / METADATA).get("provenance", {}).get("weights_sha256")


def _file_hashes(bundle: Path) -> dict[str, str]:
    """SHA-256 of each file of a bundle being made; of the template's where scores will come in."""
    names = sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file())
    return {name: sha256((bundle_folder(NAME) if name in WITH_SCORES else bundle) / name) for name in names}


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
    write_text("\n".join(lines), path)


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
    write_text(text.replace(alone, needs), page)


def _counts(items: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return dict(sorted(Counter(item["dataset"] for item in items).items()))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items())
