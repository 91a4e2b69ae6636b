"""Vessel trees for the phantoms: tortuous, tapering, branching polylines and the map of how deep a pixel lies.

A *branch* is a polyline whose heading is a smooth random walk (tortuosity) and whose radius tapers linearly.
Side branches leave it at random places, and it ends in a fork whose radii follow Murray's law,
``r³ = r₁³ + r₂³``, so that an even fork has ``r₁ = 2^(-1/3) r``. A pixel at distance ``d`` from a centreline of
radius ``r`` has the depth ``r - d``; the depth map keeps the maximum over all branches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Mask = NDArray[np.bool_]

STEP = 0.5
"""Distance in pixels between two samples of a centreline; at the rim of a vessel the depth errs by < 0.05 px."""


@dataclass(frozen=True)
class Branch:
    """One vessel from fork to fork.

    Args:
        points: centreline in pixels, shape (n, 2), (row, column), ``STEP`` apart.
        radius: vessel radius in pixels at each point, shape (n,).
    """

    points: Array
    radius: Array


def grow_tree(
    rng: np.random.Generator,
    start: tuple[float, float],
    heading: float,
    radius: float,
    *,
    finest: float,
    reach: float,
    frame: Mask,
) -> list[Branch]:
    """Grow one vessel tree that does not cross itself.

    Args:
        rng: source of all randomness.
        start: (row, column) of the root in pixels.
        heading: direction of the root in radians; 0 points along +column, pi/2 along +row.
        radius: radius of the root in pixels.
        finest: no branch starts thinner than this, in pixels.
        reach: typical length in pixels of a branch that starts with ``radius``; it also sets the wavelength
            of the tortuosity.
        frame: where vessels may run, shape (size, size); a branch ends where it would leave it.

    Returns:
        The branches, parents before their children.
    """
    taken = np.zeros_like(frame)
    tree: list[Branch] = []
    pending = [(start, heading, radius)]
    while pending:
        begin, direction, thickness = pending.pop(0)
        count = int(reach * rng.uniform(0.7, 1.3) * (thickness / radius) ** 0.6 / STEP)
        headings = direction + _smooth_walk(rng, count, reach)
        steps = STEP * np.stack([np.sin(headings), np.cos(headings)], axis=1)
        points = np.asarray(begin) + np.cumsum(steps, axis=0)
        length = _free_length(points, frame, taken, clearance=5 * thickness)
        if length * STEP < 6 * thickness:
            continue
        radii = thickness * np.linspace(1, 0.8, count)
        tree.append(Branch(points[:length], radii[:length]))
        _occupy(points[:length], taken, margin=round(1.5 * thickness))
        children = _side_branches(rng, length, count) + (_fork(rng, length) if length == count else [])
        for at, turn, share in children:
            if radii[at] * share >= finest:
                pending.append((tuple(points[at]), headings[at] + turn, radii[at] * share))
    return tree


def depth_map(branches: list[Branch], size: int) -> Array:
    """How deep each pixel lies inside a vessel: ``max over samples of (r - d)``, in pixels.

    Args:
        branches: what to draw.
        size: pixels per side.

    Returns:
        Shape (size, size); at least 0 inside vessels, -inf farther than 1 px from all of them.
    """
    depth = np.full((size, size), -np.inf)
    if not branches:
        return depth
    points = np.concatenate([branch.points for branch in branches])
    radius = np.concatenate([branch.radius for branch in branches])
    pixels = np.rint(points).astype(int)[:, None, :] + _window(math.ceil(radius.max() + 1.5))
    value = radius[:, None] - np.sqrt(((pixels - points[:, None, :]) ** 2).sum(axis=-1))
    kept = ((pixels >= 0) & (pixels < size)).all(axis=-1) & (value > -1)
    np.maximum.at(depth, tuple(pixels[kept].T), value[kept])
    return depth


def _window(half: int) -> NDArray[np.int64]:
    """(row, column) offsets of a square window, shape ((2 half + 1)², 2)."""
    return np.indices((2 * half + 1, 2 * half + 1)).reshape(2, -1).T - half


def _free_length(points: Array, frame: Mask, taken: Mask, clearance: float) -> int:
    """Samples before the path leaves ``frame`` or meets its own tree, beside which its first pixels run."""
    pixels = np.rint(points).astype(int)
    inside = ((pixels >= 0) & (pixels < len(frame))).all(axis=1)
    at = tuple(np.clip(pixels, 0, len(frame) - 1).T)
    beside_parent = STEP * np.arange(len(points)) < clearance
    possible = inside & frame[at] & (~taken[at] | beside_parent)
    return len(points) if possible.all() else int(np.argmin(possible))


def _occupy(points: Array, taken: Mask, margin: int) -> None:
    """Mark what lies within ``margin`` pixels of the path, in place."""
    pixels = (np.rint(points[::2]).astype(int)[:, None, :] + _window(margin)).reshape(-1, 2)
    taken[tuple(np.clip(pixels, 0, len(taken) - 1).T)] = True


def _smooth_walk(rng: np.random.Generator, count: int, reach: float) -> Array:
    """Heading offsets in radians along a branch: a slow and a quick random sine wave, shifted to start at 0."""
    height = rng.uniform(0.1, [0.45, 0.25])
    wavelength = reach * rng.uniform([0.9, 0.3], [2.2, 0.75])
    phase = rng.uniform(0, 2 * np.pi, 2)
    along = STEP * np.arange(count)[:, None]
    waves = height * np.sin(2 * np.pi * along / wavelength + phase)
    return (waves - waves[:1]).sum(axis=1)


def _side_branches(rng: np.random.Generator, length: int, count: int) -> list[tuple[int, float, float]]:
    """(sample, turn in radians, share of the parent's radius) of each side branch; about three per branch."""
    places = np.cumsum(rng.uniform(0.5, 1.5, size=8) * count / 3)
    side = rng.choice([-1.0, 1.0])
    found = []
    for place in places[places < length - 2]:
        found.append((int(place), side * rng.uniform(0.6, 1.2), rng.uniform(0.5, 0.75)))
        side = -side if rng.random() < 0.7 else side
    return found


def _fork(rng: np.random.Generator, length: int) -> list[tuple[int, float, float]]:
    """The two children at the end of a branch; their radii follow Murray's law for a random flow ratio."""
    flow = rng.uniform(0.35, 0.65)
    left, right = flow ** (1 / 3), (1 - flow) ** (1 / 3)
    return [(length - 1, -rng.uniform(0.25, 0.7), left), (length - 1, rng.uniform(0.25, 0.7), right)]
