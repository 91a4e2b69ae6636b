"""Both trainings, alike in one process and in several: ``torchrun … trainings.py FOLDER train|defect|killed``."""

import itertools
import json
import os
import signal
import sys
from pathlib import Path

import ignite.distributed as idist
import torch
from ignite.engine import Events
from ignite.handlers import EMAHandler
from monai.losses import DiceCELoss
from monai.networks.nets import UNet

from monai_vessel_uda.data.patches import PatchDataset, RandSymmetryd
from monai_vessel_uda.diffusion import MaskConditionedUNet, NoiseSchedule
from monai_vessel_uda.engines import distributed
from monai_vessel_uda.engines.trainers import noise_trainer, segmentation_trainer
from monai_vessel_uda.losses import VesselWeightedNoiseLoss

COUNTS = {"iterations": 12, "iterations_per_epoch": 3, "batch_size": 4}


class Interrupted(Exception):
    """Instead of the end of a training."""


def patches():
    """Images of which some have many vessels, some few and some none, so that parts of a batch weigh differently."""
    generator = torch.Generator().manual_seed(0)
    images = []
    for share in (0.0, 0.02, 0.2, 0.6):
        mask = (torch.rand(1, 16, 16, generator=generator) < share).float()
        images.append({"image": 1.5 * mask - 0.8 + 0.1 * torch.randn(1, 16, 16, generator=generator), "label": mask})
    return PatchDataset(images, RandSymmetryd(["image", "label"]), 0)


def generator_training(folder):
    """Trainer of a small generator, and the networks that it trains."""
    torch.manual_seed(0)
    network = MaskConditionedUNet(
        channels=(8, 16), attention_levels=(False, False), num_res_blocks=1, num_head_channels=8, norm_num_groups=4
    )
    ema = EMAHandler(network, momentum=0.2)
    loss = VesselWeightedNoiseLoss(dilation=0)
    trainer = noise_trainer(
        network, patches(), ema, schedule=NoiseSchedule(), loss=loss, output_dir=folder, learning_rate=1e-3, **COUNTS
    )
    return trainer, {"network": network, "ema": ema.ema_model}


def segmenter_training(folder):
    """Trainer of a small segmenter, and the network that it trains."""
    torch.manual_seed(0)
    network = UNet(2, 1, 2, (4, 8), (2,), num_res_units=1)
    loss = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False)
    trainer = segmentation_trainer(network, patches(), loss=loss, output_dir=folder, **COUNTS)
    return trainer, {"network": network}


TRAININGS = {"generator": generator_training, "segmenter": segmenter_training}


def train(folder, interrupted=False):
    """Both trainings; leaves losses, weights, and which patches this process saw at each step, in ``folder``."""
    for name, make in TRAININGS.items():
        trainer, networks = make(Path(folder) / name)
        seen = []
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda engine, seen=seen: seen.append(engine.state.batch["seed"].tolist())
        )
        if interrupted:
            trainer.add_event_handler(Events.ITERATION_COMPLETED(once=8), stop)
        try:
            trainer.run()
        except Interrupted:
            continue
        (Path(folder) / name / f"seen_{idist.get_rank()}.json").write_text(json.dumps(seen))
        if idist.get_rank() == 0:
            torch.save({key: value.state_dict() for key, value in networks.items()}, Path(folder) / name / "weights.pt")


def stop(engine):
    """End a training in the middle of an epoch."""
    raise Interrupted


def fail_in_the_second(how):
    """Train until, in the middle, the second process fails while the first waits for it."""
    trainer, _ = generator_training(Path(sys.argv[1]))
    steps = itertools.count(1)

    def fail(engine):
        if next(steps) == 3 and idist.get_rank() == 1:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ZeroDivisionError("a defect in the second process")

    trainer.add_event_handler(Events.ITERATION_STARTED, fail)
    trainer.run()


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.start("cpu")
    what = sys.argv[2]
    if what == "train":
        root = Path(sys.argv[1])
        train(root / "two")
        train(root / "two_then_one", interrupted=True)
        train(root / "one_then_two")
    else:
        fail_in_the_second(what)
    distributed.finish()
