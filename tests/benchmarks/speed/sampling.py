"""What a synthetic pair costs: network evaluations, counted, and seconds, measured or extrapolated from them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from monai_vessel_uda.methods.latent_mining import LatentMining

from .measure import Options, Row, interleaved, quartiles, seconds_of, timed_rows
from .networks import noise_batch, ours
from .stages import generator_definition, stage_parser

SECTION = "sampling"
PUBLISHED_PAIRS, PUBLISHED_ROUNDS = 2048, 6
INVERSION, ANCESTRAL_DECODING, ANCESTRAL_GENERATION = 15, 300, 1000
"""Evaluations of the published procedure for one pair: mined with the first two, generated in a round with the last."""
EVALUATION = "one evaluation, of all these"
PRESETS = ("demo", "small", "full")
ADAPTATIONS = "adaptations of the presets"
REPEATS = 3


class Counted:
    """A noise prediction that counts how often it is asked; without a network it predicts no noise."""

    def __init__(self, network: Callable[..., Tensor] | None = None) -> None:
        self.network, self.evaluations = network, 0

    def __call__(self, x_t: Tensor, timesteps: Tensor, mask: Tensor | None = None) -> Tensor:
        self.evaluations += 1
        return torch.zeros_like(x_t) if self.network is None else self.network(x_t, timesteps, mask)


def adaptation(pairs: int, rounds: int, mined: int, generated: int) -> int:
    """Network evaluations of a whole adaptation: each pair is mined once and generated again in every round.

    Example:
        >>> adaptation(2048, 6, mined=15 + 300, generated=1000)
        12933120
    """
    return pairs * (mined + rounds * generated)


def run(options: Options) -> list[Row]:
    """Rows of whole adaptations and of single pairs."""
    counted = adaptation_rows(options)
    pairs = pair_rows(options)
    seconds = next(float(row.value) for row in pairs if row.variant == EVALUATION)
    hours = [
        replace(row, metric="hours", value=float(row.value) * seconds / 3600, unit="h", note="extrapolated")
        for row in counted
        if row.metric == "evaluations"
    ]
    return [*pairs, *counted, *hours, *preset_rows()]


def pair_rows(options: Options) -> list[Row]:
    """Evaluations and seconds for one pair in a batch as the stage takes it."""
    config = stage_parser("latent_mining", "mine.json", options)
    batch_size, patch = config.get("mining_batch_size"), config.get("patch_size")
    batch = noise_batch(batch_size, patch, options.device)
    network = ours(generator_definition(options))().to(options.device).eval()
    case = f"one pair, in batches of {batch_size} patches of {patch} x {patch}"
    counts, functions = {}, {}
    for name, job in jobs(config.get_parsed_content("schedule"), batch, options).items():
        counter = Counted()
        job(counter)
        counts[name] = counter.evaluations
        functions[name] = partial(job, network)
    with torch.no_grad():  # warm-up
        seconds_of(partial(network, batch["x_t"], batch["timesteps"], batch["mask"]), 2, options.device)
    times = interleaved(functions, min(REPEATS, options.repeats), options.device, at_least=0)
    each = {name: [seconds / batch_size for seconds in values] for name, values in times.items()}
    rows = [Row(SECTION, case, name, "evaluations", count) for name, count in counts.items()]
    rows += timed_rows(SECTION, case, "pair", each)
    low, middle, high = quartiles([s / counts[name] for name, values in each.items() for s in values])
    rows.append(Row(SECTION, case, EVALUATION, "evaluation, seconds", middle, "s", low, high))
    for name, count in {
        "published: inversion + 300 ancestral": INVERSION + ANCESTRAL_DECODING,
        "published: 1000 ancestral": ANCESTRAL_GENERATION,
    }.items():
        rows.append(Row(SECTION, case, name, "evaluations", count))
        rows.append(
            Row(SECTION, case, name, "pair, seconds", middle * count, "s", low * count, high * count, "extrapolated")
        )
    return rows


def jobs(schedule: Any, batch: Mapping[str, Tensor], options: Options) -> dict[str, Callable[[Any], Any]]:
    """Ways to a synthetic image, each a function of the noise prediction; the last two are the stages' own."""
    x, mask = batch["x_t"], batch["mask"]
    numbers = range(len(x))

    def mined(mining: LatentMining, eps: Any) -> Tensor:
        return mining.decode(eps, mining.latents(eps, x, mask), mask, numbers)

    def drawn(mining: LatentMining, eps: Any) -> Tensor:
        return mining.from_noise(eps, mask, numbers)

    inverting = partial(LatentMining, schedule, steps=50, t0=INVERSION)
    stage = stage_parser("latent_mining", "mine.json", options).get_parsed_content("mining")
    rounds = stage_parser("co_optimization", "train.json", options).get_parsed_content("mining")
    found = {"mined: inversion + 15 DDIM": partial(mined, inverting())}
    for steps in (50, 25):
        drawing = LatentMining(schedule, generation_steps=steps)
        found[f"generated: {steps} DDIM"] = partial(drawn, drawing)
    found[f"mined as preset {options.preset} is set"] = partial(mined, stage)
    found[f"generated from noise as preset {options.preset} is set"] = partial(drawn, rounds)
    return found


def adaptation_rows(options: Options) -> list[Row]:
    """Evaluations of whole adaptations and how many times fewer they are than the published procedure's."""
    mine = stage_parser("latent_mining", "mine.json", options)
    rounds = stage_parser("co_optimization", "train.json", options)
    scales = {
        "the published scale": (PUBLISHED_PAIRS, PUBLISHED_ROUNDS),
        f"preset {options.preset}": (mine.get("pairs"), rounds.get("rounds")),
    }
    published = {"mined": INVERSION + ANCESTRAL_DECODING, "generated": ANCESTRAL_GENERATION}
    procedures = {
        "published": published,
        "15 + 15 DDIM, rounds of 50 DDIM": {"mined": 30, "generated": 50},
        "15 + 15 DDIM, rounds of 25 DDIM": {"mined": 30, "generated": 25},
        "15 + 15 DDIM, rounds of 15 DPM-Solver++(2M)": {"mined": 30, "generated": 15},
        f"as preset {options.preset} is set": as_set(mine, rounds),
    }
    rows = []
    for scale, (pairs, k) in scales.items():
        case = f"adaptation at {scale}: {pairs} masks, K = {k}"
        most = adaptation(pairs, k, **published)
        for name, counts in procedures.items():
            total = adaptation(pairs, k, **counts)
            note = f"{counts['mined']} for each mask, then {counts['generated']} in each round"
            rows.append(Row(SECTION, case, name, "evaluations", total, "patches through a generator", note=note))
            rows.append(Row(SECTION, case, name, "times fewer than published", most / total))
    return rows


def preset_rows() -> list[Row]:
    """Evaluations of the adaptation that each preset makes, and how many times fewer they are than published."""
    rows = []
    for preset in PRESETS:
        options = Options(preset=preset)
        mine = stage_parser("latent_mining", "mine.json", options)
        rounds = stage_parser("co_optimization", "train.json", options)
        pairs, k, counts = mine.get("pairs"), rounds.get("rounds"), as_set(mine, rounds)
        published = adaptation(pairs, k, INVERSION + ANCESTRAL_DECODING, ANCESTRAL_GENERATION)
        name, total = f"preset {preset}: {pairs} masks, K = {k}", adaptation(pairs, k, **counts)
        note = f"{counts['mined']} for each mask, then {counts['generated']} in each round"
        rows.append(Row(SECTION, ADAPTATIONS, name, "evaluations", total, "patches through a generator", note=note))
        rows.append(Row(SECTION, ADAPTATIONS, name, "published at this scale", published))
        rows.append(Row(SECTION, ADAPTATIONS, name, "times fewer than published", published / total))
    return rows


def as_set(mine: Any, rounds: Any) -> dict[str, int]:
    """Evaluations for each mask that the stages' own samplers make with their present settings."""
    mining, generating = mine.get_parsed_content("mining"), rounds.get_parsed_content("mining")
    x, start = torch.zeros(1, 1, 8, 8), rounds.get("round_start")
    mined, latents, noise = Counted(), Counted(), Counted()
    mining.latents(mined, x, x)
    mining.decode(mined, x, None, [0])
    if start in ("latents", "both"):
        generating.decode(latents, x, x, [0])
    if start in ("noise", "both"):
        generating.from_noise(noise, x, [0])
    available = mine.get("pairs")
    share = (rounds.get("round_pairs") or available) / available
    return {"mined": mined.evaluations, "generated": round(share * (latents.evaluations + noise.evaluations))}
