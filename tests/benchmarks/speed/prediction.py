"""Child process: prints the seconds of noise predictions by one network, with nothing else in the process.

What else lies in a process's memory, and where, moves the ratio of two networks by several per cent, which no
repetition within the process shows.
"""

import json
import sys
from functools import partial

from .measure import interleaved
from .networks import DiffusersUNet, NoisePrediction, Variant, noise_batch, ours


def main() -> None:
    """``python -m tests.benchmarks.speed.prediction JSON``."""
    job = json.loads(sys.argv[1])
    batch = noise_batch(job["batch_size"], job["patch"], job["device"])
    network = ours(job["definition"]) if job["ours"] else partial(DiffusersUNet, job["definition"])
    function = NoisePrediction(Variant(network, **job["flags"]), batch=batch, device=job["device"])
    print(json.dumps(interleaved({"": function}, job["repeats"], job["device"])[""]))


if __name__ == "__main__":
    main()
