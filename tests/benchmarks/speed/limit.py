"""What this machine can do at most, what a step must do, and the fraction reached; the profile of where time goes."""

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from monai.losses import DiceCELoss
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from .measure import Options, Row, interleaved, seconds_of
from .networks import NoisePrediction, TrainingStep, Variant, noise_batch, ours
from .stages import generator_definition, stage_parser
from .step import as_shipped

SECTION = "limit"
MACHINE = "the machine"
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
IN_CACHE, IN_MEMORY = 2 * 2**20, 512 * 2**20
"""Bytes that the copies read, whose speed is the bandwidth of cache and of memory."""
FITS_IN_CACHE = 16 * 2**20
"""An operator that reads and writes fewer bytes is charged the cache's bandwidth, another the memory's."""
TOP = 12


class Work(TorchDispatchMode):
    """Adds up what every operator must do: arithmetic, and reading its inputs and writing its outputs once.

    Args:
        peak: operations per second.
        cache: bytes per second in the cache.
        memory: bytes per second in memory.
    """

    def __init__(self, peak: float, cache: float, memory: float) -> None:
        super().__init__()
        self.peak, self.cache, self.memory = peak, cache, memory
        self.operations = self.bytes = self.operators = 0
        self.computing = self.moving = 0.0  # seconds at least, of operators that arithmetic or bytes bound

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function.is_view or not isinstance(tree_leaves(result)[0] if tree_leaves(result) else None, Tensor):
            return result
        size = sum(leaf.nbytes for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor))
        count = flop_registry.get(function._overloadpacket)
        operations = count(*args, **(kwargs or {}), out_val=result) if count else 0
        arithmetic = operations / self.peak
        traffic = size / (self.cache if size < FITS_IN_CACHE else self.memory)
        self.operators += 1
        self.operations += operations
        self.bytes += size
        if arithmetic > traffic:
            self.computing += arithmetic
        else:
            self.moving += traffic
        return result


def run(options: Options) -> list[Row]:
    """Rows of the machine, then of each kind of work."""
    rows, peak, cache, memory = machine(options)
    for case, (function, smallest) in work(options).items():
        counter = Work(peak, cache, memory)
        function()
        with counter:
            function()
        times = interleaved({"whole": function, "smallest": smallest}, options.repeats, options.device)
        seconds, overhead = median(times["whole"]), median(times["smallest"])
        least = counter.computing + counter.moving
        arithmetic, traffic = counter.operations / peak, counter.bytes / memory
        rows += [
            Row(SECTION, case, "", "measured", 1000 * seconds, "ms"),
            Row(SECTION, case, "", "operations", counter.operations / 1e9, "GFLOP"),
            Row(SECTION, case, "", "read and written by operators", counter.bytes / 1e9, "GB"),
            Row(SECTION, case, "", "operators", counter.operators),
            Row(SECTION, case, "", "arithmetic alone at the peak", 1000 * arithmetic, "ms"),
            Row(SECTION, case, "", "bytes alone at memory bandwidth", 1000 * traffic, "ms"),
            Row(SECTION, case, "", "least, operator by operator", 1000 * least, "ms"),
            Row(SECTION, case, "", "of it bound by arithmetic", counter.computing / least),
            Row(SECTION, case, "", "fraction of the peak reached", arithmetic / seconds),
            Row(SECTION, case, "", "fraction of the operators' limit reached", least / seconds),
            Row(SECTION, case, "", "the same on the smallest patch", 1000 * overhead, "ms"),
            Row(SECTION, case, "", "verdict", verdict(seconds, counter.computing, counter.moving, overhead)),
        ]
        rows += profile_rows(case, function, options)
    return rows


def verdict(seconds: float, computing: float, moving: float, overhead: float) -> str:
    """What takes most of the time, as far as these limits tell, in one sentence made from the numbers."""
    shares = {
        "Arithmetic": computing / seconds,
        "Memory bandwidth": moving / seconds,
        "What does not depend on the pixels": overhead / seconds,
    }
    slower = max(0.0, 1 - sum(shares.values()))
    known = max(shares, key=lambda name: shares[name])
    bound = f"{known} binds most" if shares[known] >= slower else "Most is not explained by these limits"
    parts = f"arithmetic needs at least {shares['Arithmetic']:.0%} of the time, bytes {shares['Memory bandwidth']:.0%}"
    fixed = f"what does not depend on the pixels takes {overhead / seconds:.0%}"
    return f"{bound}: {parts}, {fixed}; for {slower:.0%} kernels are slower than the limits."


def machine(options: Options) -> tuple[list[Row], float, float, float]:
    """Rows, and operations per second of float32 convolutions, bytes per second in cache and in memory, as measured."""
    device = options.device
    side = MATRIX_SIDE[device.split(":")[0]]
    first, second, product = (torch.rand(side, side, device=device) for _ in range(3))
    kinds = {"float32": torch.float32}
    if device.startswith("cuda"):
        kinds |= {"TF32": torch.float32, "bfloat16": torch.bfloat16}
    rows, peak = [], 0.0
    for name, kind in kinds.items():
        torch.set_float32_matmul_precision("high" if name == "TF32" else "highest")
        matrices = [matrix.to(kind) for matrix in (first, second)]
        seconds = fastest(partial(torch.mm, *matrices, out=product.to(kind)), options)
        rows.append(Row(SECTION, MACHINE, name, "matrix product", 2 * side**3 / seconds / 1e9, "GFLOP/s"))
        if name != "bfloat16":  # TF32, where there is one, which is what convolutions of float32 take by default
            peak = 2 * side**3 / seconds
    torch.set_float32_matmul_precision("highest")
    speeds = []
    for name, size in (("cache", IN_CACHE), ("memory", IN_MEMORY)):
        a, b, c = (torch.rand(size // 4, device=device) for _ in range(3))
        copy = fastest(partial(a.copy_, b), options)
        triad = fastest(partial(torch.add, b, c, alpha=2.0, out=a), options)
        speeds.append(max(2 * size / copy, 3 * size / triad))
        rows.append(Row(SECTION, MACHINE, name, f"copy of {size >> 20} MiB", 2 * size / copy / 1e9, "GB/s"))
        rows.append(Row(SECTION, MACHINE, name, f"triad of {size >> 20} MiB each", 3 * size / triad / 1e9, "GB/s"))
    return rows, peak, max(speeds), speeds[-1]


def fastest(function: Callable[[], Any], options: Options) -> float:
    """Seconds of the fastest of several measurements: a limit is what can be had."""
    return min(interleaved({"": function}, max(3, options.repeats // 2), options.device)[""])


def work(options: Options) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """What the stages do most, and each on the smallest patch that its network takes."""
    config, definition = stage_parser("ddpm_pretrain", "train.json", options), generator_definition(options)
    patch, batch_size = config.get("patch_size"), config.get("batch_size")
    side = ours(definition)().side_multiple
    found: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {}
    shipped = as_shipped(options)
    for name, make, flags in (
        ("training step", TrainingStep, shipped["training"]),
        ("noise prediction", NoisePrediction, shipped["sampling"]),
    ):
        whole, smallest = (
            make(Variant(ours(definition), **flags), noise_batch(n, s, options.device), options.device)
            for n, s in ((batch_size, patch), (1, side))
        )
        found[f"{name} of the generator, batch {batch_size}"] = whole, smallest
    config = stage_parser("latent_mining", "train.json", options)
    patch, batch_size = config.get("patch_size"), config.get("segmenter_batch_size")
    found[f"training step of the segmenter, batch {batch_size}"] = (
        segmenter_step(options, batch_size, patch),
        segmenter_step(options, 1, 32),
    )
    window = stage_parser("co_optimization", "train.json", Options(options.device, preset="full"))
    side, batch_size = window.get("patch_size"), window.get("sw_batch_size")
    network = window.get_parsed_content("network").eval()
    found[f"{batch_size} windows of {side} x {side}, default segmenter"] = (
        segmenter_call(network, options, batch_size, side),
        segmenter_call(network, options, 1, 32),
    )
    return found


def segmenter_step(options: Options, batch_size: int, patch: int) -> Callable[[], None]:
    """One iteration of ``segmentation_trainer`` on a resident batch."""
    torch.manual_seed(0)
    network = stage_parser("latent_mining", "train.json", options).get_parsed_content("network").train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    loss = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False)
    batch = noise_batch(batch_size, patch, options.device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(network(batch["x_t"]), batch["mask"]).backward()
        optimizer.step()

    return step


def segmenter_call(network: Any, options: Options, batch_size: int, side: int) -> Callable[[], Tensor]:
    """The logits of windows."""
    windows = noise_batch(batch_size, side, options.device)["x_t"]

    @torch.no_grad()
    def call() -> Tensor:
        return network(windows)

    return call


def profile_rows(case: str, function: Callable[[], Any], options: Options) -> list[Row]:
    """The operators that take most of the time, in themselves."""
    on_gpu = options.device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    calls = 3
    with profile(activities=activities) as profiler:
        seconds_of(function, calls, options.device)
    events = profiler.key_averages()

    def own_time(event: Any) -> float:
        if on_gpu:
            is_kernel = event.device_type == DeviceType.CUDA and not event.is_user_annotation
            return event.self_device_time_total if is_kernel else 0.0
        return event.self_cpu_time_total

    whole = sum(map(own_time, events))
    if not whole:  # a container may forbid to look at a GPU's kernels
        return []
    rows = []
    for event in sorted(events, key=own_time, reverse=True)[:TOP]:
        note = f"{event.count / calls:.0f} calls, {own_time(event) / calls / 1000:.2f} ms"
        rows.append(Row(SECTION, case, event.key, "share of the profile", own_time(event) / whole, note=note))
    return rows
