"""What the accuracy benchmark compares: the default, and one factor at a time against it, each at some scale.

``settings`` are overrides of the bundle configs, ``preparing`` options of ``preparation.prepare``. A configuration that
leaves a stage's settings alone takes that stage from the default of the same seed.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal, get_args

from monai_vessel_uda import pipeline
from monai_vessel_uda.metrics import label_free
from monai_vessel_uda.settings import resolve_settings

Scale = Literal["whole", "round", "segmenter"]
"""How much of an adaptation a configuration is compared by: all of it, generators and one round, or one segmenter
alone, without diffusion."""

SETTINGS_OF_SCALE: Mapping[Scale, Mapping[str, Any]] = {
    "whole": {},
    "round": {"rounds": 1},
    "segmenter": {},
}


@dataclass(frozen=True)
class Configuration:
    """One way to adapt.

    Args:
        factor: what is varied; the page has one table for each.
        settings: overrides of the bundle configs.
        preparing: options of ``preparation.prepare``.
        scale_factor: the source's scales as multiples of the default's estimates.
        scales: at which it is compared with the default.
        training_set: what the segmenter of the smallest scale is trained on.
        beside: the configuration that it differs from in one thing.
    """

    factor: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    preparing: Mapping[str, Any] = field(default_factory=dict)
    scale_factor: float | None = None
    scales: tuple[Scale, ...] = ("round",)
    training_set: str = "aligned"
    beside: str = "default"

    def settings_at(self, scale: Scale) -> dict[str, Any]:
        """Overrides of the bundle configs at a scale."""
        return {**SETTINGS_OF_SCALE[scale], **self.settings}

    def segmenter(self) -> pipeline.Step:
        """The one stage of the smallest scale."""
        return pipeline.Step("latent_mining", "train.json", {"training_set": self.training_set})


FROM_LATENTS = {"round_start": "latents"}
DDIM = {"decoder": "ddim", "decoding_spacing": "trailing", "decoding_steps": None}
FROM_NOISE = {**DDIM, "generation_steps": 50, "generation_timesteps": None}
PUBLISHED = {
    "clamp": True,
    "eight_bit_latents": True,
    "decoder": "ancestral",
    "decoding_spacing": "trailing",
    "decoding_steps": 300,
    "generation_steps": 1000,
    "generation_timesteps": None,
}
"""How the authors' release samples: the cost that ours is compared with."""
WIDE = {
    "generator_def#channels": [32, 64, 96],
    "generator_def#attention_levels": [False] * 3,
    "generator_def#space_to_depth": 1,
}
"""A generator of as many parameters as preset small's, with twice the channels at the resolution that it works at."""
PLAIN = {**FROM_NOISE, **WIDE, "source_timesteps": None, "source_iterations": "@iterations"}
"""The preset without what makes it cheap: DDIM from pure noise, wide generators that learn all timesteps."""


def _preparations() -> Iterator[tuple[str, Configuration]]:
    """What the images are like before anything is trained; judged by the aligned segmenter."""
    options: dict[str, dict[str, Any]] = {
        "polarity-off": {"target_polarity": "bright", "source_polarity": "bright"},
        "flatten-off": {"flatten": False},
        "match-off": {"match": False},
        "calibre-off": {"source_scale": "nominal"},
        "calibre-vesselness": {"source_scale": "vesselness"},
        "grey-green": {"grey": {"source": "green", "target": "auto"}},
        "grey-luma": {"grey": {"source": "luma", "target": "auto"}},
    }
    for name, preparing in options.items():
        yield name, Configuration("preprocessing", preparing=preparing, scales=("segmenter",))
    for factor in (0.7, 0.85, 1.2, 1.4):
        of_scale = Configuration("scale as a multiple of the estimate", scale_factor=factor, scales=("segmenter",))
        yield f"calibre-{factor}", of_scale


def _from_latents() -> Iterator[tuple[str, Configuration]]:
    """What changes mined latents, and so the rounds that start from them."""

    def beside(factor: str, **settings: Any) -> Configuration:
        return Configuration(factor, {**FROM_LATENTS, **settings}, beside="rounds-from-latents")

    paper = "paper or release"
    yield "inversion-clamped", beside(paper, clamp=True)
    yield "latents-8-bit", beside(paper, eight_bit_latents=True)
    ancestral = {"decoder": "ancestral", "decoding_spacing": "trailing", "decoding_steps": 100}
    yield "decoding-ancestral", beside(paper, **ancestral)
    yield "vessel-weight-in-rounds-only", beside(paper, vessel_weight=0.0)
    yield "vessel-weight-nowhere", beside(paper, vessel_weight=0.0, round_vessel_weight=0.0)
    for t0 in (5, 8, 10, 20, 25, 30):
        yield f"t0-{t0}", beside("t0 of 50", t0=t0, source_timesteps=max(300, 20 * t0))
    for steps in (3, 8):
        yield f"decoding-{steps}", beside("decoding", decoding_steps=steps)
    yield "decoding-ddim", beside("decoding", **DDIM)
    yield "decoding-ddim-5", beside("decoding", **{**DDIM, "decoding_steps": 5})
    yield "all-timesteps", beside("source generator", source_timesteps=None)
    yield "as-long-as-the-target", beside("source generator", source_iterations="@iterations")


def _rounds() -> Iterator[tuple[str, Configuration]]:
    """What a round does, and how many there are."""
    for start in ("latents", "both"):
        settings = {"round_start": start}
        yield f"rounds-from-{start}", Configuration("rounds", settings, scales=("round", "whole"))
    for name, kind in (("self-training", "SelfTraining"), ("self-training-beside-source", "SelfTrainingBesideSource")):
        control = {"co_optimization#_target_": f"tests.benchmarks.accuracy.self_training.{kind}"}
        yield name, Configuration("without diffusion", control, scales=("whole",))
    yield "six-rounds", Configuration("rounds", {"rounds": 6}, scales=("whole",))
    for iterations in (200, 800):
        settings = {"round_iterations": iterations, "round_ema_momentum": 4 / iterations}
        yield f"fine-tuned-{iterations}", Configuration("rounds", settings, scales=("round", "whole"))
    for pairs in (128, 256, 1024):
        yield f"pairs-{pairs}", Configuration("rounds", {"pairs": pairs}, scales=("round", "whole"))
    slow = {"round_ema_momentum": 0.003}
    yield "slow-average", Configuration("rounds", slow, scales=("round", "whole"))
    for images in (1024, 1536):
        yield f"images-{images}", Configuration("rounds", {"round_pairs": images}, scales=("round", "whole"))
    yield "with-mined", Configuration("rounds", {"with_mined": True})
    yield "refined-twice-as-long", Configuration("rounds", {"refine_iterations": 800})
    from_scratch = {"reinitialise": True, "refine_iterations": 1200}
    yield "rounds-reinitialised", Configuration("paper or release", from_scratch)
    from_mined = {"start_segmenter": ["mined"]}
    yield "start-mined", Configuration("paper or release", from_mined)
    both = {**from_mined, **FROM_LATENTS}
    yield "start-mined-from-latents", Configuration("paper or release", both, beside="rounds-from-latents")
    yield "round-vessel-weight-off", Configuration("paper or release", {"round_vessel_weight": 0.0})

    yield "threshold-half", Configuration("pseudo-masks", {"pseudo_mask_threshold": 0.5})
    yield "soft", Configuration("pseudo-masks", {"pseudo_mask_threshold": None}, scales=("round", "whole"))
    for segmenters in (2, 3):
        ensemble = {"pseudo_mask_ensemble": segmenters}
        yield f"ensemble-{segmenters}", Configuration("pseudo-masks", ensemble, scales=("whole",))
    for share in (0.25, 0.5, 0.75):
        yield f"sure-{share}", Configuration("pseudo-masks", {"confident_share": share}, scales=("round", "whole"))


def _segmenters() -> Iterator[tuple[str, Configuration]]:
    """How segmenters are trained, without diffusion and in the rounds."""

    def augmented(**changes: Any) -> Configuration:
        settings = {f"augmentation#{change}": value for change, value in changes.items()}
        return Configuration("augmentation", settings, scales=("segmenter", "round"))

    yield "augmentation-off", augmented(probability=0.0)
    yield "gamma-off", augmented(gamma=[1.0, 1.0])
    yield "contrast-and-brightness-off", augmented(contrast=0.0, brightness=0.0)
    yield "noise-off", augmented(noise=0.0)
    yield "blur-off", augmented(blur=[0.0, 0.0])
    yield "speckle", augmented(speckle=0.4)
    for magnitude in (1.0, 2.0):
        yield f"elastic-{magnitude}", augmented(elastic=magnitude)
    longer = {"segmenter_iterations": 2400}  # what preset small gives its start and its four rounds together
    for training_set in ("aligned", "negated", "supervised"):
        alone = Configuration("trained as long as all rounds", longer, scales=("segmenter",), training_set=training_set)
        yield "as-long-as-all-rounds" if training_set == "aligned" else f"{training_set}-as-long", alone
    for beta in (0.0, 0.02, 0.05, 0.1):  # of a 64 x 64 patch: the mean alone; up to 1, as at 0.01, 3 and 6 periods
        fda = Configuration("baselines", {"fda_beta": beta}, scales=("segmenter",), training_set="fda")
        yield f"fda-{beta:g}", fda if beta == 0.02 else replace(fda, beside="fda-0.02")


def _generators() -> Iterator[tuple[str, Configuration]]:
    """How images are drawn in the rounds, and how the target generator has learnt."""
    yield "ddim", Configuration("sampling", {**DDIM, "generation_steps": 35})
    few_steps = {**DDIM, "generation_steps": 6}
    yield "ddim-few-steps", Configuration("sampling", few_steps, scales=("round", "whole"))
    for gamma in (1.0, 5.0):
        yield f"round-min-snr-{gamma:g}", Configuration("generators", {"round_min_snr_gamma": gamma})
    for steps in (4, 12):
        yield f"dpm-solver-{steps}", Configuration("sampling", {"generation_steps": steps})
    for timesteps in (500, 600, 800, None):
        yield f"from-{timesteps or 'noise'}", Configuration("sampling", {"generation_timesteps": timesteps})
    yield "ddim-50-from-noise", Configuration("sampling", FROM_NOISE, scales=("round", "whole"))
    yield "as-published", Configuration("sampling", PUBLISHED, scales=("round", "whole"))
    fewer = {**PUBLISHED, "pairs": 128}  # a fourth of them: hours instead of most of a day
    yield "as-published-128", Configuration("sampling", fewer, scales=("whole",), beside="pairs-128")
    yield "warm-start", Configuration("generators", {"warm_start": True}, scales=("round", "whole"))
    half = {"iterations": 1250, "source_iterations": 750}
    yield "half-as-long", Configuration("generators", half)
    yield "half-as-long-min-snr-5", Configuration("generators", {**half, "min_snr_gamma": 5.0}, beside="half-as-long")
    warm = {**half, "warm_start": True}
    yield "half-as-long-warm-start", Configuration("generators", warm, beside="half-as-long")
    yield "min-snr-5", Configuration("generators", {"min_snr_gamma": 5.0})
    yield "wide", Configuration("generators", WIDE, scales=("round", "whole"))
    on_blocks = {**WIDE, "generator_def#space_to_depth": 2}
    yield "space-to-depth", Configuration("generators", on_blocks, scales=("round", "whole"))
    yield "plain", Configuration("cost", PLAIN, scales=("round", "whole"))
    yield "bfloat16", Configuration("cost", {"amp": True}, scales=("round", "whole"))


CONFIGURATIONS = {
    "default": Configuration("default", scales=get_args(Scale)),
    **dict(_preparations()),
    **dict(_from_latents()),
    **dict(_rounds()),
    **dict(_segmenters()),
    **dict(_generators()),
}


def criterion() -> list[Any]:
    """What the choices without masks are made with."""
    return [label_free.WEIGHTS, label_free.SMOOTHING, label_free.TOLL, label_free.THRESHOLDS]


@cache
def fingerprint(name: str, preset: str, scale: Scale, base: str = "default") -> str:
    """Eight hexadecimal digits that change with a configuration's settings, its preparation and the criterion.

    Results of a default that has been changed since are thereby told from those of today's; a change of the code is
    not seen.

    Args:
        name: of the configuration.
        preset: that it overrides.
        scale: at which it is compared.
        base: a configuration that takes the default's place, such as a default of another day.
    """
    configuration = CONFIGURATIONS[name]
    settings = resolve_settings(
        preset, {**CONFIGURATIONS[base].settings, **configuration.settings_at(scale), "seed": 0}
    )
    content: list[Any] = [configuration.preparing, configuration.scale_factor, criterion()]
    steps = [configuration.segmenter()] if scale == "segmenter" else pipeline.stages(baselines=True, upper_bound=True)
    for step in steps:
        parser = pipeline.stage_workflow("workspace", step, settings).parser
        parser.parse(True)
        content.append(parser.get_parsed_content("settings"))
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:8]
