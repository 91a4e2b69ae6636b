"""What the accuracy benchmark compares: the default, and one factor at a time against it.

``settings`` are overrides of the bundle configs, ``preparing`` options of ``pipeline.prepare``. A configuration that
leaves a stage's settings alone takes that stage from the default of the same seed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Configuration:
    """One way to adapt.

    Args:
        factor: what is varied; the page has one table for each.
        settings: overrides of the bundle configs.
        preparing: options of ``pipeline.prepare``.
        scale_factor: the source's scales as multiples of the default's estimates.
    """

    factor: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    preparing: Mapping[str, Any] = field(default_factory=dict)
    scale_factor: float | None = None


def _table() -> dict[str, Configuration]:
    table = {"default": Configuration("default")}

    def add(factor: str, name: str, settings: Mapping[str, Any] | None = None, **preparing: Any) -> None:
        table[name] = Configuration(factor, settings or {}, preparing)

    add("preprocessing", "polarity-off", target_polarity="bright", source_polarity="bright")
    add("preprocessing", "flatten-off", flatten=False)
    add("preprocessing", "match-off", match=False)
    add("preprocessing", "calibre-off", source_scale="nominal")
    add("preprocessing", "calibre-vesselness", source_scale="vesselness")
    for factor in (0.7, 0.85, 1.2, 1.4):
        table[f"calibre-{factor}"] = Configuration("scale as a multiple of the estimate", scale_factor=factor)
    add("preprocessing", "grey-green", grey={"source": "green", "target": "auto"})
    add("preprocessing", "grey-luma", grey={"source": "luma", "target": "auto"})

    add("paper or release", "inversion-clamped", {"clamp": True})
    add("paper or release", "latents-8-bit", {"eight_bit_latents": True})
    ancestral = {"decoder": "ancestral", "decoding_spacing": "trailing", "decoding_steps": 100}
    add("paper or release", "decoding-ancestral", {**ancestral, "round_start": "latents"})  # beside rounds-from-latents
    add("paper or release", "vessel-weight-in-rounds-only", {"vessel_weight": 0.0})
    add("paper or release", "vessel-weight-nowhere", {"vessel_weight": 0.0, "round_vessel_weight": 0.0})
    add("paper or release", "rounds-reinitialised", {"reinitialise": True})

    for t0 in (5, 8, 10, 20, 25, 30):
        add("t0 of 50", f"t0-{t0}", {"t0": t0, "source_timesteps": max(300, 20 * t0)})

    for start in ("latents", "noise"):
        add("rounds", f"rounds-from-{start}", {"round_start": start})
    add("rounds", "six-rounds", {"rounds": 6})
    for pairs in (128, 256, 1024):
        add("rounds", f"pairs-{pairs}", {"pairs": pairs})

    add("pseudo-masks", "threshold-half", {"pseudo_mask_threshold": 0.5})
    add("pseudo-masks", "soft", {"pseudo_mask_threshold": None})
    for segmenters in (2, 3):
        add("pseudo-masks", f"ensemble-{segmenters}", {"pseudo_mask_ensemble": segmenters})
    for share in (0.25, 0.5, 0.75):
        add("pseudo-masks", f"sure-{share}", {"confident_share": share})

    add("segmenter", "augmentation-off", {"augmentation_probability": 0.0})
    add("segmenter", "speckle", {"speckle": 0.4})
    for magnitude in (1.0, 2.0):
        add("segmenter", f"elastic-{magnitude}", {"elastic": magnitude})
    add("segmenter", "with-mined", {"with_mined": True})

    ddim = {"decoder": "ddim", "decoding_spacing": "trailing", "decoding_steps": None}
    add("sampling", "ddim", {**ddim, "generation_steps": 35})
    add("sampling", "ddim-few-steps", {**ddim, "decoding_steps": 5, "generation_steps": 6})
    for decoding, generation in ((3, 4), (8, 12)):
        add(
            "sampling",
            f"dpm-solver-{decoding}-{generation}",
            {"decoding_steps": decoding, "generation_steps": generation},
        )
    for timesteps in (500, 600, 800, None):
        add("sampling", f"from-{timesteps or 'noise'}", {"generation_timesteps": timesteps})
    from_noise = {**ddim, "generation_steps": 50, "generation_timesteps": None}
    add("sampling", "ddim-50-from-noise", from_noise)

    add("target generator", "warm-start", {"warm_start": True})
    add("target generator", "warm-start-half-as-long", {"warm_start": True, "iterations": 1250})
    add("source generator", "all-timesteps", {"source_timesteps": None})
    add("source generator", "as-long-as-the-target", {"source_iterations": "@iterations"})

    plain = {
        **from_noise,
        "source_timesteps": None,
        "source_iterations": "@iterations",
        "generator_def#space_to_depth": 1,
    }
    add("cost", "plain", plain)
    return table


CONFIGURATIONS = _table()
