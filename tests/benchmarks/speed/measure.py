"""What all sections share: rows of results, interleaved timing, and under which conditions it was measured."""

import csv
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[3]
"""Of the repository, where child processes find this package."""
CONDITIONS = "conditions"
"""Case of the rows that say under which conditions a section was measured."""


@dataclass(frozen=True)
class Options:
    """What the command line decides."""

    device: str = "cpu"
    threads: int = 2
    preset: str = "small"
    repeats: int = 15
    compiled: bool = True
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Ids of the bundle configs and their values, over those of the preset; for tests at toy size."""

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on a GPU."""
        return self.device.startswith("cuda")


@dataclass(frozen=True)
class Row:
    """One result. ``low`` and ``high`` are quartiles; a ``value`` that could not be had is "skipped"."""

    section: str
    case: str
    variant: str
    metric: str
    value: float | str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    note: str = ""
    preset: str = ""

    def of_preset(self, preset: str) -> "Row":
        """The same row, measured at the scale of this preset."""
        return replace(self, preset=preset)


def interleaved(
    functions: Mapping[str, Callable[[], Any]], repeats: int, device: str = "cpu", at_least: float = 0.05
) -> dict[str, list[float]]:
    """Seconds of one call of each function, measured in turn, so that a slow minute of the machine falls on all.

    Args:
        functions: by name.
        repeats: measurements of each; each round starts with another function.
        device: which to wait for.
        at_least: seconds of one measurement; a shorter function is called several times in it. With 0 each is called
            once, without a warm-up.
    """
    calls = dict.fromkeys(functions, 1)
    for name, function in functions.items() if at_least else ():
        if seconds_of(function, 1, device) < 10 * at_least:  # warm-up
            calls[name] = max(1, math.ceil(at_least / seconds_of(function, 1, device)))
    order, times = list(functions), {name: [] for name in functions}
    for i in range(repeats):
        first = i % len(order)
        for name in order[first:] + order[:first]:
            times[name].append(seconds_of(functions[name], calls[name], device) / calls[name])
    return times


def seconds_of(function: Callable[[], Any], calls: int = 1, device: str = "cpu") -> float:
    """Seconds that so many calls take, with what they leave to the GPU."""
    _synchronise(device)
    start = time.perf_counter()
    for _ in range(calls):
        function()
    _synchronise(device)
    return time.perf_counter() - start


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def timed_rows(
    section: str, case: str, what: str, times: Mapping[str, Sequence[float]], reference: str | None = None
) -> list[Row]:
    """Rows of interleaved times: seconds, and how many times as fast as ``reference``.

    A ratio is the median, and has the quartiles, of the ratios of measurements made one after the other.
    """
    rows = []
    for name, values in times.items():
        low, middle, high = quartiles(values)
        rows.append(Row(section, case, name, f"{what}, seconds", middle, "s", low, high))
        if reference is not None:
            low, middle, high = quartiles([r / v for r, v in zip(times[reference], values, strict=True)])
            rows.append(Row(section, case, name, f"{what}, speed-up", middle, f"times {reference}", low, high))
    return rows


def conditions(section: str, options: Options, seconds: float, load: tuple[float, float]) -> list[Row]:
    """Rows that say where, when and how a section was measured."""
    libraries = ", ".join(f"{name} {_version(name)}" for name in ("torch", "monai", "diffusers", "onnxruntime"))
    facts: dict[str, tuple[float | str, str]] = {
        "device": (options.device, ""),
        "processor": (processor(), ""),
        "GPU": (torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else "none", ""),
        "threads": (options.threads, f"of {os.cpu_count()} cores"),
        "versions": (f"{libraries}, Python {platform.python_version()}", ""),
        "commit": (commit(), ""),
        "date": (date.today().isoformat(), ""),
        "command": (command(), ""),
        "duration": (round(seconds), "s"),
        "load before": (load[0], ""),
        "load after": (load[1], ""),
    }
    return [Row(section, CONDITIONS, "", name, value, unit) for name, (value, unit) in facts.items()]


def command() -> str:
    """The command line, without the folder of the results."""
    words = list(sys.argv[1:])
    if "--output" in words:
        del words[words.index("--output") : words.index("--output") + 2]
    return " ".join(["python -m tests.benchmarks.speed", *words])


def commit() -> str:
    """Which code is measured: the commit, marked "-dirty" if code differs from it; "unknown" outside a repository."""
    if shutil.which("git") is None:
        return "unknown"

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)

    found = git("rev-parse", "--short", "HEAD")
    if found.returncode:
        return "unknown"
    changed = git("diff", "--quiet", "HEAD", "--", ".", ":!docs").returncode  # results are written there meanwhile
    return found.stdout.strip() + ("-dirty" if changed else "")


def processor() -> str:
    """Name of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def load_average() -> float:
    """Running threads of the whole machine, averaged over the last minute."""
    return round(os.getloadavg()[0], 2)


def run_child(
    module: str, *arguments: object, processes: int | None = None, threads: int = 1, on_gpu: bool = False
) -> str:
    """What ``python -m tests.benchmarks.speed.module`` writes to standard output; under torchrun for several processes.

    Raises:
        RuntimeError: it failed; with the end of its messages.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes else []
    name = f"{__package__}.{module}"
    line = [sys.executable, *launcher, "-m", name, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    if not on_gpu:  # or Ignite's collectives send their numbers over the first GPU
        environment["CUDA_VISIBLE_DEVICES"] = ""
    result = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=environment)
    if result.returncode:
        raise RuntimeError(f"{name}: {result.stderr[-2000:]}")
    return result.stdout


def read_rows(path: Path) -> list[Row]:
    """Rows of a CSV file; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [Row(**{key: _number(key, text) for key, text in row.items()}) for row in csv.DictReader(file)]


def write_rows(rows: Iterable[Row], path: Path) -> None:
    """Write a CSV file in one go."""
    temporary = path.with_suffix(".part")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _short(value) for key, value in asdict(row).items()} for row in rows)
    temporary.replace(path)


def _short(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return int(value) if value.is_integer() else f"{value:.6g}"


def _number(key: str, text: str) -> Any:
    if key in ("low", "high") and not text:
        return None
    if key not in ("value", "low", "high"):
        return text
    try:
        return float(text)
    except ValueError:
        return text


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
