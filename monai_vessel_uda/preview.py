"""Contact sheets: a small grey PNG that lets a person see what a stage produced."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from .files import replacing


def save_contact_sheet(columns: Sequence[Tensor], path: str | Path, rows: int = 6, gap: int = 2) -> Path:
    r"""Tile patches: one column for each tensor, one row for each patch.

    Args:
        columns: each of shape (patch, 1, height, width); range [-1, 1], or {0, 1} for masks.
        path: PNG file.
        rows: patches shown at most.
        gap: pixels between tiles.

    Returns:
        ``path``.
    """
    from PIL import Image

    tiles = [[_grey(column[row, 0]) for column in columns] for row in range(min(rows, min(map(len, columns))))]
    padded = [[np.pad(tile, gap // 2, constant_values=128) for tile in row] for row in tiles]
    with replacing(path) as temporary:
        Image.fromarray(np.vstack([np.hstack(row) for row in padded])).save(temporary, format="PNG", optimize=True)
    return Path(path)


def _grey(patch: Tensor) -> np.ndarray:
    values = patch.detach().cpu().float().numpy()
    is_mask = bool(np.isin(values, (0, 1)).all())
    scaled = values if is_mask else (values + 1) / 2
    return (np.clip(scaled, 0, 1) * 255).round().astype(np.uint8)
