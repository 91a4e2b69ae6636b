"""How well the label-free measures set thresholds and rank segmenters: compared with masks, after the fact.

For every segmenter of a finished workspace: the threshold chosen without masks and its Dice, the best threshold and its
Dice, and the label-free measures; then the Spearman correlation of each measure with Dice, and what the choice of the
exported round lost. Nothing here is read by the package.

    python tests/benchmarks/label_free_regret.py WORKSPACE [--masks FOLDER]

FOLDER holds target images with masks, in any known layout; by default the workspace's evaluation list.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser
from scipy.stats import spearmanr

from monai_vessel_uda.data.images import read_mask
from monai_vessel_uda.data.layouts import find_items
from monai_vessel_uda.data.manifest import datalist, load_manifest
from monai_vessel_uda.engines.inference import native_probabilities
from monai_vessel_uda.files import load_json
from monai_vessel_uda.metrics.label_free import THRESHOLDS, best_threshold
from monai_vessel_uda.pipeline import trained_segmenters


def dice_by_threshold(probabilities: list[Any], masks: list[Any]) -> np.ndarray:
    """Mean Dice over images at each of ``THRESHOLDS``."""
    rows = []
    for probability, mask in zip(probabilities, masks, strict=True):
        cuts = [probability.numpy() >= threshold for threshold in THRESHOLDS]
        rows.append([2 * (cut & mask).sum() / max(cut.sum() + mask.sum(), 1) for cut in cuts])
    return np.mean(rows, axis=0)


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--masks", type=Path)
    options = parser.parse_args()
    manifest = load_manifest(options.workspace / "manifest.json")
    items = (
        find_items(options.masks, domain="target", labels="required")
        if options.masks
        else datalist(manifest, "evaluation")
    )
    rounds = load_json(options.workspace / "stages" / "co_optimization" / "rounds.json")
    masks = [read_mask(item["label"]) for item in items]
    rows, measures, images = [], {}, None
    for name, weights in trained_segmenters(options.workspace, len(rounds["rounds"]) - 1):
        config = ConfigParser()
        bundle = options.workspace.resolve() / "vessel_segmentation"
        config.read_config(bundle / "configs" / "inference.json")
        config.update({"bundle_root": str(bundle), "model": str(weights)})
        config.update({"model_description": str(weights.with_suffix(".json"))})
        network, transform, inferer = (
            config.get_parsed_content(key) for key in ("network", "preprocessing", "inferer")
        )
        images = images or [transform(dict(item))["image"] for item in items]
        unlabelled = [{key: value for key, value in item.items() if key != "label"} for item in items]
        probabilities = list(native_probabilities(network, unlabelled, transform, inferer))
        dice = dice_by_threshold(probabilities, masks)
        chosen = load_json(weights.with_suffix(".json"))["threshold"]
        contrast = best_threshold(images, [p[None] for p in probabilities])[1]
        half, own, best = dice[THRESHOLDS.index(0.5)], dice[THRESHOLDS.index(chosen)], int(dice.argmax())
        rows.append((name, half, chosen, own, THRESHOLDS[best], dice[best], contrast))
        measures[name] = own
        print(f"{name}: done", flush=True)
    print("\n| segmenter | Dice at 0.5 | label-free threshold | Dice | best threshold | Dice | boundary contrast |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, half, chosen, own, best, highest, contrast in rows:
        cells = (name, f"{100 * half:.2f}", chosen, f"{100 * own:.2f}", best, f"{100 * highest:.2f}", f"{contrast:.4f}")
        print(f"| {' | '.join(str(cell) for cell in cells)} |")
    adapted = [row for row in rows if not row[0].startswith(("source-only", "upper"))]
    own = [row[3] for row in adapted]
    print(f"\nSpearman of boundary contrast and Dice: {spearmanr([row[6] for row in adapted], own)[0]:.2f}")
    candidates = {record["round"]: record["measures"] for record in rounds["rounds"]}
    by_round = [measures[f"round {k}"] for k in candidates if k]
    for key in ("boundary_contrast", "mask_prior_distance", "consistency", "uncertain_band_px"):
        values = [candidates[k][key] for k in candidates if k]
        print(f"Spearman of {key} and Dice over rounds: {spearmanr(values, by_round)[0]:.2f}")
    exported = rounds["exported_round"]
    if exported:
        regret = 100 * (max(by_round) - measures[f"round {exported}"])
        print(f"Regret of exporting round {exported}: {regret:.2f} points")


if __name__ == "__main__":
    main()
