"""Where segmenters err: along the outlines or away from them, and what that does to the distances.

    python -m tests.benchmarks.errors WORKSPACE

For every segmenter of a finished workspace with evaluation masks, at its own threshold: pixels missed and falsely
marked, in % of the annotated ones of all images together, within ``NEAR`` pixels of what is marked or annotated and
farther away; and the two directed mean distances, of which the average Hausdorff distance is the larger, as means over
images. Nothing here is read by the package.
"""

import argparse
import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from .segmenters import Images, segmented

NEAR = 2.0
"""Pixels: as wide as the thinnest annotated vessels."""
HEADINGS = (
    f"missed within {NEAR:g} px of what is marked, %",
    "missed farther away, %",
    f"false within {NEAR:g} px of the annotation, %",
    "false beyond, %",
    "from marked to annotated, px",
    "from annotated to marked, px",
)


def errors(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Counts of the four kinds of wrong pixels, and both directed mean distances (NaN if a mask is empty).

    Example:
        >>> line = np.zeros((9, 9), bool); line[1] = True
        >>> counts, distances = errors(line | (np.arange(9) == 5)[:, None], line)
        >>> counts.tolist(), distances.tolist()
        ([0, 0, 0, 9], [2.0, 0.0])
    """
    if not prediction.any() or not reference.any():
        counts = [0, (reference & ~prediction).sum(), 0, (prediction & ~reference).sum()]
        return np.array(counts), np.full(2, np.nan)
    to_prediction, to_reference = (distance_transform_edt(~mask) for mask in (prediction, reference))
    counts = []
    for wrong, distance in ((reference & ~prediction, to_prediction), (prediction & ~reference, to_reference)):
        counts += [(wrong & (distance <= NEAR)).sum(), (wrong & (distance > NEAR)).sum()]
    return np.array(counts), np.array([to_reference[prediction].mean(), to_prediction[reference].mean()])


def summary(images: Images, threshold: float) -> list[float]:
    """One number for each of ``HEADINGS``."""
    found = [(*errors(probability >= threshold, mask), mask.sum()) for probability, mask in images]
    counts, distances, annotated = (np.array(part) for part in zip(*found, strict=True))
    return [*(100 * counts.sum(axis=0) / annotated.sum()), *np.nanmean(distances, axis=0)]


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    workspace = parser.parse_args().workspace.resolve()
    logging.disable(logging.WARNING)  # MONAI says of every config that it has no logging file
    print(f"| segmenter | {' | '.join(HEADINGS)} |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, threshold, images in segmented(workspace):
        *shares, marked, annotated = summary(images, threshold)
        cells = [*(f"{share:.1f}" for share in shares), f"{marked:.3f}", f"{annotated:.3f}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
