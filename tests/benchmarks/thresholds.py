"""What the thresholds that were set without masks lose against the best ones: compared with masks, after the fact.

    python -m tests.benchmarks.thresholds WORKSPACE

For every segmenter of a finished workspace with evaluation masks: Dice at 0.5, at its own threshold and at the best of
those it was chosen from. How the measures rank segmenters is in the tables of ``tests.benchmarks.accuracy.report``.
Nothing here is read by the package.
"""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from monai_vessel_uda.metrics.label_free import THRESHOLDS

from .segmenters import segmented


def dice_by_threshold(workspace: Path) -> Iterator[tuple[str, float, np.ndarray]]:
    """Name of each segmenter, its own threshold, and its mean Dice over images at each of ``THRESHOLDS``."""
    for name, chosen, images in segmented(workspace):
        by_image = []
        for probability, mask in images:
            cuts = [probability >= threshold for threshold in THRESHOLDS]
            by_image.append([2 * (cut & mask).sum() / max(cut.sum() + mask.sum(), 1) for cut in cuts])
        yield name, chosen, 100 * np.mean(by_image, axis=0)


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    workspace = parser.parse_args().workspace.resolve()
    logging.disable(logging.WARNING)  # MONAI says of every config that it has no logging file
    print("| segmenter | Dice at 0.5 | its threshold | Dice | best threshold | Dice | lost |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, chosen, dice in dice_by_threshold(workspace):
        half, own, best = dice[THRESHOLDS.index(0.5)], dice[THRESHOLDS.index(chosen)], dice.max()
        cells = f"{half:.2f} | {chosen} | {own:.2f} | {THRESHOLDS[dice.argmax()]} | {best:.2f} | {best - own:.2f}"
        print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
