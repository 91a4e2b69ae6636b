"""Child process: segments files one after the other; prints seconds (of three times) and peak memory as JSON."""

import gc
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from monai_vessel_uda.methods.prediction import VesselLogit
from monai_vessel_uda.segmenter import inference_workflow, segment
from monai_vessel_uda.settings import device_override

from .measure import seconds_of

STATUS = Path("/proc/self/status")


def main() -> None:
    """``python -m tests.benchmarks.speed.peak_memory BUNDLE DEVICE FILE …``."""
    bundle, device, *paths = sys.argv[1:]
    files = []
    with tempfile.TemporaryDirectory() as folder:
        segment(paths[0], folder, bundle, device=device)  # what is loaded once
        for path in paths:
            reset_peak(device)
            job = partial(segment, path, folder, bundle, device=device)
            seconds, highest = [seconds_of(job, 1, device)], peak(device)
            for _ in range(2):
                gc.collect()  # engines of earlier files hold their images in cycles
                seconds.append(seconds_of(job, 1, device))
            files.append({"seconds": statistics.median(seconds), "peak": highest})
            gc.collect()
        by_phase = phases(paths[-1], folder, bundle, device) if device == "cpu" and STATUS.exists() else {}
    print(json.dumps({"files": files, "phases": by_phase}))


@torch.no_grad()
def phases(path: str, folder: str, bundle: str, device: str) -> dict[str, int]:
    """Peak of the parts of ``segment``, in bytes above what the process held before the first of them."""
    overrides = {"dataset_dir": path, "output_dir": folder, **device_override(device)}
    workflow = inference_workflow(Path(bundle), ["segment.json"], overrides)
    workflow.parser.parse(True)
    names = ("network", "inferer", "dataset", "postprocessing")
    network, inferer, dataset, postprocessing = (workflow.parser.get_parsed_content(name) for name in names)
    gc.collect()  # engines of earlier files hold their images in cycles
    before, peaks = memory("VmRSS"), {}

    def measured(what: str, function: Callable[[], Any]) -> Any:
        reset_peak(device)
        result = function()
        peaks[what] = peak(device) - before
        return result

    item = measured("reading and preparing", lambda: dataset[0])
    logit = measured("windows", lambda: inferer(item["image"][None], VesselLogit(network.eval())))
    measured("mask and writing", lambda: postprocessing({**item, "pred": logit[0]}))
    return peaks


def reset_peak(device: str) -> None:
    """Forget the peak so far, where the system can."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    elif STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: str) -> int:
    """Peak memory in bytes: of the GPU, or of this process (since the reset on Linux, since its start elsewhere)."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    if STATUS.exists():
        return memory("VmHWM")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def memory(field: str) -> int:
    """Resident memory of this process in bytes: now (``VmRSS``), or its peak (``VmHWM``)."""
    return next(1024 * int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(field))


if __name__ == "__main__":
    main()
