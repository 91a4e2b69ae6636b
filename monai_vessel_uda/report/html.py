"""The report: one self-contained HTML page that says what an adaptation did and how well it went.

It reads what the stages left in the workspace and runs nothing; what is missing is reported as not run yet.

=======================================================  ====================================================
file in the workspace                                    becomes
=======================================================  ====================================================
``manifest.json``                                        what was done: counts, polarity, scales, grey, seed
``scores.json``: ``{"rows": [...], "conditions": {}}``   score table and plot
``stages/co_optimization/rounds.json``                   label-free measures of each round
``stages/**/preview*.png``, ``stages/**/samples*.png``   previews
``stages/**/*.csv`` with columns iteration, loss         loss curves
=======================================================  ====================================================
"""

import base64
import csv
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import load_json, replacing
from .figures import curves, score_plot
from .table import table_cells

NOT_SHOWN = ("path", "paths", "hash", "hashes", "sha256", "files", "quantiles")
"""Manifest keys too long for a page; they stay in ``manifest.json``."""


def write_report(workspace: str | Path) -> Path:
    """Write ``report.html`` into a workspace.

    Args:
        workspace: folder of one adaptation.

    Returns:
        The page; it needs no other file and no network.

    Raises:
        InputError: the workspace is no folder, or one of its JSON files is broken.
    """
    import jinja2

    workspace = Path(workspace)
    if not workspace.is_dir():
        raise InputError(f"{workspace}: expected the folder of a workspace; run the pipeline first")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("template.html").render(**gather(workspace))
    with replacing(workspace / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return workspace / "report.html"


def gather(workspace: Path) -> dict[str, Any]:
    """Everything that the template shows; empty where a stage has not run.

    Args:
        workspace: folder of one adaptation.

    Returns:
        ``name``, ``version``, ``facts`` [(what, value)], ``scores``, ``rounds``, ``losses`` (a data URI),
        ``previews`` {stage: [(file, data URI)]}.
    """
    from .. import __version__

    manifest = _optional_json(workspace / "manifest.json")
    return {
        "name": workspace.resolve().name,
        "version": __version__,
        "facts": list(manifest_facts(manifest)) if manifest else [],
        "scores": _scores(_optional_json(workspace / "scores.json")),
        "rounds": _rounds(_optional_json(workspace / "stages" / "co_optimization" / "rounds.json")),
        "losses": _losses(workspace / "stages"),
        "previews": _previews(workspace / "stages"),
    }


def manifest_facts(content: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """A manifest as (name, value) lines: nested names are joined, lists of items are counted.

    Args:
        content: the manifest, or a part of it.
        prefix: name of that part.

    Example:
        >>> list(manifest_facts({"seed": 0, "lists": {"source": [{"id": "a"}, {"id": "b"}]}}))
        [('seed', '0'), ('lists: source', '2 items')]
    """
    if isinstance(content, Mapping):
        for key, value in content.items():
            if key not in NOT_SHOWN:
                yield from manifest_facts(value, f"{prefix}: {key}" if prefix else str(key))
    elif isinstance(content, list) and any(isinstance(value, Mapping | list) for value in content):
        yield prefix.replace("_", " "), f"{len(content)} item{'s' if len(content) != 1 else ''}"
    elif isinstance(content, list) and len(content) > 12:
        yield prefix.replace("_", " "), f"{len(content)} values"
    else:
        yield prefix.replace("_", " "), _text(content)


def _text(value: Any) -> str:
    """A JSON value in plain words."""
    if value == []:
        return "none"
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(_text(part) for part in value) if isinstance(value, list) else str(value)


def _scores(content: Any) -> dict[str, Any]:
    if not content or not content.get("rows"):
        return {}
    headings, cells = table_cells(content["rows"])
    exported = [bool(row.get("exported")) for row in content["rows"]]
    return {
        "headings": headings,
        "rows": list(zip(exported, cells, strict=True)),
        "conditions": list(manifest_facts(content.get("conditions") or {})),
        "plot": _drawn(lambda path: score_plot(content["rows"], path)),
    }


def _rounds(content: Any) -> dict[str, Any]:
    """Table of label-free measures; the file holds a list of rounds, or a mapping with ``rounds``."""
    records = content.get("rounds", []) if isinstance(content, Mapping) else content
    if not records:
        return {}
    names = list(dict.fromkeys(name for record in records for name in record["measures"]))
    rows = [
        (bool(record.get("chosen")), [str(record["round"]), *(_text(record["measures"].get(name)) for name in names)])
        for record in records
    ]
    return {"headings": ["Round", *(name.replace("_", " ") for name in names)], "rows": rows}


def _losses(stages: Path) -> str:
    series = {}
    for file in _found(stages, "*.csv"):
        with open(file, newline="") as lines:
            reader = csv.DictReader(lines)
            if {"iteration", "loss"} <= set(reader.fieldnames or ()):
                points = [(float(row["iteration"]), float(row["loss"])) for row in reader]
                if points:
                    series[file.parent.relative_to(stages).as_posix()] = points
    return _drawn(lambda path: curves(series, path)) if series else ""


def _previews(stages: Path) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for file in _found(stages, "preview*.png", "samples*.png"):
        name = file.relative_to(stages)
        found.setdefault(name.parts[0], []).append((name.as_posix(), _embedded(file)))
    return found


def _found(stages: Path, *patterns: str) -> list[Path]:
    """Files of the stages, without what a killed run left half-written in a hidden folder."""
    files = {file for pattern in patterns for file in stages.rglob(pattern)}
    return sorted(file for file in files if not any(part[0] == "." for part in file.relative_to(stages).parts))


def _drawn(draw: Any) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return _embedded(draw(Path(folder) / "figure.png"))


def _embedded(file: Path) -> str:
    """A PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode("ascii")


def _optional_json(path: Path) -> Any:
    return load_json(path) if path.exists() else None
