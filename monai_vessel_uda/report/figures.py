"""Small PNG figures: overlays, contact sheets, score plots, loss curves.

Colours are those of Okabe and Ito, which people with any colour vision can tell apart.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..files import replacing
from .table import COLUMNS, Row, numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

Picture = NDArray[np.uint8]

SKY_BLUE, VERMILLION, YELLOW, BLUE = (86, 180, 233), (213, 94, 0), (240, 228, 66), (0, 114, 178)

AGREEMENT_COLOURS = {"true positive": SKY_BLUE, "false positive": VERMILLION, "false negative": YELLOW}
"""What the colours of :func:`compare` mean."""

MAX_BYTES = 200_000
"""A contact sheet is drawn smaller until its file is no larger than this."""


def to_rgb(array: ArrayLike) -> Picture:
    """Any of our pictures as RGB.

    Args:
        array: shape (H, W), (1, H, W) or RGB (H, W, 3); uint8 is taken as it is, a mask (bool, or nothing but
            0 and 1) is drawn black and white, other floats are in [-1, 1].

    Returns:
        uint8 (H, W, 3).

    Raises:
        InputError: another shape.
    """
    values = np.asarray(array)
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
    tinted = (1 - opacity) * picture + opacity * np.asarray(colour)
    return np.where(chosen[..., None], np.rint(tinted), picture).astype(np.uint8)


def compare(image: ArrayLike, prediction: ArrayLike, reference: ArrayLike, opacity: float = 0.7) -> Picture:
    """Tint true positives sky blue, false positives vermillion, false negatives yellow.

    Args:
        image: as in :func:`to_rgb`.
        prediction: mask (H, W) or (1, H, W); above 0.5 is vessel.
        reference: likewise.
        opacity: as in :func:`overlay`.

    Returns:
        uint8 (H, W, 3).

    Raises:
        InputError: sizes differ.
    """
    found, true = _mask(prediction), _mask(reference)
    if found.shape != true.shape:
        raise InputError(f"compare: the prediction has {found.shape} pixels, the reference {true.shape}")
    picture = to_rgb(image)
    for kind, colour in zip((found & true, found & ~true, ~found & true), AGREEMENT_COLOURS.values(), strict=True):
        picture = overlay(picture, kind, colour, opacity)
    return picture


def contact_sheet(
    rows: Sequence[Sequence[ArrayLike | None]],
    titles: Sequence[str],
    path: str | Path,
    *,
    row_titles: Sequence[str] = (),
    tile: int = 128,
    gap: int = 2,
) -> Path:
    """Draw pictures in a grid with a heading above each column; at most ``MAX_BYTES``.

    Args:
        rows: pictures as in :func:`to_rgb`; None leaves a place empty.
        titles: one heading per column.
        path: PNG file.
        row_titles: a caption for each row, drawn into its first tile's top left corner.
        tile: longer side of each picture in pixels; halved, down to 32, while the file is too large.
        gap: pixels between pictures.

    Returns:
        ``path``.

    Raises:
        InputError: no rows, or a row longer than ``titles``.
    """
    if not rows or any(len(row) > len(titles) for row in rows):
        raise InputError(f"contact sheet: expected rows of at most {len(titles)} pictures (one per title)")
    sheet = _sheet(rows, titles, row_titles, tile, gap)
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)
        while temporary.stat().st_size > MAX_BYTES and tile >= 64:
            tile //= 2
            _sheet(rows, titles, row_titles, tile, gap).save(temporary, format="PNG", optimize=True)
    return Path(path)


def _sheet(
    rows: Sequence[Sequence[ArrayLike | None]], titles: Sequence[str], row_titles: Sequence[str], tile: int, gap: int
) -> "Image":
    from PIL import Image, ImageDraw, ImageFont

    head, pitch = 16, tile + gap
    sheet = Image.new("RGB", (len(titles) * pitch + gap, head + len(rows) * pitch + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for column, title in enumerate(titles):
        draw.text((gap + column * pitch, 2), _fitting(title, tile, font), fill="black", font=font)
    for number, row in enumerate(rows):
        for column, picture in enumerate(row):
            if picture is not None:
                place = (gap + column * pitch, head + gap + number * pitch)
                sheet.paste(_thumbnail(to_rgb(picture), tile), place)
        if number < len(row_titles):
            place = (gap + 2, head + gap + number * pitch + 2)
            text = _fitting(row_titles[number], tile - 4, font)
            draw.rectangle(draw.textbbox(place, text, font=font), fill="black")
            draw.text(place, text, fill="white", font=font)
    return sheet


def _fitting(text: str, width: int, font: Any) -> str:
    """As much of a text as fits in ``width`` pixels."""
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text


def _thumbnail(picture: Picture, tile: int) -> "Image":
    """Longer side = ``tile``; enlarged by repeating pixels where that comes out even, made smaller by averaging."""
    from PIL import Image

    factor = tile / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor)))
    enlarge = Image.Resampling.NEAREST if factor == int(factor) else Image.Resampling.BILINEAR
    method = enlarge if factor >= 1 else Image.Resampling.BOX
    return Image.fromarray(picture).resize(size, method)


def score_plot(rows: Sequence[Row], path: str | Path, metric: str = "dice") -> Path:
    """Mean and 95 % interval of one metric, one line per score row; the exported segmenter is filled.

    Args:
        rows: score rows as in ``report.table``; those without the metric are named, and left empty.
        path: PNG file.
        metric: a key of ``report.table.COLUMNS``.

    Returns:
        ``path``.

    Raises:
        InputError: unknown metric.
    """
    from matplotlib.figure import Figure

    if metric not in COLUMNS:
        raise InputError(f"score plot: expected one of {', '.join(COLUMNS)}, received {metric!r}")
    heading, factor = COLUMNS[metric]
    figure = Figure(figsize=(6.4, 0.9 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    colour = np.array(BLUE) / 255
    for place, row in enumerate(rows):
        mean, low, high = numbers((row.get("scores") or {}).get(metric))
        if mean is None:
            continue
        mean, low, high = (factor * (mean if value is None else value) for value in (mean, low, high))
        axes.plot([low, high], [place, place], color=colour, linewidth=2)
        axes.plot(mean, place, "o", color=colour, markerfacecolor=colour if row.get("exported") else "white")
        axes.annotate(f"{mean:.1f}", (mean, place), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [str(row["name"]).replace("$", r"\$") for row in rows])
    axes.set_ylim(len(rows) - 0.3, -0.7)
    axes.set_xlabel(f"{heading}, mean and 95 % interval over images")
    if factor == 100:
        axes.set_xlim(0, 100)
    axes.grid(axis="x", alpha=0.3)
    return _save(figure, path)


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    path: str | Path,
    ylabel: str = "loss",
    xlabel: str = "iteration",
) -> Path:
    """Line plot, one panel per name: trainings differ in the scale of their losses.

    Args:
        series: name -> points (x, y).
        path: PNG file.
        ylabel: of every panel.
        xlabel: of every panel.

    Returns:
        ``path``.

    Raises:
        InputError: nothing to draw.
    """
    from matplotlib.figure import Figure

    if not series:
        raise InputError("curves: expected at least one series, received none")
    columns = min(3, len(series))
    lines = -(-len(series) // columns)
    figure = Figure(figsize=(2.9 * columns, 2.1 * lines), layout="constrained")
    panels = np.ravel(figure.subplots(lines, columns, squeeze=False))
    for axes, (name, points) in zip(panels, series.items(), strict=False):
        axes.plot(*zip(*points, strict=True), color=np.array(BLUE) / 255, marker="." if len(points) < 30 else "")
        axes.set_title(name.replace("$", r"\$"), fontsize=8)
        axes.set_xlabel(xlabel, fontsize=8)
        axes.set_ylabel(ylabel, fontsize=8)
        axes.tick_params(labelsize=7)
    for axes in panels[len(series) :]:
        axes.set_axis_off()
    return _save(figure, path)


def _save(figure: "Figure", path: str | Path) -> Path:
    """PNG without a version stamp, so that equal figures are equal files."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100, metadata={"Software": None})
    return Path(path)


def _mask(mask: ArrayLike) -> NDArray[np.bool_]:
    values = np.asarray(mask)
    if values.ndim == 3 and values.shape[0] == 1:
        values = values[0]
    return values > 0.5
