"""Every segmenter of an adaptation against the evaluation masks.

The only step that reads these masks, after all choices are made.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from . import __version__
from .deployment.exported_bundle import record_scores
from .files import load_json, replacing, save_json, sha256
from .segmenter import evaluate
from .training_sets import BASELINES, TRAINING_SETS


def score(workspace: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Score every trained segmenter; write ``scores.json``, ``.csv`` and ``.md``, and note them in the exported bundle.

    Args:
        workspace: folder of an adaptation that is exported.
        settings: those of the adaptation; its seed and device are used.

    Returns:
        ``rows``, one for each segmenter with its mean scores and, but for the exported one, how much more that has, and
        the ``conditions`` that they were obtained under.

    Raises:
        InputError: the evaluation images have changed since they were prepared.
    """
    from .data.manifest import load_manifest, verify_files
    from .metrics.segmentation import paired_difference
    from .report.table import score_csv, score_table

    manifest = load_manifest(workspace / "manifest.json")
    verify_files(manifest, ["evaluation"])
    rounds = load_json(workspace / "stages" / "co_optimization" / "rounds.json")
    segmenters = trained_segmenters(workspace, len(rounds["rounds"]) - 1)
    found = {name: _evaluated(workspace, name, weights, settings) for name, weights in segmenters}
    number, start = rounds["exported_round"], rounds["started_from"]
    exported = f"round {number}" if number else TRAINING_SETS[start].shown_as
    patients = [(item["dataset"], item["group"]) for item in manifest["evaluation"]]
    best = _per_image(found[exported])
    rows: list[dict[str, Any]] = []
    for name, result in found.items():
        rows.append({"name": name, "scores": result["summary"], "exported": name == exported})
        if name != exported:
            difference = paired_difference(best, _per_image(result), settings["seed"], groups=patients)
            rows[-1]["exported_minus"] = difference
    conditions = {
        "seed": settings["seed"],
        "started_from": start,
        "exported_round": number,
        "version": __version__,
        "settings": dict(settings),
    }
    scores = {"rows": rows, "conditions": conditions}
    save_json(scores, workspace / "scores.json")
    record_scores(workspace / "vessel_segmentation", found[exported]["summary"], len(best))
    for suffix, text in ((".md", score_table(rows)), (".csv", score_csv(rows))):
        with replacing(workspace / f"scores{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8")
    return scores


def trained_segmenters(workspace: Path, rounds: int) -> Iterator[tuple[str, Path]]:
    """Name and weights of every segmenter that was trained, in the order of the table."""
    folder = workspace / "stages"
    places = {TRAINING_SETS[name].shown_as: folder / "segmenters" / name for name in (*BASELINES, "mined")}
    for k in range(1, rounds + 1):
        places[f"round {k}"] = folder / "co_optimization" / f"round_{k:02d}" / "segmenter"
    places[TRAINING_SETS["supervised"].shown_as] = folder / "segmenters" / "supervised"
    for name, place in places.items():
        if (place / "weights.pt").exists():
            yield name, place / "weights.pt"


def _evaluated(workspace: Path, name: str, weights: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Scores of one segmenter on the evaluation images, kept beside its weights and taken from there if still true."""
    output = weights.parent / "evaluation.json"
    threshold = load_json(weights.with_suffix(".json")).get("threshold", 0.5)
    scored = {"weights_sha256": sha256(weights), "threshold": threshold, "version": __version__}
    if not output.exists() or not scored.items() <= load_json(output).items():
        shared = {name: settings[name] for name in ("seed", "device") if name in settings}
        overrides = {"ckpt_path": str(weights), "threshold": threshold, "progress": f"evaluating {name}", **shared}
        bundle, manifest = workspace / "vessel_segmentation", workspace / "manifest.json"
        save_json({**evaluate(bundle, None, output, manifest=manifest, overrides=overrides), **scored}, output)
    result: dict[str, Any] = load_json(output)
    return result


def _per_image(result: Mapping[str, Any]) -> list[dict[str, float]]:
    """Scores of each image as they were before JSON, which has no NaN."""
    undefined = float("nan")
    return [
        {name: undefined if value is None else value for name, value in image["scores"].items()}
        for image in result["per_image"]
    ]
