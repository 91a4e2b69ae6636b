"""What the trained segmenters of a finished workspace mark in its evaluation images, beside the masks of these."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monai_vessel_uda.data.images import read_mask
from monai_vessel_uda.data.manifest import datalist, load_manifest
from monai_vessel_uda.engines.inference import native_probabilities
from monai_vessel_uda.files import load_json
from monai_vessel_uda.scoring import trained_segmenters
from monai_vessel_uda.segmenter import inference_workflow

Images = Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]
"""Vessel probabilities (height, width) of each image, and its mask."""


def segmented(workspace: Path) -> Iterator[tuple[str, float, Images]]:
    """Name of each segmenter, the threshold that it set for itself, and what it marks."""
    items = datalist(load_manifest(workspace / "manifest.json"), "evaluation")
    masks = [read_mask(item["label"]) for item in items]
    unlabelled = [{key: value for key, value in item.items() if key != "label"} for item in items]
    rounds = load_json(workspace / "stages" / "co_optimization" / "rounds.json")["rounds"]
    for name, weights in trained_segmenters(workspace, len(rounds) - 1):
        workflow = inference_workflow(workspace / "vessel_segmentation", ["segment.json"], {"ckpt_path": str(weights)})
        workflow.parser.parse(True)
        network, transform, inferer = (
            workflow.parser.get_parsed_content(key) for key in ("network", "preprocessing", "inferer")
        )
        probabilities = (p.numpy() for p in native_probabilities(network, unlabelled, transform, inferer))
        yield name, load_json(weights.with_suffix(".json"))["threshold"], zip(probabilities, masks, strict=True)
