"""Child process: segments files one after the other; prints seconds and peak memory of each as JSON."""

import json
import sys
import tempfile
from pathlib import Path

import torch

from monai_vessel_uda.segmenter import segment

from .measure import seconds_of


def main() -> None:
    """``python -m tests.benchmarks.speed.peak_memory BUNDLE DEVICE FILE …``."""
    bundle, device, *paths = sys.argv[1:]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        segment(paths[0], folder, bundle, device=device)  # what is loaded once
        for path in paths:
            reset_peak(device)
            seconds = seconds_of(lambda path=path: segment(path, folder, bundle, device=device), 1, device)
            found.append({"seconds": seconds, "peak": peak(device)})
    print(json.dumps(found))


def reset_peak(device: str) -> None:
    """Forget the peak so far, where the system can."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: str) -> int:
    """Peak memory in bytes: of the GPU, or of this process (since the reset on Linux, since its start elsewhere)."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        return next(1024 * int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


if __name__ == "__main__":
    main()
