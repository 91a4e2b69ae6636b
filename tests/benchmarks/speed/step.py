"""Noise prediction and training step of the generator: ours, plain MONAI's and diffusers' side by side."""

import json
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from monai.networks.blocks.selfattention import SABlock

from .measure import Options, Row, interleaved, run_child, seconds_of, timed_rows
from .networks import (
    KNOWN,
    KNOWN_BATCH,
    KNOWN_PATCH,
    DiffusersUNet,
    NoisePrediction,
    PlainMonaiUNet,
    TrainingStep,
    Variant,
    diffusers_weights,
    layout,
    multiply_adds,
    noise_batch,
    ours,
    parameters,
)
from .stages import generator_definition, generator_trainer, mine, stage_parser

SECTION = "step"
REFERENCE = "diffusers"
SHIPPED = "as shipped"
Flags = Mapping[str, bool]
LABELS = {
    "channels_last": "channels_last",
    "tf32": "TF32",
    "bfloat16": "bfloat16",
    "attention": "SDPA",
    "fused": "fused AdamW",
    "compiled": "compiled",
}
"""Options of a :class:`~.networks.Variant`, and what they are called."""
TOO_SLOW = 3.0
"""A variant that takes so many times the reference's seconds in its first measurement is measured no further."""
PROCESSES, REPEATS_IN_A_PROCESS = 9, 9
ALONE = "noise prediction alone in a process"
MOST_REPEATS = {"known configuration": 9}
TOLERANCE = 1e-4
"""Largest difference of a prediction between ours and diffusers' network with the same weights."""


def run(options: Options) -> list[Row]:
    """Rows of both sizes."""
    values = stage_parser("ddpm_pretrain", "train.json", options)
    cases = (
        ("known configuration", KNOWN, KNOWN_PATCH, KNOWN_BATCH),
        (f"preset {options.preset}", generator_definition(options), values.get("patch_size"), values.get("batch_size")),
    )
    shipped = as_shipped(options)
    rows = [Row(SECTION, SHIPPED, named("ours", flags), what, "as shipped") for what, flags in shipped.items()]
    for name, definition, patch, batch_size in cases:
        batch = noise_batch(batch_size, patch, options.device)
        is_preset = name.startswith("preset")
        case = f"{name}: channels {'-'.join(map(str, definition['channels']))}, {patch} x {patch}, batch {batch_size}"
        found = variants(definition, options, shipped, compiled=options.compiled and is_preset)
        rows += sizes(case, definition, found, batch, options)
        for what, make in (("noise prediction", NoisePrediction), ("training step", TrainingStep)):
            asked = trained_and_sampled(found) if make is NoisePrediction else found
            functions, failed = prepared(asked, partial(make, batch=batch, device=options.device), options.device)
            rows += [Row(SECTION, case, variant, what, "skipped", note=why) for variant, why in failed.items()]
            rows += [Row(SECTION, case, v, f"{what}, compiling", s, "s") for v, (_, s) in functions.items() if s]
            calls = {variant: function for variant, (function, _) in functions.items()}
            repeats = min(options.repeats, MOST_REPEATS.get(name, options.repeats))
            times = interleaved(calls, repeats, options.device)
            rows += timed_rows(SECTION, case, what, times, REFERENCE if REFERENCE in times else None)
        if REFERENCE in times:
            del functions, calls  # a GPU's memory is the children's now
            job = {"definition": definition, "patch": patch, "batch_size": batch_size, "device": options.device}
            rows += alone(case, job, shipped["sampling"], options)
    return rows


def alone(case: str, job: Mapping[str, Any], shipped: Flags, options: Options) -> list[Row]:
    """Noise prediction as shipped and by diffusers' network, each in a process of its own, again and again in turn.

    A process gives the median of its measurements; the rows are of these.
    """
    repeats = min(options.repeats, REPEATS_IN_A_PROCESS)
    last = {"channels_last": True}
    jobs: dict[str, dict[str, Any]] = {named(REFERENCE, flags): {"ours": False, "flags": flags} for flags in ({}, last)}
    jobs[named("ours", shipped)] = {"ours": True, "flags": shipped}
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(min(options.repeats, PROCESSES)):
        for name, own in jobs.items():
            asked = json.dumps({**job, **own, "repeats": repeats})
            text = run_child("prediction", asked, threads=options.threads, on_gpu=options.on_gpu)
            times[name].append(statistics.median(json.loads(text.splitlines()[-1])))
    rows = timed_rows(SECTION, case, ALONE, times, REFERENCE)
    return [replace(row, note=f"{len(times[REFERENCE])} processes each") for row in rows]


def variants(
    definition: Mapping[str, Any], options: Options, shipped: Mapping[str, Flags], compiled: bool
) -> dict[str, Variant]:
    """All that are compared."""
    folded, gpu = definition["space_to_depth"] > 1, options.on_gpu
    other = {**definition, "space_to_depth": 1 if folded else 2}
    last, every = {"channels_last": True}, {"channels_last": True, "attention": True, "fused": True}
    theirs: list[Flags] = [{}, last]
    own: list[Flags] = [{}, last, {**last, "attention": True}, {**last, "fused": True}, every, *shipped.values()]
    if gpu:
        theirs.append({"tf32": True})
        own.append({"tf32": True})
    theirs.append({**last, "bfloat16": True, "fused": True})
    own.append({**every, "bfloat16": True})
    if compiled:
        own.append({**every, "bfloat16": True, "compiled": True} if gpu else {**shipped["training"], "compiled": True})
    make_theirs, make_ours = partial(DiffusersUNet, definition), ours(definition)
    found = {named(REFERENCE, flags): Variant(make_theirs, **flags) for flags in theirs}
    found |= {named("ours", flags): Variant(make_ours, **flags) for flags in own}
    if folded:
        found["plain MONAI, full resolution"] = Variant(partial(PlainMonaiUNet, definition))
        found["diffusers, full resolution"] = Variant(partial(DiffusersUNet, other))
    else:
        found["plain MONAI"] = Variant(partial(PlainMonaiUNet, definition))
        found["ours, channels_last, 2 x 2 space-to-depth"] = Variant(ours(other), channels_last=True)
    return found


def named(network: str, flags: Flags) -> str:
    """Name of a variant."""
    return ", ".join([network, *(label for flag, label in LABELS.items() if flags.get(flag))])


def as_shipped(options: Options) -> dict[str, Flags]:
    """Which options the package itself has on, seen from what its trainer and its mining make of a network."""
    make = ours(generator_definition(options))
    trained, sampled = make(), make()
    with tempfile.TemporaryDirectory() as folder:
        optimizer = generator_trainer(trained, options, folder).optimizer
        mine(sampled, options, folder, pairs=1, batch_size=1, t0=1)
    return {
        "training": {**found_in(trained), "fused": bool(optimizer.defaults.get("fused"))},
        "sampling": found_in(sampled),
    }


def found_in(network: Any) -> dict[str, bool]:
    """Layout and attention of a network."""
    blocks = [block for block in network.modules() if isinstance(block, SABlock)]
    return {
        "channels_last": layout(network) == "channels_last",
        "attention": any(block.use_flash_attention for block in blocks),
    }


def trained_and_sampled(found: Mapping[str, Variant]) -> dict[str, Variant]:
    """Without those that differ from another in the optimiser alone."""
    without = {replace(variant, fused=False) for variant in found.values() if not variant.fused}
    return {n: v for n, v in found.items() if not v.fused or replace(v, fused=False) not in without}


def prepared(
    found: Mapping[str, Variant], make: Any, device: str
) -> tuple[dict[str, tuple[Any, float]], dict[str, str]]:
    """What runs here, with the seconds that compiling it took, and why the rest is not measured."""
    functions: dict[str, tuple[Any, float]] = {}
    failed = {}
    for name, variant in found.items():
        try:
            function = make(variant)
            first = seconds_of(function, 1, device)
        except Exception as error:  # whatever a compiler, a library that is absent or a device raises
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:150]
            continue
        seconds = seconds_of(function, 1, device)
        if variant.bfloat16 and REFERENCE in functions:
            ratio = seconds / seconds_of(functions[REFERENCE][0], 1, device)
            if ratio > TOO_SLOW:
                failed[name] = f"{ratio:.1f} times the seconds of {REFERENCE} in one measurement"
                continue
        functions[name] = (function, first - seconds if variant.compiled else 0.0)
    return functions, failed


def sizes(
    case: str, definition: Mapping[str, Any], found: Mapping[str, Variant], batch: Mapping[str, Any], options: Options
) -> list[Row]:
    """Parameters and operations of each network; ours and diffusers' must be one network."""
    rows, counted = [], {}
    for name, variant in found.items():
        if variant.compiled:
            continue
        try:
            function = NoisePrediction(Variant(variant.network), batch, options.device)
        except ImportError:
            continue
        counted[name] = parameters(function.network)
        rows.append(Row(SECTION, case, name, "parameters", counted[name] / 1e6, "M"))
        macs = multiply_adds(function) / len(batch["x_t"])
        rows.append(Row(SECTION, case, name, "multiply-adds of a noise prediction", macs / 1e9, "G for one patch"))
    if REFERENCE in counted:
        if not 0.98 < counted["ours"] / counted[REFERENCE] < 1.02:
            raise AssertionError(f"{counted['ours']} parameters, diffusers {counted[REFERENCE]}: not one network")
        difference = largest_difference(definition, batch, options.device)
        if not difference < TOLERANCE:
            raise AssertionError(f"with the same weights the predictions differ by {difference}: not one network")
        rows.append(Row(SECTION, case, "ours", "largest difference from diffusers with its weights", difference))
    return rows


@torch.no_grad()
def largest_difference(definition: Mapping[str, Any], batch: Mapping[str, Any], device: str) -> float:
    """Between the predictions of ours and of diffusers' network with the same weights."""
    torch.manual_seed(0)
    theirs, own = DiffusersUNet(definition).to(device).eval(), ours(definition)().to(device).eval()
    own.unet.load_state_dict(diffusers_weights(theirs))  # type: ignore[union-attr, operator]
    torch.set_float32_matmul_precision("highest")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        first, second = (network(batch["x_t"], batch["timesteps"], batch["mask"]) for network in (theirs, own))
    return float((first - second).abs().max())
