"""The report: one self-contained HTML page that says what an adaptation did and how well it went.

It reads what the stages left in the workspace and runs nothing; what is missing is reported as not run yet. The outcome
comes first, in plain words and one picture; what only a reader who checks the run needs is folded away at the end.

=======================================================  ====================================================
file in the workspace                                    becomes
=======================================================  ====================================================
``manifest.json``, ``settings.json``                     counts; at the end, how the images were prepared
``scores.json``: ``{"rows": [...], "conditions": {}}``   score table and plot
``stages/co_optimization/preview_example.png``           the picture at the top
``stages/co_optimization/rounds.json``                   what was exported; label-free measures of each round
``stages/**/preview*.png``, ``stages/**/samples*.png``   pictures of the stages
``stages/**/*.csv`` with columns iteration, loss         loss curves
=======================================================  ====================================================
"""

import base64
import csv
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import load_json, replacing
from . import wording
from .figures import curves, score_plot
from .table import table_cells

NOT_SHOWN = ("path", "paths", "hash", "hashes", "sha256", "files", "quantiles")
"""Manifest keys too long for a page; they stay in ``manifest.json``."""

EXAMPLE = "co_optimization/preview_example.png"
"""The one picture at the top, below ``stages``."""


def write_report(workspace: str | Path) -> Path:
    """Write ``report.html`` into a workspace.

    Args:
        workspace: folder of one adaptation.

    Returns:
        The page; it needs no other file and no network.

    Raises:
        InputError: the workspace is no folder, not that of an adaptation, or one of its JSON files is broken.
    """
    import jinja2

    workspace = Path(workspace)
    if not workspace.is_dir():
        raise InputError(f"{workspace}: expected the folder of a workspace; run the pipeline first")
    if not any((workspace / name).exists() for name in ("manifest.json", "stages", "scores.json")):
        within = [path.parent.name for path in sorted(workspace.glob("*/manifest.json"))]
        advice = f"; did you mean {' or '.join(within[:3])} in it?" if within else ""
        raise InputError(f"{workspace}: no workspace: it has neither manifest.json nor stages{advice}")
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
        ``name``, ``version``, ``summary`` and ``doubts`` (sentences), ``example`` (a data URI, as all pictures),
        ``scores``, ``rounds``, ``pictures`` [(file, caption, data URI)], ``losses``, ``provenance`` (sentences),
        ``details`` [(heading, [(what, value)])].
    """
    from .. import __version__

    stages = workspace / "stages"
    manifest = _optional_json(workspace / "manifest.json")
    scores = _optional_json(workspace / "scores.json")
    rounds = _optional_json(stages / "co_optimization" / "rounds.json")
    example = stages / EXAMPLE
    return {
        "name": workspace.resolve().name,
        "version": __version__,
        "summary": wording.summary(manifest, rounds, _threshold(workspace), scores.get("rows", [])),
        "doubts": wording.doubts(rounds),
        "example": _embedded(example) if example.exists() else "",
        "scores": _scores(scores.get("rows", [])),
        "rounds": _rounds(rounds) if rounds else {},
        "pictures": _pictures(stages),
        "losses": _losses(stages),
        "provenance": wording.provenance(manifest) if manifest else [],
        "details": _details(manifest, _optional_json(workspace / "settings.json"), scores.get("conditions", {})),
    }


def _threshold(workspace: Path) -> float | None:
    """From which probability on the exported segmenter marks a vessel: its bundle's number, else its weights' own."""
    config = _optional_json(workspace / "vessel_segmentation" / "configs" / "inference.json")
    description = _optional_json(workspace / "stages" / "co_optimization" / "weights.json")
    given = config.get("threshold")
    threshold: float | None = given if isinstance(given, int | float) else description.get("threshold")
    return threshold


def _scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not rows:
        return {}
    headings, cells = table_cells(rows)
    exported = [bool(row.get("exported")) for row in rows]
    return {
        "headings": headings,
        "rows": list(zip(exported, cells, strict=True)),
        "plot": _drawn(lambda path: score_plot(rows, path)),
    }


def _rounds(content: Mapping[str, Any]) -> dict[str, Any]:
    """Why the rounds started where they did, and the measures by which one of them was chosen."""
    records, started_from = content["rounds"], content["started_from"]
    candidates, scores = records[0].get("candidates", {}), records[0].get("scores", {})
    # best first: the order of the file is that of the alphabet
    names = sorted(candidates, key=lambda name: scores.get(name) or 0, reverse=True)
    numbers = [record["round"] for record in records]
    return {
        "table": _measure_table(
            [(f"round {k}" if k else "start", "exported" if k == content["exported_round"] else "") for k in numbers],
            [_with_score(record["measures"], record.get("score")) for record in records],
        ),
        "start": wording.start(content),
        "candidates": _measure_table(
            [(name, "start" if name == started_from else "") for name in names],
            [_with_score(candidates[name], scores.get(name)) for name in names],
        ),
        "about_candidates": wording.candidates(names),
        "warnings": wording.warnings(records),
        "plot": _round_curves(records),
    }


def _with_score(measures: Mapping[str, Any], score: float | None) -> dict[str, Any]:
    return {"label-free score": score, **measures}


def _measure_table(columns: Sequence[tuple[str, str]], measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One line for each measure, since there are more of them than rounds; columns are (heading, mark if chosen)."""
    found = dict.fromkeys(name for measures in measured for name in measures)
    names = sorted(found, key=lambda name: list(wording.MEASURES).index(name) if name in wording.MEASURES else math.inf)
    lines = [
        (wording.measure_name(name), wording.measure_meaning(name), [wording.as_text(m.get(name)) for m in measured])
        for name in names
    ]
    return {"columns": columns, "lines": lines}


def _round_curves(records: Sequence[Mapping[str, Any]]) -> str:
    """Measures that have a better side, over the rounds; those with fewer than two rounds make no curve."""
    series = {}
    for name, (_, better) in wording.MEASURES.items():
        points = [(record["round"], record["measures"].get(name)) for record in records]
        points = [(k, value) for k, value in points if value is not None]
        if better and len(points) > 1:
            series[f"{wording.measure_name(name)} ({better} is better)"] = points
    return _drawn(lambda path: curves(series, path, ylabel="", xlabel="round")) if series else ""


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


def _pictures(stages: Path) -> list[tuple[str, str, str]]:
    names = [file.relative_to(stages).as_posix() for file in _found(stages, "preview*.png", "samples*.png")]
    return [(name, wording.caption(name), _embedded(stages / name)) for name in names if name != EXAMPLE]


def _details(
    manifest: Mapping[str, Any], settings: Mapping[str, Any], conditions: Mapping[str, Any]
) -> list[tuple[str, list[tuple[str, str]]]]:
    """What is folded away, as (heading, lines)."""
    changed = settings.get("settings", {})
    leave_out = ("settings",) if conditions.get("settings") == changed else ()  # said once is enough
    folded = {
        "Manifest and preprocessing": list(wording.facts(manifest, NOT_SHOWN)),
        f"Settings in effect, preset “{settings.get('preset')}”": list(wording.facts(changed)),
        "Conditions of the evaluation": list(wording.facts(conditions, leave_out)),
    }
    return [(heading, lines) for heading, lines in folded.items() if lines]


def _found(stages: Path, *patterns: str) -> list[Path]:
    """Files of the stages in the order of the work, without what a killed run left half-written in a hidden folder."""
    files = {file.relative_to(stages) for pattern in patterns for file in stages.rglob(pattern)}
    whole = (file for file in files if not any(part[0] == "." for part in file.parts))
    # the alphabet is the order of the stages but for the last of them
    return [stages / file for file in sorted(whole, key=lambda file: (file.parts[0] == "co_optimization", file))]


def _drawn(draw: Callable[[Path], Path]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return _embedded(draw(Path(folder) / "figure.png"))


def _embedded(file: Path) -> str:
    """A PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode("ascii")


def _optional_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = load_json(path) if path.exists() else {}
    return content
