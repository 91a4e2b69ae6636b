"""What a segmenter can be trained on, and what that segmenter is called wherever people read of it.

Without torch, so that names are checked before anything slow is imported.
"""

from typing import NamedTuple


class TrainingSet(NamedTuple):
    """One training set, and what people read of it.

    Attributes:
        shown_as: the segmenter in score tables.
        images: what it is trained on, in words.
    """

    shown_as: str
    images: str


TRAINING_SETS = {
    "raw": TrainingSet("source-only", "source images as they are"),
    "negated": TrainingSet("source-negated", "source images with the target's polarity"),
    "matched": TrainingSet(
        "source matched to target histograms", "source images with the target's polarity and intensities"
    ),
    "fda": TrainingSet(
        "Fourier amplitude swap (FDA)", "source images with the target's polarity and low spatial frequencies"
    ),
    "aligned": TrainingSet("aligned, no diffusion", "source images made to look like the target, no diffusion"),
    "mined": TrainingSet("first generation", "the first generated pairs"),
    "supervised": TrainingSet("upper bound (target masks)", "target images with masks"),
}
"""By the name that configs use, in the order of the score table (rounds stand before the last)."""

BASELINES = ("raw", "negated", "matched", "fda", "aligned")
"""Without diffusion and without target masks."""
CANDIDATES = ("aligned", "matched", "negated")
"""Those of them that every adaptation trains: co-optimisation may start from them as from the mined one."""
STARTS = ("mined", *BASELINES)
"""Segmenters that rounds may start from, if asked to: all but the one that is trained on target masks."""
