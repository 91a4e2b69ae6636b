"""Rounds over networks whose every training is known: a threshold as segmenter, an exact denoiser."""

from types import SimpleNamespace

import torch
from monai.transforms import Compose
from torch import nn

from monai_vessel_uda.data.patches import PatchDataset, RandPatchd, RandSymmetryd
from monai_vessel_uda.files import load_tensors
from monai_vessel_uda.methods.co_optimization import CoOptimization
from monai_vessel_uda.methods.latent_mining import LatentMining
from monai_vessel_uda.methods.pairs import mine_pairs
from monai_vessel_uda.weights import save_weights

from .generators import ANY, SCHEDULE, GaussianGenerator

RIGHT, NOISY, EMPTY = 0.0, -0.55, 5.0
"""Levels of a segmenter: between vessels and background of the target, within its background, above everything."""
UNTRAINED = 3.0
FINE_TUNED = 0.0625
"""What a fine-tuning adds to the generator's mean."""
AVERAGED = 0.5
"""Share of it that the moving average takes over."""
REFINEMENTS = (0.125, 0.25)
"""What the trainings of the rounds that most tests look at add to the segmenter's level."""
POISON = -7.0
"""What the target items have as labels; no step may see it."""
CONCLUSION = {"rounds.json", "weights.json", "weights.pt"}
"""Files beside the rounds' folders, which compare all rounds."""
MINING = LatentMining(SCHEDULE, steps=6, t0=2, generation_steps=3)


class Threshold(nn.Module):
    """Segmenter with the vessel probability sigmoid(2 · gain · (x − level))."""

    def __init__(self, level, gain=20.0):
        super().__init__()
        self.level, self.gain = nn.Parameter(torch.tensor(float(level))), gain

    def forward(self, x):
        logit = self.gain * (x - self.level)
        return torch.cat([-logit, logit], dim=1)


class Rounds:
    """A :class:`CoOptimization` in a folder, and a log of what its steps were given.

    Args:
        folder: of everything.
        candidates: levels of the segmenters to start from, by name.
        refinements: what each training adds to the level of the segmenter that it is given, in the order of rounds.
        gain: steepness of the segmenters.
        kind: of rounds.
        options: of :class:`CoOptimization`.
    """

    def __init__(self, folder, candidates=None, refinements=(0.0, 0.0), gain=20.0, kind=CoOptimization, **options):
        self.folder, self.log, self.told = folder, [], []
        self.refinements, self.options = refinements, options
        self.target, self.source = bars(3, 24, seed=0), bars(6, 16, seed=1)
        paths = {}
        for name, level in (candidates or {"right": RIGHT}).items():
            paths[name] = save_weights(Threshold(level), folder / "candidates" / f"{name}.pt")
        self.mined = mine_pairs(
            MINING,
            GaussianGenerator(-0.4),
            GaussianGenerator(-0.4),
            PatchDataset(self.source, RandSymmetryd(["image", "label"]), 0),
            ANY,
            output_dir=folder / "mined" / "pairs",
            pairs=5,
            batch_size=2,
        )
        generator = GaussianGenerator(nn.Parameter(torch.tensor(-0.5)), shift=0.8)
        generator.register_forward_hook(lambda network, inputs, output: self._note("generate", network.mean))
        flips = RandSymmetryd(["image", "label"], allow_missing_keys=True)
        self.rounds = kind(
            segmenter=Threshold(UNTRAINED, gain),
            generator=generator,
            candidates=paths,
            generator_weights=save_weights(generator, folder / "generator.pt"),
            mined=self.mined,
            target=[
                {"image": x["image"], "fov": x["fov"], "label": torch.full_like(x["label"], POISON)}
                for x in self.target
            ],
            inferer=self._infer,
            patch_transform=Compose([RandPatchd(["image", "label"], (16, 16), allow_missing_keys=True), flips]),
            pair_transform=flips,
            train_generator=self._train_generator,
            train_segmenter=self._train_segmenter,
            output_dir=folder / "rounds",
            description={"preprocessing": "none"},
            on_round=lambda k, measures, folder: self.told.append(k),
            **{"mining": MINING, "rounds": 2, "measured_patches": 4, **options},
        )

    def run(self):
        """Run all rounds; returns their summary."""
        return self.rounds.run()

    def of(self, step):
        """What the log has of one step, in its order."""
        return [details for name, details in self.log if name == step]

    def _note(self, step, parameter, **details):
        self.log.append((step, {"from": float(parameter.detach()), **details}))

    def _infer(self, inputs, network):
        self._note("segment", network.segmenter.level, side=inputs.shape[-1])
        return network(inputs)

    def _train_generator(self, *, network, dataset, ema, output_dir, label):
        def run():
            self._note("fine-tune", network.mean, average=ema.ema_model.mean.item(), patches=take(dataset), label=label)
            with torch.no_grad():
                network.mean += FINE_TUNED
                ema.ema_model.mean += AVERAGED * FINE_TUNED
            save_weights(network, output_dir / "checkpoint.pt")

        return SimpleNamespace(run=run)

    def _train_segmenter(self, *, network, dataset, output_dir, label):
        def run():
            k = int(output_dir.parent.name[-2:])
            self._note("refine", network.level, patches=take(dataset), label=label)
            with torch.no_grad():
                network.level += self.refinements[k - 1]
            save_weights(network, output_dir / "checkpoint.pt")

        return SimpleNamespace(run=run)


def take(dataset):
    return [dataset[i] for i in range(8)]


def bars(count, size, seed):
    """Bright crosses over noise, with masks."""
    generator = torch.Generator().manual_seed(seed)
    items = []
    for _ in range(count):
        mask = torch.zeros(1, size, size)
        place, across = (int(v) for v in torch.randint(2, size - 4, (2,), generator=generator))
        mask[:, place : place + 3] = 1
        mask[:, :, across : across + 3] = 1
        image = (-0.6 + 1.2 * mask + 0.1 * torch.randn(1, size, size, generator=generator)).clamp(-1, 1)
        items.append({"image": image, "label": mask, "fov": torch.ones_like(image)})
    return items


def level_of(path):
    return float(load_tensors(path)["level"])


def mean_of(path):
    return float(load_tensors(path)["mean"])


def modified(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
