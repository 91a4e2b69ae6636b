"""An exported bundle as it lies in its folder: is it complete, which network does it hold, what did it score."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import load_json, load_tensors, replacing

NAME = "vessel_segmentation"
SCORED = {"dice": "mean_dice", "cldice": "mean_cldice", "ahd_px": "mean_average_hausdorff_distance_px"}
"""Scores that go into the metadata, and what they are called there."""

METADATA = "configs/metadata.json"
WITH_SCORES = (METADATA, "docs/README.md")
"""Files of an export that change when it is scored."""


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


def record_scores(bundle: Path, summary: Mapping[str, Mapping[str, float]], images: int) -> None:
    """Put the scores of the exported segmenter into the bundle's metadata and its page.

    Args:
        bundle: exported bundle.
        summary: mean and 95 % interval of each score, as the evaluation writes them.
        images: number of images they were taken on.
    """
    path = bundle / METADATA
    metadata = load_json(path)
    metadata["eval_metrics"] = {
        name: round(summary[key]["mean"], 4)
        for key, name in SCORED.items()
        if summary.get(key, {}).get("mean") is not None
    }
    metadata["provenance"]["scores"] = {"images": images, "summary": summary}
    write_config(metadata, path)
    _write_performance(bundle / "docs" / "README.md", summary, images)


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
    write_text(before + mark + "\n".join(text) + end + after, page)


def write_config(config: Mapping[str, Any], path: Path) -> None:
    """Keys in their order: a config is read by people."""
    write_text(json.dumps(config, indent=4, ensure_ascii=False) + "\n", path)


def write_text(text: str, path: Path) -> None:
    """As UTF-8, and whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
