"""Child process, alone or one of several under torchrun: trains a generator; prints the median iteration's seconds."""

import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from statistics import median

import torch
from ignite.engine import Events

from monai_vessel_uda.engines import distributed

from .measure import Options
from .networks import ours
from .stages import generator_definition, generator_trainer


def main() -> None:
    """``python -m tests.benchmarks.speed.training PRESET DEVICE OVERRIDES STEPS``."""
    preset, device, overrides, steps = sys.argv[1:]
    options = Options(device, preset=preset, overrides=json.loads(overrides))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    several = "LOCAL_RANK" in os.environ
    where = distributed.local_device() if device.startswith("cuda") else torch.device("cpu")
    if several:
        distributed.start(where)
    torch.manual_seed(0)
    network = ours(generator_definition(options))().to(where)
    marks = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = generator_trainer(network, replace(options, device=str(where)), folder, int(steps))
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: marks.append(time.perf_counter()))
        trainer.run()
    if several:
        distributed.finish()
    if os.environ.get("RANK", "0") == "0":
        seconds = [end - start for start, end in zip(marks, marks[1:], strict=False)]
        print(json.dumps(median(seconds[len(seconds) // 4 :])), flush=True)


if __name__ == "__main__":
    main()
