"""Speed and memory of every part, and what bounds them; results as CSV and one page.

    python -m tests.benchmarks.speed [--device cpu|cuda] [--sections step sampling …] [--name NAME] [--again] [--report]

Ratios are taken between measurements made in turn in one run. A finished section is not run again unless ``--again``
is given; ``--report`` only renders the page from the results that are there. Needs the extras ``test``, ``onnx`` and
``benchmark``; sections go on without what is absent and say so.
"""

import argparse
import logging
import time
import traceback
import warnings
from importlib import import_module
from pathlib import Path

import torch
from monai.utils import set_determinism

from .measure import ROOT, Options, conditions, load_average, read_rows, write_rows
from .report import write_report

SECTIONS = ("step", "sampling", "data", "inference", "growth", "limit")


def main() -> None:
    """Run what is asked for and not yet there, then render the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.speed", description=__doc__.splitlines()[0])
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--preset", choices=("small", "full", "demo"), default="small")
    parser.add_argument("--repeats", type=int, default=15, help="measurements of a step; longer jobs are repeated less")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which takes minutes")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results", help="folder of results and page")
    parser.add_argument("--name", help="of this machine, where the results of another are to be kept beside its own")
    parser.add_argument("--again", action="store_true", help="run sections that are there again")
    parser.add_argument("--report", action="store_true", help="only render the page")
    chosen = parser.parse_args()
    options = Options(chosen.device, chosen.threads, chosen.preset, chosen.repeats, not chosen.no_compile)
    torch.set_num_threads(chosen.threads)
    for name in ("monai_vessel_uda", "monai.bundle.workflows", "monai.bundle.scripts", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    chosen.output.mkdir(parents=True, exist_ok=True)
    failed = []
    for section in [] if chosen.report else chosen.sections:
        try:
            run_section(section, options, chosen.output, chosen.again, chosen.name)
        except Exception:  # the sections after it may take long and need not wait for a repair
            traceback.print_exc()
            failed.append(section)
    write_report(chosen.output)
    if failed:
        parser.exit(1, f"failed: {', '.join(failed)}\n")


def run_section(section: str, options: Options, output: Path, again: bool = False, name: str | None = None) -> None:
    """Add a section's rows to the results, unless they are there."""
    path = output / f"speed_{'_'.join(filter(None, (options.device, name)))}.csv"
    rows = read_rows(path)
    there = [row for row in rows if (row.section, row.preset) == (section, options.preset)]
    if there and not again:
        print(f"{section}: there already", flush=True)
        return
    print(f"{section} …", flush=True)
    set_determinism(seed=0)  # as every stage does; it also decides which algorithms a GPU may take
    torch.set_float32_matmul_precision("highest")
    start, load = time.perf_counter(), load_average()
    found = import_module(f".{section}", __package__).run(options)
    seconds = time.perf_counter() - start
    found += conditions(section, options, seconds, (load, load_average()))
    kept = [row for row in rows if row not in there]
    write_rows([*kept, *(row.of_preset(options.preset) for row in found)], path)
    print(f"{section}: {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
