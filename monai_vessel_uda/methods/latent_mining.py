r"""Latent similarity mining and iterative co-optimisation (arXiv:2604.01553).

==================  =============================================  =====================================
Equation, section    Here                                           Test
==================  =============================================  =====================================
eq. 1, 3             ``PrepareNoisePrediction`` (engines)           ``tests/engines/test_trainers.py``
eq. 2                ``diffusion.sample_ancestral``                 ``tests/diffusion/test_ddim.py``
eq. 4, 5, 6          ``diffusion.generate``, ``diffusion.invert``   ``tests/diffusion/test_ddim.py``
sec. 2.2             :meth:`LatentMining.latents`, ``.decode``      ``tests/methods/test_latent_mining.py``
sec. 2.3             :class:`CoOptimization`                        ``tests/methods/test_co_optimization.py``
==================  =============================================  =====================================

Symbols: :math:`x^A, y^A` source image and mask, :math:`x^B` target image, :math:`\epsilon^A, \epsilon^B` the
generators, :math:`S_k` the segmenter after round k, :math:`t_0` the number of inversion steps.

Where text and release differ: the release inverts with the implied clean image clamped (``clamp=True`` here) and
decodes with 300 ancestral steps (``decoder="ancestral", decoding_steps=300``); the default is the text's,
deterministic both ways and unclamped.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import ignite.distributed as idist
import torch
from torch import Tensor, nn

from ..data.patches import PatchDataset
from ..diffusion import (
    NoiseSchedule,
    generate,
    generation_pairs,
    inversion_pairs,
    invert,
    sample_ancestral,
    timestep_grid,
)
from ..diffusion.ddim import seeded_noise
from ..errors import InputError
from ..files import load_tensors, save_json, save_tensors
from ..metrics.distributions import feature_distance, intensity_distances
from ..preview import save_contact_sheet
from ..progress import Progress
from ..seeding import stable_seed

Start = Literal["latents", "noise", "both"]
"""What the rounds generate from."""


@dataclass(frozen=True)
class IntensityRange:
    """What brightness and contrast real target patches have: 1st to 99th percentile of patch mean and deviation.

    A generator that has not seen enough draws some patches far too bright or dark, because the lowest frequencies are
    the last that a diffusion model learns and survive the inversion (sec. 2.2). Such a patch teaches the segmenter
    nothing.
    """

    mean: tuple[float, float]
    deviation: tuple[float, float]

    @classmethod
    def of(cls, patches: Tensor) -> "IntensityRange":
        r"""Measure real patches of shape (patch, 1, \*spatial)."""
        levels = torch.tensor([0.01, 0.99])
        mean, deviation = (f(patches.flatten(1), dim=1).quantile(levels).tolist() for f in (torch.mean, torch.std))
        return cls(tuple(mean), tuple(deviation))

    @classmethod
    def of_dataset(cls, patches: PatchDataset, count: int) -> "IntensityRange":
        """Measure the first ``count`` patches of a dataset of real target patches."""
        return cls.of(torch.stack([patches[i]["image"] for i in range(count)]))

    def correct(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        r"""Bring patches that fall outside back to the nearest end of the range, by an affine map.

        Args:
            patches: generated patches, shape (patch, 1, \*spatial).

        Returns:
            The patches clamped to [-1, 1], and for each whether it had to be corrected.
        """
        shape = (-1, *[1] * (patches.ndim - 1))
        mean, deviation = patches.flatten(1).mean(1), patches.flatten(1).std(1)
        new_mean, new_deviation = mean.clamp(*self.mean), deviation.clamp(*self.deviation)
        gain = (new_deviation / deviation.clamp(min=1e-6)).view(shape)
        corrected = (patches - mean.view(shape)) * gain + new_mean.view(shape)
        return corrected.clamp(-1, 1), (new_mean != mean) | (new_deviation != deviation)


@dataclass(frozen=True)
class LatentMining:
    """Sec. 2.2: source images to target-looking images with known masks.

    Args:
        schedule: noise levels of both generators.
        steps: DDIM steps between clean image and noise (50).
        t0: steps of deterministic noising (15), fewer than ``steps``.
        spacing: of the timestep grid, see :func:`~monai_vessel_uda.diffusion.timestep_grid`.
        clamp: clamp the implied clean image while inverting.
        refinements: fixed-point iterations of each inversion step.
        decoder: ``ddim`` (eq. 4) or ``ancestral`` (eq. 2).
        decoding_steps: steps from the latent down to the clean image; t0 by default.
        generation_steps: steps from pure noise to the clean image, for rounds that start from noise.
        seed: of ancestral noise and of pure noise.

    Raises:
        InputError: t0 not below ``steps``, or an unknown decoder.
    """

    schedule: NoiseSchedule
    steps: int = 50
    t0: int = 15
    spacing: Literal["trailing", "leading"] = "trailing"
    clamp: bool = False
    refinements: int = 0
    decoder: Literal["ddim", "ancestral"] = "ddim"
    decoding_steps: int | None = None
    generation_steps: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.t0 < self.steps:
            raise InputError(f"t0: expected 1 to steps - 1 = {self.steps - 1}, got {self.t0}")
        if self.decoder not in ("ddim", "ancestral"):
            raise InputError(f"decoder: expected 'ddim' or 'ancestral', got {self.decoder!r}")

    def latents(self, eps_a: nn.Module, x_a: Tensor, y_a: Tensor) -> Tensor:
        r"""x^A_{t0}: t0 steps of eq. 6 under the mask, shapes (batch, 1, \*spatial)."""
        pairs = inversion_pairs(self._grid(), self.t0)
        return invert(_under(eps_a, y_a), x_a, self.schedule, pairs, self.clamp, self.refinements)

    def decode(self, eps_b: nn.Module, latents: Tensor, mask: Tensor | None, numbers: Sequence[int]) -> Tensor:
        r"""x^{A→B}: latents to target images.

        Args:
            eps_b: target generator.
            latents: shape (batch, 1, \*spatial), at step t0.
            mask: the source masks, or None for the unconditional generator of the first generation.
            numbers: the patches' numbers; ancestral noise depends on them, not on the batch.
        """
        start = self._grid()[self.t0] + 1
        pairs = generation_pairs(timestep_grid(start, self.decoding_steps or self.t0))
        return self._sample(eps_b, latents, mask, pairs, numbers, clamp=False)

    def from_noise(self, eps_b: nn.Module, mask: Tensor, numbers: Sequence[int]) -> Tensor:
        """Target images for masks, from pure noise that depends on the patches' numbers alone.

        The implied clean image is clamped: at the noisiest timesteps eq. 5 divides by nearly zero, and an error of the
        noise prediction would grow a hundredfold.
        """
        grid = timestep_grid(self.schedule.num_train_timesteps, self.generation_steps, self.spacing)
        noise = seeded_noise(mask, [_generator(self.seed, "start", number) for number in numbers])
        return self._sample(eps_b, noise, mask, generation_pairs(grid), numbers, clamp=True)

    def _sample(
        self,
        eps_b: nn.Module,
        x_t: Tensor,
        mask: Tensor | None,
        pairs: list[tuple[int, int]],
        numbers: Sequence[int],
        clamp: bool,
    ) -> Tensor:
        if self.decoder == "ddim":
            return generate(_under(eps_b, mask), x_t, self.schedule, pairs, clamp)
        generators = [_generator(self.seed, "ancestral", number) for number in numbers]
        return sample_ancestral(_under(eps_b, mask), x_t, self.schedule, pairs, generators, clamp)

    def _grid(self) -> list[int]:
        return timestep_grid(self.schedule.num_train_timesteps, self.steps, self.spacing)


def _under(network: nn.Module, mask: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
    return partial(network, mask=mask)


def _generator(*parts: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(stable_seed(*parts))


def mine_pairs(
    mining: LatentMining,
    eps_a: nn.Module,
    eps_b: nn.Module,
    source: PatchDataset,
    intensity: IntensityRange,
    *,
    output_dir: str | Path,
    pairs: int,
    batch_size: int,
    device: torch.device | str = "cpu",
    label: str = "mining",
) -> Path:
    r"""Mine pairs :math:`(x^{A→B}, y^A)` into a folder of shards, shared out between processes; finished ones are kept.

    Each shard holds ``source``, ``label``, ``latent``, ``image`` of shape (batch, 1, \*spatial) as floats (masks as
    bytes), and ``corrected``.

    Args:
        mining: steps, t0, decoder.
        eps_a: source generator (EMA weights).
        eps_b: target generator (EMA weights).
        source: patches with ``image`` and ``label``.
        intensity: range of real target patches.
        output_dir: folder of the shards.
        pairs: how many.
        batch_size: pairs in a shard; also the batch of the networks, so that a resumed run computes the same bits.
        device: where to compute.
        label: name in progress lines.

    Returns:
        ``output_dir``.
    """

    def shard(numbers: Sequence[int]) -> dict[str, Tensor]:
        patches = [source[number] for number in numbers]
        x_a, y_a = (torch.stack([patch[key] for patch in patches]).float().to(device) for key in ("image", "label"))
        latents = mining.latents(eps_a, x_a, y_a)
        image, corrected = intensity.correct(mining.decode(eps_b, latents, None, numbers))
        return {"source": x_a, "label": y_a.byte(), "latent": latents, "image": image, "corrected": corrected}

    _move_to(device, eps_a, eps_b)
    return write_shards(shard, output_dir, pairs, batch_size, label)


def measure_mined(pairs_dir: Path, target: PatchDataset, count: int, path: Path) -> dict[str, float]:
    """Distances to real target patches before and after mining (sec. 3.3), and how many patches were corrected.

    Args:
        pairs_dir: shards of mined pairs.
        target: real target patches.
        count: patches compared.
        path: JSON file to write.

    Returns:
        ``source_*`` and ``mined_*``: Euclidean and cosine distance of intensity histograms, feature distance;
        ``corrected``: share of patches whose brightness or contrast had left the target's range.
    """
    shards = [load_tensors(shard) for shard in sorted(Path(pairs_dir).glob("*.pt"))]
    real = torch.stack([target[i]["image"] for i in range(count)])
    measures = {"corrected": float(torch.cat([shard["corrected"] for shard in shards]).float().mean())}
    for name, key in (("source", "source"), ("mined", "image")):
        images = torch.cat([shard[key] for shard in shards])[:count]
        measures[f"{name}_feature_distance"] = feature_distance(images, real)
        for distance, value in intensity_distances(images.numpy(), real.numpy()).items():
            measures[f"{name}_intensity_{distance}"] = value
    save_json(measures, path)
    return measures


def save_samples(
    generator: nn.Module,
    schedule: NoiseSchedule,
    patches: PatchDataset,
    path: str | Path,
    *,
    count: int,
    steps: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> Path:
    """Picture of what a generator has learnt: real patch, its mask (if any), an image generated under that mask."""
    real = [patches[i] for i in range(count)]
    images = torch.stack([patch["image"] for patch in real])
    masks = torch.stack([patch["label"] for patch in real]) if "label" in real[0] else torch.zeros_like(images)
    sampler = LatentMining(schedule, steps=2, t0=1, generation_steps=steps, seed=seed)
    _move_to(device, generator)
    generated = sampler.from_noise(generator, masks.to(device), range(count))
    return save_contact_sheet([images, masks, generated], path, rows=count)


def regenerate_pairs(
    mining: LatentMining,
    eps_b: nn.Module,
    mined: Path,
    intensity: IntensityRange,
    *,
    start: Start,
    output_dir: str | Path,
    round_number: int,
    pairs: int | None = None,
    device: torch.device | str = "cpu",
    label: str = "generating",
) -> Path:
    """Sec. 2.3: images for the source masks from the fine-tuned generator, into shards like those that were mined.

    Args:
        mining: steps, decoder.
        eps_b: target generator of this round (EMA weights).
        mined: folder of the mined shards, whose masks (and latents) are used.
        intensity: range of real target patches.
        start: from the mined ``latents`` (t0 steps, not a whole chain), from pure ``noise`` (the release's way), or
            ``both``: first as many from latents as there are masks, then as many from noise.
        output_dir: folder of the shards.
        round_number: k; each round draws other noise.
        pairs: how many from each start; one for each mask by default.
        device: where to compute.
        label: name in progress lines.

    Returns:
        ``output_dir``.

    Raises:
        InputError: an unknown start.
    """
    if start not in get_args(Start):
        raise InputError(f"round_start: expected one of {', '.join(get_args(Start))}, got {start!r}")
    shards = sorted(mined.glob("*.pt"))
    sources = [torch.load(path, weights_only=True, mmap=True) for path in shards]
    batch_size = len(sources[0]["label"])
    available = sum(len(source["label"]) for source in sources)

    def shard(numbers: Sequence[int], start: str) -> dict[str, Tensor]:
        mined_shard = sources[numbers[0] // batch_size]
        mask = mined_shard["label"][: len(numbers)].float().to(device)
        noise_numbers = [round_number * available + number for number in numbers]
        if start == "latents":
            image = mining.decode(eps_b, mined_shard["latent"][: len(numbers)].to(device), mask, noise_numbers)
        else:
            image = mining.from_noise(eps_b, mask, noise_numbers)
        image, corrected = intensity.correct(image)
        return {"label": mask.byte(), "image": image, "corrected": corrected}

    _move_to(device, eps_b)
    count = min(pairs or available, available)
    if start == "both":
        write_shards(partial(shard, start="latents"), output_dir, count, batch_size, f"{label} from latents")
        return write_shards(
            partial(shard, start="noise"), output_dir, count, batch_size, f"{label} from noise", prefix="noise_"
        )
    return write_shards(partial(shard, start=start), output_dir, count, batch_size, label)


def write_shards(
    shard: Callable[[Sequence[int]], dict[str, Tensor]],
    output_dir: str | Path,
    pairs: int,
    batch_size: int,
    label: str,
    prefix: str = "",
) -> Path:
    """Write ``shard(numbers)`` for each batch of pair numbers, skipping shards that exist, with a preview picture.

    Several processes write every so many-th shard each, and go on when all are written.

    Raises:
        InputError: a shard of another process cannot be seen from here.
    """
    output_dir = Path(output_dir)
    paths = [output_dir / f"{prefix}{index:05d}.pt" for index in range(math.ceil(pairs / batch_size))]
    shards = list(zip(paths, _batches(pairs, batch_size), strict=True))
    own = shards[idist.get_rank() :: idist.get_world_size()]
    progress = Progress(label, sum(len(numbers) for _, numbers in own))
    for path, numbers in own:
        if not path.exists():
            content = {key: value.cpu().contiguous() for key, value in shard(numbers).items()}
            if path == paths[0]:
                columns = [content[key] for key in ("source", "label", "image") if key in content]
                save_contact_sheet(columns, output_dir.parent / f"{prefix}preview.png")
            save_tensors(content, path)
        progress.update(len(numbers))
    idist.barrier()
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise InputError(
            f"{missing[0]}: written by another process but not seen here; keep the workspace in a folder "
            "that all machines share"
        )
    return output_dir


def _batches(count: int, size: int) -> Iterator[list[int]]:
    for first in range(0, count, size):
        yield list(range(first, min(first + size, count)))


def _move_to(device: torch.device | str, *networks: nn.Module) -> None:
    for network in networks:
        network.to(device).eval()


def pseudo_masks(probabilities: Sequence[Tensor], threshold: float | None = 0.5) -> list[Tensor]:
    r"""Masks for the target images from the segmenter's probabilities.

    Args:
        probabilities: each of shape (1, \*spatial).
        threshold: from it on is vessel; None keeps the probabilities as soft masks.

    Returns:
        float32 masks, shapes of the probabilities.
    """
    if threshold is None:
        return [p.float() for p in probabilities]
    return [(p >= threshold).float() for p in probabilities]


def with_masks(items: Sequence[Mapping[str, Any]], masks: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Items whose ``label`` is the given mask; whatever label they had is not looked at."""
    return [{**item, "label": mask} for item, mask in zip(items, masks, strict=True)]
