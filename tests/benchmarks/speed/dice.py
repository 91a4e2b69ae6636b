"""What Dice a round reaches when its pairs are sampled in other ways, from the accuracy benchmark's results."""

from pathlib import Path

from ..accuracy.configurations import CONFIGURATIONS
from ..accuracy.report import Results, todays
from ..accuracy.results import read
from .measure import Options
from .sampling import as_set
from .stages import stage_parser

PRESET = "small"
BASE = "space-to-depth"
"""The configuration that was the default when these were compared."""
STAGES = (("latent_mining", "mine.json"), ("co_optimization", "train.json"))
SAMPLERS = {
    "default": "noise, 6 DPM-Solver++(2M) from timestep 700 (the preset)",
    "dpm-solver-4": "noise, 4 of them",
    "dpm-solver-12": "noise, 12 of them",
    "ddim-few-steps": "noise, 6 DDIM from 700",
    "ddim": "noise, 35 DDIM from 700",
    "ddim-50-from-noise": "pure noise, 50 DDIM",
    "plain": "pure noise, 50 DDIM, `wide` generators at full resolution",
    "as-published": "pure noise, 1000 ancestral; mined with 300 ancestral, in 8 bits",
    "rounds-from-latents": "mined latents, 5 DPM-Solver++(2M)",
    "decoding-ddim": "mined latents, 15 DDIM",
    "decoding-ancestral": "mined latents, 100 ancestral",
}
"""Configurations of the accuracy benchmark that sample in another way, and how."""


def dice_table(results: Path) -> str:
    """Evaluations beside Dice, each configuration against the one that it differs from in one thing."""
    kept, _ = todays(read(results), BASE)
    rows = [row for row in kept if (row["preset"], row["split"], row["scale"]) == (PRESET, "development", "round")]
    found = Results(rows)
    heads = ("evaluations for a mined pair", "for a pair of the round", "Dice % after round 1, seeds", "minus that of")
    lines = [f"| a round's images from | {' | '.join(heads)} |", "|---|---:|---:|---|---|"]
    for name, words in SAMPLERS.items():
        seeds = found.seeds(name)
        if not seeds:
            continue
        other = CONFIGURATIONS[name].beside
        dice = {seed: found.dice(name, seed, "round 1") for seed in seeds}
        shown = ", ".join(f"{seed}: {value:.2f}" for seed, value in dice.items())
        minus = ", ".join(f"{value - found.dice(other, seed, 'round 1'):+.2f}" for seed, value in dice.items())
        difference = "" if name == "default" else f"{minus} (`{other}`)"
        counts = evaluations(name)
        lines.append(f"| {words} (`{name}`) | {counts['mined']} | {counts['generated']} | {shown} | {difference} |")
    return "\n".join(lines)


def evaluations(name: str) -> dict[str, int]:
    """For each pair, mined and in a round, with a configuration's settings."""
    options = Options(preset=PRESET, overrides=CONFIGURATIONS[name].settings_at("round"))
    stages = (stage_parser(*config, options) for config in STAGES)
    return as_set(*stages)
