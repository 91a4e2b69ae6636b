"""Pictures that let a person see what a stage produced: overlays and contact sheets."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .errors import InputError
from .files import replacing

if TYPE_CHECKING:
    from PIL.Image import Image

Picture = NDArray[np.uint8]

VERMILLION, BLUE = (213, 94, 0), (0, 114, 178)
"""Colours of Okabe and Ito, which people with any colour vision can tell apart."""
MAX_BYTES = 200_000
"""A sheet of tiles is drawn smaller until its file is no larger than this."""


def to_rgb(array: ArrayLike | Tensor) -> Picture:
    """Any of our pictures as RGB.

    Args:
        array: shape (H, W), (1, H, W) or RGB (H, W, 3). A mask (bool, or nothing but 0 and 1) is drawn black and white,
            other tensors and floats are in [-1, 1]; an array of uint8 is taken as it is.

    Returns:
        uint8 (H, W, 3).

    Raises:
        InputError: another shape.
    """
    values = array.detach().cpu().float().numpy() if isinstance(array, Tensor) else np.asarray(array)
    if values.ndim == 3 and values.shape[0] == 1 and values.shape[2] != 3:
        values = values[0]
    if values.ndim != 2 and not (values.ndim == 3 and values.shape[2] == 3):
        raise InputError(f"picture: expected shape (H, W), (1, H, W) or (H, W, 3), received {values.shape}")
    if values.dtype != np.uint8:
        is_mask = values.dtype == bool or bool(np.isin(values, (0, 1)).all())
        scaled = values.astype(float) if is_mask else (values + 1) / 2
        values = np.rint(np.clip(np.nan_to_num(scaled), 0, 1) * 255).astype(np.uint8)
    return values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)


def overlay(
    image: ArrayLike, mask: ArrayLike, colour: tuple[int, int, int] = VERMILLION, opacity: float = 0.7
) -> Picture:
    """Tint an image where a mask is set.

    Args:
        image: as in :func:`to_rgb`.
        mask: (H, W) or (1, H, W); above 0.5 is set.
        colour: RGB of the tint.
        opacity: 0 shows the image alone, 1 the colour alone.

    Returns:
        uint8 (H, W, 3).

    Raises:
        InputError: image and mask differ in size.
    """
    picture, chosen = to_rgb(image), _mask(mask)
    if picture.shape[:2] != chosen.shape:
        raise InputError(f"overlay: the image has {picture.shape[:2]} pixels, the mask {chosen.shape}")
    picture = picture.copy()  # what was given stays as it is
    picture[chosen] = np.rint((1 - opacity) * picture[chosen] + opacity * np.asarray(colour))
    return picture


def save_contact_sheet(
    columns: Sequence[Sequence[ArrayLike | Tensor] | Tensor],
    path: str | Path,
    rows: int = 6,
    gap: int = 2,
    titles: Sequence[str] = (),
    tile: int | None = None,
) -> Path:
    """Draw pictures in a grid, grey unless one of them has colours.

    Args:
        columns: pictures as in :func:`to_rgb`, one above the other; a tensor of shape (patch, 1, height, width) is one.
        path: PNG file.
        rows: pictures of a column shown at most.
        gap: pixels between pictures.
        titles: a heading for each column.
        tile: longer side of each picture in pixels; halved, down to 32, while the file is larger than ``MAX_BYTES``.
            None leaves the pictures as they are.

    Returns:
        ``path``.

    Raises:
        InputError: nothing to draw, or another number of titles than columns.
    """
    count = min([rows, *map(len, columns)]) if columns else 0
    if count < 1:
        raise InputError("contact sheet: expected at least one picture in every column, got none")
    if titles and len(titles) != len(columns):
        raise InputError(f"contact sheet: expected a title for each of {len(columns)} columns, got {len(titles)}")
    pictures = [[to_rgb(column[row]) for column in columns] for row in range(count)]
    with replacing(path) as temporary:
        _sheet(pictures, titles, tile, gap).save(temporary, format="PNG", optimize=True)
        while tile is not None and temporary.stat().st_size > MAX_BYTES and tile >= 64:
            tile //= 2
            _sheet(pictures, titles, tile, gap).save(temporary, format="PNG", optimize=True)
    return Path(path)


def _mask(mask: ArrayLike) -> NDArray[np.bool_]:
    values = np.asarray(mask)
    if values.ndim == 3 and values.shape[0] == 1:
        values = values[0]
    return values > 0.5


def _sheet(pictures: Sequence[Sequence[Picture]], titles: Sequence[str], tile: int | None, gap: int) -> "Image":
    from PIL import Image, ImageDraw, ImageFont

    tiles = [[picture if tile is None else _thumbnail(picture, tile) for picture in row] for row in pictures]
    height, width = (max(picture.shape[axis] for row in tiles for picture in row) for axis in (0, 1))
    head = 16 if titles else 0
    shape = (head + len(tiles) * (height + gap) + gap, len(tiles[0]) * (width + gap) + gap, 3)
    sheet = np.full(shape, 255, np.uint8)
    sheet[head:] = 128  # neither vessel nor background of a mask
    for number, row in enumerate(tiles):
        for column, picture in enumerate(row):
            top, left = head + gap + number * (height + gap), gap + column * (width + gap)
            sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    image = Image.fromarray(sheet if (sheet != sheet[..., :1]).any() else sheet[..., 0])
    draw, font = ImageDraw.Draw(image), ImageFont.load_default()
    for column, title in enumerate(titles):
        draw.text((gap + column * (width + gap), 2), _fitting(title, width, font), fill="black", font=font)
    return image


def _fitting(text: str, width: int, font: Any) -> str:
    """As much of a text as fits in ``width`` pixels."""
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text


def _thumbnail(picture: Picture, tile: int) -> Picture:
    """Longer side = ``tile``; enlarged by repeating pixels where that comes out even, made smaller by averaging."""
    from PIL import Image

    factor = tile / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor)))
    enlarge = Image.Resampling.NEAREST if factor == int(factor) else Image.Resampling.BILINEAR
    method = enlarge if factor >= 1 else Image.Resampling.BOX
    return np.asarray(Image.fromarray(picture).resize(size, method))
