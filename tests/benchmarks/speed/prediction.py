"""Child process: prints how many times as fast as diffusers' network ours predicts the noise, once more from the start.

Where a process's memory comes to lie moves this by several per cent, which no repetition within the process shows.
"""

import json
import statistics
import sys
from functools import partial

from .measure import interleaved
from .networks import DiffusersUNet, NoisePrediction, Variant, noise_batch, ours


def main() -> None:
    """``python -m tests.benchmarks.speed.prediction JSON``."""
    job = json.loads(sys.argv[1])
    batch = noise_batch(job["batch_size"], job["patch"], job["device"])
    variants = {
        "theirs": Variant(partial(DiffusersUNet, job["definition"])),
        "ours": Variant(ours(job["definition"]), **job["flags"]),
    }
    functions = {
        name: NoisePrediction(variant, batch=batch, device=job["device"]) for name, variant in variants.items()
    }
    times = interleaved(functions, job["repeats"], job["device"])
    print(statistics.median(theirs / own for theirs, own in zip(times["theirs"], times["ours"], strict=True)))


if __name__ == "__main__":
    main()
