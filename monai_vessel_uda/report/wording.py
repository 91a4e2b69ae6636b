"""What the report says in plain words, made from what the stages left in the workspace."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..training_sets import TRAINING_SETS
from .table import MISSING, Row, score_texts

MEASURES = {
    "label-free score": ("weighted share of the comparisons with the other columns that it wins", "higher"),
    "threshold": ("from this probability on a pixel is vessel", ""),
    "mask_prior_distance": ("do the marked vessels look like those of the source masks?", "lower"),
    "boundary_contrast": ("do outlines lie on the edges of the target images?", "higher"),
    "faithfulness": ("are the vessels found again that an image was generated from?", "higher"),
    "feature_distance": ("do generated images look like real ones?", "lower"),
    "consistency": ("do flipped views give the same vessels?", "higher"),
    "uncertain_band_px": ("how wide is the doubt along outlines?", "lower"),
    "vessel_fraction": ("how much of the images is vessel?", ""),
    "prediction_entropy": ("how undecided are the probabilities?", ""),
    "intensity_cosine": ("do generated images have the brightness of real ones? 0 where they do", ""),
    "intensity_euclidean": ("likewise, another distance", ""),
}
"""Label-free measures in their order on the page: what each asks, and which side is better (none: for reading)."""

CAPTIONS = (
    (
        r"ddpm_source/samples\.png",
        "Source generator: real patch, its mask, a patch denoised under it (from noise, or the noised real patch).",
    ),
    (
        r"ddpm_target/samples\.png",
        "Target generator: real patch, no mask, a patch denoised from noise (or from a noised flat image).",
    ),
    (r"latent_mining/preview\.png", "Mined pairs: source patch, its mask, the patch redrawn in the target's look."),
    (r"co_optimization/round_(\d+)/preview\.png", "Round {}: source mask, the target-like patch generated for it."),
    (
        r"co_optimization/round_(\d+)/preview_noise\.png",
        "Round {}: source mask, the target-like patch generated for it from noise.",
    ),
    (
        r"co_optimization/round_(\d+)/preview_pseudo_masks\.png",
        "Round {}: target image, the vessels marked in it before the round.",
    ),
)
"""Pattern of a picture's file, and its columns from left to right; groups of the pattern are numbers."""


HARDLY_SEEN = 0.3
"""Faithfulness below which generated images do not show the masks that they were made for."""


def summary(
    manifest: Mapping[str, Any], rounds: Mapping[str, Any], threshold: float | None, rows: Sequence[Row]
) -> list[str]:
    """The outcome in a few sentences; a stage that has not run leaves its sentence out or says so.

    Args:
        manifest: of the workspace, or empty.
        rounds: ``rounds.json``, or empty.
        threshold: of the exported segmenter, if known.
        rows: score rows as in ``report.table``.
    """
    sentences = []
    if manifest:
        source, target = (_counted(len(manifest[name]), f"{name} image") for name in ("source", "target"))
        learnt = f"A vessel segmenter for the target images {'was' if rounds else 'is being'} learnt"
        sentences.append(f"{learnt} from {source} with vessel masks and {target} without any.")
    if not rounds:
        return [*sentences, "No segmenter has been exported yet."]
    sentences.append(_exported(rounds, threshold))
    sentences.append(_scored(rows) or "It was not scored against masks.")
    return sentences


def start(rounds: Mapping[str, Any]) -> str:
    """From which segmenter the rounds started, and why.

    Args:
        rounds: ``rounds.json``.
    """
    name, scores = rounds["started_from"], rounds["rounds"][0].get("scores", {})
    if len(scores) < 2:
        return f"The rounds started from the segmenter “{name}”; there was no other candidate."
    why = f"of {len(scores)} candidates it has the best label-free score, {as_text(scores[name])}"
    return f"The rounds started from the segmenter “{name}”: {why}."


def candidates(names: Sequence[str]) -> str:
    """What the candidates for the start are.

    Args:
        names: of the candidates.

    Example:
        >>> candidates(["mined", "my_own"])
        'The candidates: mined (trained on the first generated pairs), my_own.'
    """
    explained = (
        f"{name} (trained on {TRAINING_SETS[name].images})" if name in TRAINING_SETS else name for name in names
    )
    return f"The candidates: {', '.join(explained)}."


def warnings(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence for each round that made things worse, and for each whose images do not show their masks.

    Args:
        records: of the rounds.
    """
    worse = [record["round"] for record in records if record.get("worse_than_before")]
    seen = {record["round"]: record["measures"].get("faithfulness") for record in records}
    unseen = [k for k, faithfulness in seen.items() if faithfulness is not None and faithfulness < HARDLY_SEEN]
    return [
        *(f"Round {k} made the label-free measures worse than they were before it." for k in worse),
        *(f"In round {k} the masks are hardly found in the images generated for them." for k in unseen),
    ]


def doubts(rounds: Mapping[str, Any]) -> list[str]:
    """Why the exported segmenter may be no good: what whoever has no masks would not notice.

    Args:
        rounds: ``rounds.json``, or empty.

    Example:
        >>> rounds = {"exported_round": 1, "rounds": [{"round": 1, "measures": {"boundary_contrast": 0.2}}]}
        >>> doubts(rounds)
        []
    """
    number = rounds.get("exported_round")
    exported: Mapping[str, Any] = next((r for r in rounds.get("rounds", ()) if r["round"] == number), {})
    measures, sentences = exported.get("measures", {}), []
    contrast, faithfulness = measures.get("boundary_contrast"), measures.get("faithfulness")
    if contrast is not None and contrast <= 0:
        sentences.append(
            "The adaptation has probably failed: the outlines of the exported segmenter's masks lie no better on the "
            f"edges of the target images than an empty mask would (boundary contrast {as_text(contrast)}; an empty "
            "mask has 0). Look at its masks before you use any. Are the target's vessels bright in the pictures below, "
            "and as wide as the source's? If not, prepare anew with --target-polarity or --source-scale."
        )
    if faithfulness is not None and faithfulness < HARDLY_SEEN:
        sentences.append(
            f"In round {number}, which is exported, the masks are hardly found in the images generated for "
            f"them (faithfulness {as_text(faithfulness)}), so that the segmenter has learnt from images that do not "
            "show their vessels. Look at this round's pictures below; if they do not, train the generator for longer "
            "(--set round_iterations=…) or let it start from a less noisy timestep (--set generation_timesteps=…)."
        )
    return sentences


def provenance(manifest: Mapping[str, Any]) -> list[str]:
    """How both domains were brought into one space, in short.

    Args:
        manifest: of the workspace.
    """
    record = manifest["preprocessing"]
    source, target = record["source"], record["target"]
    scales = (
        f"{name} {as_text(entry['scale'])} ({entry['scale_by']})" for name, entry in sorted(source["datasets"].items())
    )
    flatten = record["flatten"]
    background = f"flattened (sigma {as_text(flatten['sigma'])} px)" if flatten["enabled"] else "kept"
    return [
        f"Source: {_look(source)}.",
        f"Target: {_look(target)}.",
        f"Scale, in working pixels for one native pixel: {', '.join(scales)}; target {as_text(target['scale'])}.",
        f"Source background: {background}. Source intensities: "
        + ("matched to the target's." if record["match"]["enabled"] else "kept."),
    ]


def caption(name: str) -> str:
    """One line for a picture; the file's name where nothing is known of it.

    Args:
        name: path of the picture below ``stages``.

    Example:
        >>> caption("co_optimization/round_02/preview.png")
        'Round 2: source mask, the target-like patch generated for it.'
    """
    for pattern, text in CAPTIONS:
        if match := re.fullmatch(pattern, name):
            return text.format(*map(int, match.groups()))
    return name


def measure_name(name: str) -> str:
    """A measure's name for a heading.

    Example:
        >>> measure_name("mask_prior_distance")
        'mask prior distance'
    """
    return name.replace("_", " ")


def measure_meaning(name: str) -> str:
    """What a measure asks, and which side is better.

    Example:
        >>> measure_meaning("consistency")
        'do flipped views give the same vessels? higher is better'
    """
    question, better = MEASURES.get(name, ("", ""))
    return f"{question} {better} is better" if better else question


def as_text(value: Any) -> str:
    """A JSON value in plain words; four digits of a number.

    Example:
        >>> as_text([True, 0.123456, None])
        'yes, 0.1235, –'
    """
    if value == []:
        return "none"
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(as_text(part) for part in value) if isinstance(value, list) else str(value)


def facts(content: Any, leave_out: Sequence[str] = (), prefix: str = "") -> Iterator[tuple[str, str]]:
    """JSON as (name, value) lines: nested names are joined, lists of items are counted.

    Args:
        content: a manifest, or a part of it.
        leave_out: keys without a line, wherever they stand.
        prefix: name of that part.

    Example:
        >>> list(facts({"seed": 0, "lists": {"source": [{"id": "a"}, {"id": "b"}]}}))
        [('seed', '0'), ('lists: source', '2 items')]
    """
    if isinstance(content, Mapping):
        for key, value in content.items():
            if key not in leave_out:
                yield from facts(value, leave_out, f"{prefix}: {key}" if prefix else str(key))
    elif isinstance(content, list) and any(isinstance(value, Mapping | list) for value in content):
        yield prefix, _counted(len(content), "item")
    elif isinstance(content, list) and len(content) > 12:
        yield prefix, _counted(len(content), "value")
    else:
        yield prefix, as_text(content)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def _exported(rounds: Mapping[str, Any], threshold: float | None) -> str:
    last, exported = rounds["rounds"][-1]["round"], rounds["exported_round"]
    by = "judged by measures that need no target mask"
    which = (
        f"round {exported} of {last}, the best one {by}"
        if exported
        else f"the segmenter that the rounds started from, “{rounds['started_from']}”: no round was better, {by}"
    )
    cut = f"; it marks a vessel where its probability is at least {as_text(threshold)}" if threshold is not None else ""
    return f"Exported is {which}{cut}."


def _scored(rows: Sequence[Row]) -> str:
    """Dice of the exported segmenter, set against what it must beat and what it cannot; empty if it has none."""
    dice = {row["name"]: (row.get("scores") or {}).get("dice") for row in rows}
    scored = {name: score for name, score in dice.items() if score and score.get("mean") is not None}
    exported = next((row["name"] for row in rows if row.get("exported")), None)
    if exported not in scored:
        return ""
    number = scored[exported].get("n")
    over = f" over {_counted(number, 'evaluation image')}" if number else ""
    value = _percent(scored[exported])
    text = f"Its mean Dice{over}{', with the 95 % interval,' if '[' in value else ''} is {value}"
    negated = TRAINING_SETS["negated"]
    others = {
        negated.shown_as: f"the baseline “{negated.shown_as}” (trained on {negated.images})",
        TRAINING_SETS["supervised"].shown_as: "the upper bound (trained with target masks)",
    }
    against = [f"{_percent(scored[name])} for {others[name]}" for name in others if name in scored]
    text += f", against {' and '.join(against)}." if against else "."
    differences = {row["name"]: row["exported_minus"].get("dice") for row in rows if row.get("exported_minus")}
    points = {name: _points(differences[name]) for name in others if name in differences}
    parts = [f"{shown} against {others[name].split(' (')[0]}" for name, shown in points.items()]
    return f"{text} Image by image that is {' and '.join(parts)}." if parts else text


def _points(difference: Mapping[str, Any] | None) -> str:
    """A signed difference of Dice in points, with its interval."""
    mean, interval = score_texts(difference, 100)
    return f"{'' if mean.startswith('-') else '+'}{mean} points {interval}".strip()


def _percent(score: Mapping[str, Any]) -> str:
    mean, interval = score_texts(score, 100)
    return f"{mean} % {interval}".strip()


def _look(domain: Mapping[str, Any]) -> str:
    grey = f"grey values: {domain['grey']} ({domain['grey_by']})"
    agreement = domain.get("polarity_evidence", {}).get("agreement")
    agreed = "" if agreement is None else f"; {agreement:.0%} of the images agree".replace("%", " %")
    return f"{domain['polarity']} vessels ({domain['polarity_by']}{agreed}), {grey}"
