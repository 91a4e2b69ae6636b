r"""Pairs :math:`(x^{A \to B}, y^A)` on disk: mined (sec. 2.2) or generated in a round (sec. 2.3), in shards.

A shard is a file of tensors, one batch of pairs; :class:`~monai_vessel_uda.data.patches.ShardedPairs` reads a folder of
them. Shards that exist are kept, so that an interrupted run continues, and several processes share them out.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import ignite.distributed as idist
import torch
from torch import Tensor, nn

from ..data.patches import PatchDataset
from ..errors import InputError
from ..files import load_tensors, save_json, save_tensors
from ..metrics.distributions import feature_distance, intensity_distances
from ..preview import save_contact_sheet
from ..progress import Progress
from .latent_mining import IntensityRange, LatentMining

Start = Literal["latents", "noise", "both"]
"""What the rounds generate from."""

MINED = {"source", "label", "latent", "image", "corrected"}
"""Tensors of a shard of mined pairs."""
DRAWS_FROM_LATENTS = 1 << 32
"""Added to the number of an image from a latent: the image from noise for the same mask has the number itself, and
with the ancestral decoder both would get the same noise."""


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
    bytes), ``corrected``, and ``timestep``, that of the latents.

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

    Raises:
        InputError: no pairs, or a generator that has diverged.
    """

    def shard(numbers: Sequence[int]) -> dict[str, Tensor]:
        patches = [source[number] for number in numbers]
        x_a, y_a = (torch.stack([patch[key] for patch in patches]).float().to(device) for key in ("image", "label"))
        latents = mining.latents(eps_a, x_a, y_a)
        image, corrected = intensity.correct(mining.decode(eps_b, latents, None, numbers))
        found = {"source": x_a, "label": y_a.byte(), "latent": latents, "image": image, "corrected": corrected}
        return {**found, "timestep": torch.tensor(mining.inverted_timesteps - 1)}

    _move_to(device, eps_a, eps_b)
    return write_shards(shard, output_dir, pairs, batch_size, label)


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
        pairs: how many from each start; one for each mask by default. More than there are masks are possible from
            noise alone: then the masks come again, each time with other noise.
        device: where to compute.
        label: name in progress lines.

    Returns:
        ``output_dir``.

    Raises:
        InputError: a start that :func:`check_start` refuses, more pairs than latents, no mined shards or not all of
            them, or a generator that has diverged.
    """
    check_start(start, mining)
    sources = _open_mined(Path(mined))
    batch_size = len(sources[0]["label"])
    available = sum(len(source["label"]) for source in sources)
    count = available if pairs is None else pairs
    if count < 1 or (start != "noise" and count > available):
        most = "or more" if start == "noise" else f"to {available}, the number of mined latents"
        raise InputError(f"round_pairs: expected 1 {most}, got {pairs}")

    def mined_tensors(numbers: Sequence[int], key: str) -> Tensor:
        places = (divmod(number % available, batch_size) for number in numbers)
        return torch.stack([sources[shard][key][place] for shard, place in places])

    def shard(numbers: Sequence[int], kind: str) -> dict[str, Tensor]:
        mask = mined_tensors(numbers, "label").float().to(device)
        draws = [round_number * max(count, available) + number for number in numbers]
        if kind == "latents":
            latents = mined_tensors(numbers, "latent").to(device)
            image = mining.decode(eps_b, latents, mask, [DRAWS_FROM_LATENTS + draw for draw in draws])
        else:
            flat = intensity.brightness(draws).view(-1, *[1] * (mask.ndim - 1))
            image = mining.from_noise(eps_b, mask, draws, flat)
        image, corrected = intensity.correct(image)
        return {"label": mask.byte(), "image": image, "corrected": corrected}

    _move_to(device, eps_b)
    kinds = {"latents": "", "noise": "noise_"} if start == "both" else {start: ""}
    for kind, prefix in kinds.items():
        write_shards(partial(shard, kind=kind), output_dir, count, batch_size, f"{label} from {kind}", prefix)
    return Path(output_dir)


def check_start(start: str, mining: LatentMining) -> None:
    """Refuse what no round can generate from.

    Raises:
        InputError: an unknown start, or latents beyond the timesteps that the generator is fine-tuned on.
    """
    if start not in get_args(Start):
        raise InputError(f"round_start: expected one of {', '.join(get_args(Start))}, got {start!r}")
    learnt, latents = mining.generation_timesteps, mining.inverted_timesteps
    if start != "noise" and learnt is not None and learnt < latents:
        raise InputError(f"generation_timesteps: expected at least {latents}, where the latents lie, got {learnt}")


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

    Raises:
        InputError: no mined shards, or not all of them.
    """
    shards = _open_mined(Path(pairs_dir))
    compared = shards[: math.ceil(count / len(shards[0]["image"]))]
    real = torch.stack([target[i]["image"] for i in range(count)])
    measures = {"corrected": float(torch.cat([shard["corrected"] for shard in shards]).float().mean())}
    for name, key in (("source", "source"), ("mined", "image")):
        images = torch.cat([shard[key] for shard in compared])[:count]
        measures[f"{name}_feature_distance"] = feature_distance(images, real)
        for distance, value in intensity_distances(images.numpy(), real.numpy()).items():
            measures[f"{name}_intensity_{distance}"] = value
    save_json(measures, path)
    return measures


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
        InputError: no pairs, or a shard of another process cannot be seen from here.
    """
    if pairs < 1 or batch_size < 1:
        raise InputError(f"{label}: expected at least 1 pair in batches of at least 1, got {pairs} and {batch_size}")
    output_dir = Path(output_dir)
    paths = _shard_paths(output_dir, math.ceil(pairs / batch_size), prefix)
    preview = output_dir.parent / f"{'_'.join(['preview', *prefix.split('_')]).rstrip('_')}.png"
    shards = list(zip(paths, _batches(pairs, batch_size), strict=True))
    own = shards[idist.get_rank() :: idist.get_world_size()]
    progress = Progress(label, sum(len(numbers) for _, numbers in own))
    for path, numbers in own:
        is_new = not path.exists()
        if is_new:
            save_tensors({key: value.cpu().contiguous() for key, value in shard(numbers).items()}, path)
        if path == paths[0] and (is_new or not preview.exists()):
            _save_preview(path, preview)
        progress.update(len(numbers))
    idist.barrier()
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise InputError(
            f"{missing[0]}: written by another process but not seen here; keep the workspace in a folder "
            "that all machines share"
        )
    return output_dir


def _open_mined(folder: Path) -> list[dict[str, Tensor]]:
    """All shards of mined pairs in their order, mapped into memory: only what is used is read.

    Raises:
        InputError: none, a damaged one, or a gap, after which a mask's place would no longer be its number.
    """
    found = set(folder.glob("*.pt"))
    if not found:
        raise InputError(f"{folder}: expected shards of mined pairs (*.pt), found none; run the mining first")
    paths = _shard_paths(folder, len(found))
    for path in paths:
        if path not in found:
            raise InputError(
                f"{path}: missing, though later shards of mined pairs are there; delete the mining's stage.json, "
                "if it was finished, and run it again: it adds what is missing"
            )
    shards = [load_tensors(path, mmap=True) for path in paths]
    for path, shard in zip(paths, shards, strict=True):
        if not isinstance(shard, dict) or not shard.keys() >= MINED:
            raise InputError(f"{path}: expected a shard of mined pairs, with {', '.join(sorted(MINED))}")
        size, expected = len(shard["label"]), len(shards[0]["label"])
        if size > expected or (size < expected and path != paths[-1]):
            raise InputError(f"{path}: expected {expected} pairs as in the first shard, got {size}; mine them anew")
    return shards


def check_mined(mined: str | Path, mining: LatentMining, start: Start) -> None:
    """Refuse to decode mined latents from another timestep than they were mined at, which their shards say.

    Args:
        mined: folder of the mined shards.
        mining: steps and t0 of the rounds.
        start: what the rounds generate from.

    Raises:
        InputError: no shards, a damaged one, or latents of another timestep.
    """
    asked = mining.inverted_timesteps - 1
    for shard in _open_mined(Path(mined)):
        found = int(shard.get("timestep", torch.tensor(asked)))
        if start != "noise" and found != asked:
            raise InputError(
                f"{mined}: these latents were mined at timestep {found}, and the rounds would decode them from "
                f"{asked}; give both stages the same t0 and steps"
            )


def _shard_paths(folder: Path, count: int, prefix: str = "") -> list[Path]:
    return [folder / f"{prefix}{index:05d}.pt" for index in range(count)]


def _save_preview(shard: Path, path: Path) -> None:
    content = load_tensors(shard, mmap=True)
    save_contact_sheet([content[key] for key in ("source", "label", "image") if key in content], path)


def _batches(count: int, size: int) -> Iterator[list[int]]:
    for first in range(0, count, size):
        yield list(range(first, min(first + size, count)))


def _move_to(device: torch.device | str, *networks: nn.Module) -> None:
    for network in networks:
        network.to(device).eval()
