"""Retinal phantoms: small pictures drawn from a seed, to try and to test the package without patient data.

Two imaging domains see vessel trees of one biology, as in the problem the package solves:

===================  ==========================================  ==========================================
property             source: colour fundus photograph            target: en-face OCT angiogram
===================  ==========================================  ==========================================
polarity             vessels dark on an orange fundus            vessels bright on a dark ground
frame                round field of view, black surround         fills the frame
pixels per side      5/3 of the target's                         ``size``
labelled radius      0.7 to 2.9 px at 160 px                     0.7 to 2.2 px at 96 px
trees start from     the optic disc                              the border, running towards the fovea
background           illumination, disc, macula, lesions         capillary mesh, dark foveal avascular zone
noise                optical blur, additive sensor noise         multiplicative speckle, bright and dark lines
fine vessels         end at the limit of visibility              go on, visible, below the limit of the mask
===================  ==========================================  ==========================================

Vessel trees come from ``vessel_trees``: their depth map ``r - d`` is drawn as ``clip(depth + 1/2, 0, 1)``, which is
anti-aliased, and the mask is ``depth >= 0``. Thin branches are fainter than thick ones in both domains. Masks
hold large and medium vessels: a target branch that starts thinner than 0.85 px (at 96 px), and the capillary
mesh, are in the picture and not in the mask. The mesh is the zero-level set of band-passed Gaussian noise.

Phantoms show that a program works; they say nothing about patients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from monai_vessel_uda.data.vessel_trees import Branch, depth_map, grow_tree
from monai_vessel_uda.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Picture = NDArray[np.uint8]
    Mask = NDArray[np.bool_]

SOURCE_PIXELS_PER_TARGET_PIXEL = 5 / 3
"""A source phantom has this many times the pixels per side of a target phantom."""

MINIMUM_SIZE = 48
"""Below this many pixels per side a target phantom has no vessels that deserve the name."""


def _depths(tree: list[Branch], size: int, limit: float) -> tuple[Array, Array]:
    """Depth maps of the branches that start with a radius below ``limit``, and of the others."""
    fine = [branch for branch in tree if branch.radius[0] < limit]
    large = [branch for branch in tree if branch.radius[0] >= limit]
    return depth_map(fine, size), depth_map(large, size)


def _coverage(depth: Array) -> Array:
    """Anti-aliased drawing in [0, 1] of a depth map."""
    return np.clip(depth + 0.5, 0, 1)


def _field(rng: np.random.Generator, size: int, sigma: float) -> Array:
    """Smooth Gaussian noise of correlation length ``sigma`` pixels, mean 0 and standard deviation 1."""
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(rng.standard_normal((size, size)), sigma, mode="wrap")
    return (field - field.mean()) / field.std()


def _spot(size: int, centre: tuple[float, float], radius: float) -> Array:
    """A Gaussian blob of height 1; ``centre`` and ``radius`` in pixels."""
    rows, columns = np.mgrid[:size, :size]
    return np.exp(-((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2) / (2 * radius**2))


def fundus_phantom(rng: np.random.Generator, size: int = 160) -> tuple[Picture, Mask]:
    """Draw a source phantom: a colour fundus photograph with dark vessels, and its mask.

    Args:
        rng: source of all randomness.
        size: pixels per side.

    Returns:
        Picture uint8 (size, size, 3) and mask bool (size, size).
    """
    unit = size / 160
    middle = (size - 1) / 2
    view = np.hypot(*(np.mgrid[:size, :size] - middle))
    side = rng.choice([-1.0, 1.0])
    disc = (middle + rng.uniform(-8, 8) * unit, middle + side * rng.uniform(20, 42) * unit)
    macula = (disc[0] + rng.uniform(2, 8) * unit, disc[1] - side * 52 * unit)
    trees = _fundus_trees(rng, size, disc, side)

    vessels = np.zeros((size, size))
    depth = np.full((size, size), -np.inf)
    for tree in trees:
        fine, large = _depths(tree, size, 1.4 * unit)
        own = np.maximum(0.65 * _coverage(fine), _coverage(large))
        vessels = np.maximum(vessels, own * rng.uniform(0.75, 1.0))
        depth = np.maximum(depth, np.maximum(fine, large))
    picture = _paint_fundus(rng, size, vessels, disc, macula)
    inside = np.clip(0.48 * size - view + 0.5, 0, 1)
    picture = picture * inside[..., None] + rng.normal(0, 0.012, (size, size, 1))
    picture += rng.normal(0, 0.008, picture.shape)
    return _to_uint8(picture), (depth >= 0) & (inside > 0.5)


def _fundus_trees(rng: np.random.Generator, size: int, disc: tuple[float, float], side: float) -> list[list[Branch]]:
    """Arcades above and below the macula, and thinner vessels all around the disc."""
    unit, middle = size / 160, (size - 1) / 2
    away = 0.0 if side < 0 else np.pi
    arcades = [away + turn for turn in (-1.15, -0.85, 0.85, 1.15)]
    others = [away + np.pi + turn for turn in (-1.0, -0.3, 0.4, 1.1)] + [away + turn for turn in (-0.3, 0.35)]
    frame = np.hypot(*(np.mgrid[:size, :size] - middle)) < 0.5 * size
    trees = []
    for number, heading in enumerate(arcades + others):
        radius = rng.uniform(2.2, 2.9) if number < len(arcades) else rng.uniform(1.3, 1.8)
        heading += rng.normal(0, 0.12)
        start = (disc[0] + 3 * unit * np.sin(heading), disc[1] + 3 * unit * np.cos(heading))
        reach = (42 if number < len(arcades) else 34) * unit
        trees.append(grow_tree(rng, start, heading, radius * unit, finest=0.9 * unit, reach=reach, frame=frame))
    return trees


def _paint_fundus(
    rng: np.random.Generator,
    size: int,
    vessels: Array,
    disc: tuple[float, float],
    macula: tuple[float, float],
) -> Array:
    """Colours in [0, 1], (size, size, 3): illumination, disc, macula, lesions, then vessels, then blur."""
    from scipy.ndimage import gaussian_filter

    unit = size / 160
    centre = ((size - 1) / 2 + rng.uniform(-30, 30) * unit, (size - 1) / 2 + rng.uniform(-30, 30) * unit)
    light = 0.55 + 0.45 * _spot(size, centre, 70 * unit) + 0.03 * _field(rng, size, 6 * unit)
    light *= 1 - 0.35 * _spot(size, macula, 11 * unit)
    tint = np.array([0.80, 0.40, 0.18]) * rng.uniform(0.85, 1.15, 3)
    glow = np.clip(1.6 * _spot(size, disc, 8 * unit), 0, 1)[..., None]
    picture = light[..., None] * tint * (1 - glow) + glow * np.array([0.98, 0.82, 0.50])
    for colour in ([0.95, 0.85, 0.45], [0.35, 0.08, 0.04]):
        for _ in range(rng.integers(0, 4)):
            angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(10, 60) * unit
            place = (size / 2 + distance * np.sin(angle), size / 2 + distance * np.cos(angle))
            spot = np.clip(1.3 * _spot(size, place, rng.uniform(1.2, 3.0) * unit), 0, 0.75)[..., None]
            picture = picture * (1 - spot) + spot * np.array(colour) * light[..., None]
    picture = picture * (1 - vessels[..., None] * np.array([0.35, 0.55, 0.45]))
    return gaussian_filter(picture, (0.7 * unit, 0.7 * unit, 0))


def octa_phantom(rng: np.random.Generator, size: int = 96) -> tuple[Picture, Mask]:
    """Draw a target phantom: an en-face OCT angiogram with bright vessels, and its mask.

    Args:
        rng: source of all randomness.
        size: pixels per side.

    Returns:
        Picture uint8 (size, size) and mask bool (size, size); capillaries are in the picture alone.
    """
    from scipy.ndimage import gaussian_filter

    unit = size / 96
    fovea = ((size - 1) / 2 + rng.uniform(-8, 8) * unit, (size - 1) / 2 + rng.uniform(-8, 8) * unit)
    zone = rng.uniform(5.5, 8.0) * unit
    trees = _octa_trees(rng, size, fovea, zone)

    vessels = np.zeros((size, size))
    depth = np.full((size, size), -np.inf)
    for tree in trees:
        fine, large = _depths(tree, size, 0.85 * unit)
        own = np.maximum(0.55 * _coverage(fine), _coverage(large))
        vessels = np.maximum(vessels, own * rng.uniform(0.85, 1.0))
        depth = np.maximum(depth, large)
    vessels = gaussian_filter(vessels, 0.35 * unit)
    mesh = _capillaries(rng, size) * (1 - _spot(size, fovea, zone)) ** 2
    light = 1 + 0.15 * _field(rng, size, 16 * unit)
    flow = light * np.maximum(0.10 + 0.54 * mesh, 0.14 + 0.66 * vessels)
    flow *= rng.gamma(30, 1 / 30, (size, size))
    flow = gaussian_filter(flow, 0.35) + rng.normal(0, 0.02, (size, size))
    return _to_uint8(flow * _scan_lines(rng, size)), depth >= 0


def _octa_trees(rng: np.random.Generator, size: int, fovea: tuple[float, float], zone: float) -> list[list[Branch]]:
    """Two to four large vessels across the frame and thinner ones from its border towards the fovea."""
    unit = size / 96
    rows, columns = np.mgrid[:size, :size]
    frame = np.hypot(rows - fovea[0], columns - fovea[1]) > 1.5 * zone
    trees = []
    for number in range(int(rng.integers(2, 5))):
        from_left = rng.random() < 0.5
        row = rng.uniform(0.06, 0.3) * size
        start = (row if number % 2 else size - 1 - row, 0.0 if from_left else size - 1.0)
        heading = (0.0 if from_left else np.pi) + rng.normal(0, 0.15)
        radius = rng.uniform(1.7, 2.2) * unit
        trees.append(grow_tree(rng, start, heading, radius, finest=0.45 * unit, reach=40 * unit, frame=frame))
    for _ in range(int(rng.integers(3, 6))):
        start = _border_point(rng, size)
        heading = math.atan2(fovea[0] - start[0], fovea[1] - start[1]) + rng.normal(0, 0.35)
        radius = rng.uniform(1.1, 1.5) * unit
        trees.append(grow_tree(rng, start, heading, radius, finest=0.45 * unit, reach=24 * unit, frame=frame))
    return trees


def _border_point(rng: np.random.Generator, size: int) -> tuple[float, float]:
    """A random place on one of the four borders."""
    along, edge = rng.uniform(0, size), rng.choice([0.0, size - 1.0])
    return (along, edge) if rng.random() < 0.5 else (edge, along)


def _capillaries(rng: np.random.Generator, size: int) -> Array:
    """A fine mesh in [0, 1]: where band-passed noise crosses zero, denser in some places than in others."""
    unit = size / 96
    band = _field(rng, size, 1.4 * unit) - 0.8 * _field(rng, size, 2.8 * unit)
    mesh = np.exp(-((band / 0.5) ** 2))
    return mesh * np.clip(0.7 + 0.3 * _field(rng, size, 7 * unit), 0.1, 1)


def _scan_lines(rng: np.random.Generator, size: int) -> Array:
    """Gain of each row, shape (size, 1): a little jitter and a few bright or dark lines from eye motion."""
    gain = 1 + 0.03 * rng.standard_normal((size, 1))
    rows = rng.integers(0, size, int(rng.integers(1, 5)))
    gain[rows] *= rng.choice([0.65, 1.4], (len(rows), 1))
    return gain


def _to_uint8(picture: Array) -> Picture:
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def write_phantoms(
    folder: Path | str,
    *,
    seed: int = 0,
    source: int = 16,
    target: int = 24,
    evaluation: int = 8,
    supervised: int = 8,
    size: int = 96,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Path]:
    """Write a small two-domain data set; the same seed writes the same bytes.

    Args:
        folder: where the four data sets go; existing files of the same name are replaced.
        seed: any integer of at least 0; another seed gives other images in all four sets.
        source: number of colour fundus photographs with masks, in ``source/images|labels``.
        target: number of angiograms WITHOUT masks, in ``target/images``.
        evaluation: number of other angiograms with masks, for scores, in ``evaluation/images|labels``.
        supervised: number of yet other angiograms with masks, for the supervised upper bound alone.
        size: pixels per side of an angiogram, at least 48; photographs have 5/3 as many.
        progress: called as ``progress(written, total)`` after each image.

    Returns:
        The folder of each set, by name: source, target, evaluation, supervised. A set of 0 images has none.

    Raises:
        InputError: a negative count or seed, or ``size`` too small.
    """
    counts = {"source": source, "target": target, "evaluation": evaluation, "supervised": supervised}
    for name, value in {"seed": seed, **counts}.items():
        if value < 0:
            raise InputError(f"phantoms: {name} must be 0 or more, got {value}.")
    if size < MINIMUM_SIZE:
        raise InputError(f"phantoms: size must be at least {MINIMUM_SIZE} pixels, got {size}.")
    folders = {name: Path(folder) / name for name, count in counts.items() if count}
    written = 0
    for part, (name, count) in enumerate(counts.items()):
        for index in range(count):
            rng = np.random.default_rng([seed, part, index])
            _write_one(folders[name], f"{name}_{index:03d}.png", rng, size)
            written += 1
            if progress is not None:
                progress(written, sum(counts.values()))
    return folders


def _write_one(folder: Path, file: str, rng: np.random.Generator, size: int) -> None:
    """Draw and save one phantom of the set that ``folder`` is named after."""
    from PIL import Image

    if folder.name == "source":
        picture, mask = fundus_phantom(rng, round(size * SOURCE_PIXELS_PER_TARGET_PIXEL))
    else:
        picture, mask = octa_phantom(rng, size)
    parts = {"images": picture} if folder.name == "target" else {"images": picture, "labels": np.uint8(255) * mask}
    for part, array in parts.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / part / file)
