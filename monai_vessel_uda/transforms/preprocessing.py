"""How two domains are brought into one space: estimated once without target masks, recorded, and repeated exactly.

:func:`estimate_preprocessing` looks at some images of each domain and returns a JSON-able record; the chains that
training, mining and inference run are built from the record alone.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeGuard, get_args

import numpy as np
import torch
from monai.transforms import EnsureTyped, SelectItemsd
from numpy.typing import NDArray

from monai_vessel_uda.errors import InputError
from monai_vessel_uda.transforms.calibre import check_calibre, matching_scale
from monai_vessel_uda.transforms.dictionary import (
    FieldOfViewd,
    FlattenBackgroundd,
    GreyConversiond,
    LoadRetinalImaged,
    MatchQuantilesd,
    ResizeToWorkingResolutiond,
    RetinalCompose,
    ScaleIntensityInFieldOfViewd,
    VesselPolarityd,
)
from monai_vessel_uda.transforms.field_of_view import field_of_view_diameter
from monai_vessel_uda.transforms.histogram import quantiles
from monai_vessel_uda.transforms.polarity import LEAST_AGREEMENT
from monai_vessel_uda.transforms.survey import (
    CALIBRE_IMAGES,
    Glance,
    Survey,
    decide_grey,
    decide_polarity,
    measure_datasets,
    sample,
    survey,
)
from monai_vessel_uda.transforms.vesselness import ridge_scale

logger = logging.getLogger("monai_vessel_uda")

Variant = Literal["raw", "negated", "matched", "aligned"]
Progress = Callable[[float, str], None]

PERCENTILES = (0.5, 99.5)
#: The flattening window in vessel calibres: wide enough to leave wide vessels alone.
FLATTEN_CALIBRES = 4.0
_OUTPUT_KEYS = ("image", "label", "fov", "id", "domain", "dataset", "file")


def estimate_preprocessing(
    source: Sequence[Mapping[str, Any]],
    target: Sequence[Mapping[str, Any]],
    *,
    grey: str | Mapping[str, str] = "auto",
    source_polarity: str = "auto",
    target_polarity: str = "auto",
    target_scale: float = 1.0,
    source_scale: float | str | Mapping[str, float] = "auto",
    flatten: bool = True,
    match: bool = True,
    max_images: int = 24,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Decide grey conversion, polarity, working resolution and intensity matching of both domains.

    Target masks are never read, even if an item names one. The same items, options and seed give the same record.

    Args:
        source: items with ``image``, ``label``, ``id``, ``dataset``.
        target: items with ``image``, ``id``, ``dataset``.
        grey: "auto", or "luma", "green", "red", "blue"; for both domains or ``{"source": ..., "target": ...}``.
        source_polarity: "auto" (from the masks), "bright" or "dark".
        target_polarity: "auto" (from vesselness), "bright" or "dark".
        target_scale: resize factor of the target; its result is the working resolution of everything.
        source_scale: "auto" (source masks as wide as the target's ridges), "vesselness" (source ridges as wide as the
            target's ridges), "nominal" (fields of view of equal size; calibres are not matched), one factor, or one of
            these per dataset.
        flatten: flatten the background of the aligned source.
        match: give the matched and aligned source the target's intensity distribution.
        max_images: number of images looked at per domain, shared evenly among its datasets.
        seed: of their choice.
        progress: called with the share done, 0 to 1, and what is being looked at.

    Returns:
        The record; see ``docs/dataflow.md``. Scales are resize factors from native to working pixels.

    Raises:
        InputError: for unusable options or files, or where no vessel is found.
    """
    _check_options(grey, source_polarity, target_polarity, target_scale, max_images)
    _check_scale_names(source_scale, source)
    report = progress or (lambda share, what: None)
    chosen = {"source": sample(source, max_images, seed), "target": sample(target, max_images, seed)}
    total = sum(len(items) for items in chosen.values())
    done = 0

    def looked_at(name: str) -> None:
        nonlocal done
        done += 1
        report(0.9 * done / total, name)

    looks = {
        "source": survey(chosen["source"], with_masks=True, looked_at=looked_at),
        "target": survey(chosen["target"], with_masks=False, looked_at=looked_at),
    }
    asked = {"source": source_polarity, "target": target_polarity}
    record: dict[str, Any] = {"version": 1, "seed": seed, "max_images": max_images}
    for domain, look in looks.items():
        record[domain] = _domain_record(look, _asked_grey(grey, domain), asked[domain])
        _warn_of_doubt(domain, record[domain])
    record["flatten"], record["match"] = {"enabled": bool(flatten)}, {"enabled": bool(match)}
    _set_target(record, chosen["target"], target_scale)
    _set_source_scales(record, looks["source"], source_scale, report)
    report(1.0, "preprocessing estimated")
    return record


def source_transforms(record: Mapping[str, Any], variant: Variant = "aligned") -> RetinalCompose:
    """The chain from a source item (paths) to ``image``, ``label`` and ``fov`` at the working resolution.

    ======== ================================================================ ==============
    variant  image                                                            scale
    ======== ================================================================ ==============
    raw      grey, scaled to [-1, 1], in its own polarity                     nominal
    negated  the same with bright vessels                                     nominal
    matched  negated, with the target's intensity distribution                nominal
    aligned  bright vessels, flattened, the target's intensity distribution   equal calibre
    ======== ================================================================ ==============

    Args:
        record: of :func:`estimate_preprocessing`.
        variant: see above. Matching and flattening are left out where the record disables them.

    Returns:
        Chain whose items hold plain tensors (1, H, W), float32 (``fov``: uint8), and strings; nothing in it is random.

    Raises:
        InputError: if the variant is unknown.
    """
    if variant not in get_args(Variant):
        raise InputError(f"variant: expected one of {', '.join(get_args(Variant))}, received {variant!r}")
    source = record["source"]
    key = "scale" if variant == "aligned" else "nominal_scale"
    scale = {name: entry[key] for name, entry in source["datasets"].items()}
    steps = _common_steps(source, scale, masks=("label", "fov"))
    return RetinalCompose([*steps, *_appearance_steps(record, variant), *_closing_steps()])


def target_transforms(record: Mapping[str, Any], with_label: bool = False) -> RetinalCompose:
    """The chain from a target item to bright-vesselled ``image`` and ``fov``: what inference repeats on new images.

    Args:
        record: of :func:`estimate_preprocessing`.
        with_label: read and resize ``label`` too (the evaluator's business alone).

    Returns:
        Chain as in :func:`source_transforms`.
    """
    target = record["target"]
    steps = _common_steps(target, target["scale"], masks=("label", "fov") if with_label else ("fov",))
    return RetinalCompose([*steps, VesselPolarityd("image", target["polarity"]), *_closing_steps(with_label)])


def _common_steps(domain: Mapping[str, Any], scale: float | Mapping[str, float], masks: Sequence[str]) -> list[Any]:
    """Load, find the retina, make grey, resize, scale: the field of view needs colour, and small is quick."""
    return [
        LoadRetinalImaged(masks),
        FieldOfViewd(detect=domain["field_of_view"]),
        GreyConversiond("image", domain["grey"]),
        ResizeToWorkingResolutiond(scale),
        ScaleIntensityInFieldOfViewd("image", *domain["percentiles"]),
    ]


def _appearance_steps(record: Mapping[str, Any], variant: Variant) -> list[Any]:
    """What makes a source image look like the target, after scaling to [-1, 1]."""
    steps: list[Any] = []
    if variant != "raw":
        steps.append(VesselPolarityd("image", record["source"]["polarity"]))
    if variant == "aligned" and record["flatten"]["enabled"]:
        steps.append(FlattenBackgroundd("image", record["flatten"]["sigma"]))
    if variant in ("matched", "aligned") and record["match"]["enabled"]:
        steps.append(MatchQuantilesd("image", record["match"]["quantiles"]))
    return steps


def _closing_steps(with_label: bool = True) -> list[Any]:
    keys = [key for key in _OUTPUT_KEYS if with_label or key != "label"]
    return [
        SelectItemsd(keys, allow_missing_keys=True),
        EnsureTyped(["image", "label"], dtype=torch.float32, track_meta=False, allow_missing_keys=True),
        EnsureTyped("fov", dtype=torch.uint8, track_meta=False),  # a quarter of the memory, in caches too
    ]


def _domain_record(look: Survey, grey: str, polarity: str) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    entry["grey"], entry["grey_by"], entry["grey_evidence"] = decide_grey(look, grey)
    entry["polarity"], entry["polarity_by"], entry["polarity_evidence"] = decide_polarity(look, entry["grey"], polarity)
    entry["field_of_view"] = bool(np.mean([~glance.fov.all() for glance in look]) >= 0.5)
    entry["percentiles"] = list(PERCENTILES)
    entry["datasets"] = measure_datasets(look, entry["grey"], entry["polarity"])
    return entry


def _warn_of_doubt(domain: str, entry: Mapping[str, Any]) -> None:
    """Warn where images contradict each other on the polarity: the wrong one ruins everything after it."""
    agreement = entry["polarity_evidence"].get("agreement", 1.0)
    if agreement < LEAST_AGREEMENT:
        logger.warning(
            "%s: vessels were taken for %s, but only %.0f %% of the images looked at say so; look at them, and state "
            "it by --%s-polarity bright or dark",
            domain,
            entry["polarity"],
            100 * agreement,
            domain,
        )


def _set_target(record: dict[str, Any], items: Sequence[Mapping[str, Any]], scale: float) -> None:
    """Fill in the target's scale, and what its images measure after their chain: calibre, side and quantiles."""
    target = record["target"]
    target["scale"] = float(scale)
    chain = target_transforms(record)
    outputs = [chain(dict(item)) for item in items]
    target["working_side"] = float(np.median([field_of_view_diameter(_inside(out)) for out in outputs]))
    target["working_calibre"] = check_calibre("target", _calibre(outputs))
    record["flatten"]["sigma"] = round(FLATTEN_CALIBRES * target["working_calibre"], 3)
    pooled = quantiles([out["image"][0].numpy() for out in outputs], [_inside(out) for out in outputs])
    record["match"]["quantiles"] = [round(float(q), 6) for q in pooled]


def _set_source_scales(
    record: dict[str, Any], look: Survey, asked: float | str | Mapping[str, float], report: Progress
) -> None:
    """Fill in ``scale`` and ``nominal_scale`` per dataset, and what its vessels measure at ``scale``."""
    source, target = record["source"], record["target"]
    for name, entry in source["datasets"].items():
        report(0.95, f"{name}: scale")
        glances = [glance for glance in look if glance.dataset == name][:CALIBRE_IMAGES]
        entry["nominal_scale"] = target["working_side"] / entry["fov_diameter"]

        def read(factor: float, glances: Survey = glances) -> float:
            # the same steps as in training, on the small copies: what the segmenter sees is what is measured
            return _calibre([_look(record, glance, factor / glance.factor) for glance in glances])

        given = asked.get(name) if isinstance(asked, Mapping) else asked
        if given == "auto":
            # a mask marks the whole visible vessel, so its width is what must equal the ridges seen in the target
            factor = check_calibre("target", target["working_calibre"]) / check_calibre(name, entry["calibre_mask"])
            reading, entry["scale_by"] = read(factor), "by masks"
        elif given == "vesselness":
            first = target["working_calibre"] / check_calibre(f"dataset {name}", entry["calibre_vesselness"])
            factor, reading = matching_scale(read, target["working_calibre"], first)
            entry["scale_by"] = "by vesselness"
        elif given == "nominal":
            factor, entry["scale_by"] = entry["nominal_scale"], "by field of view"
            reading = read(factor)
        elif _is_factor(given):
            factor, reading = float(given), read(float(given))
            entry["scale_by"] = "given"
        else:
            raise InputError(
                f"source_scale of {name}: expected 'auto', 'vesselness', 'nominal' or a positive factor for every "
                f"dataset, received {given!r}"
            )
        entry["scale"], entry["working_calibre_vesselness"] = factor, reading
        entry["working_calibre_mask"] = entry["calibre_mask"] * factor


def _look(record: Mapping[str, Any], glance: Glance, factor: float) -> dict[str, Any]:
    """A surveyed copy after the aligned chain at ``factor`` times its size."""
    source = record["source"]
    item: Any = {
        "image": torch.from_numpy(glance.grey(source["grey"]))[None],
        "fov": torch.from_numpy(glance.fov.astype(np.float32))[None],
        "file": glance.name,
    }
    steps = [
        ResizeToWorkingResolutiond(factor),
        ScaleIntensityInFieldOfViewd("image", *source["percentiles"]),
        *_appearance_steps(record, "aligned"),
    ]
    return RetinalCompose(steps)(item)


def _calibre(items: Sequence[Mapping[str, Any]]) -> float:
    """Median label-free calibre of prepared items, in working pixels; nan if none shows a line."""
    readings = [2 * ridge_scale(item["image"][0].numpy(), "bright", _inside(item)) for item in items]
    return float(np.nanmedian(readings)) if np.isfinite(readings).any() else float("nan")


def _inside(item: Mapping[str, Any]) -> NDArray[np.bool_]:
    return item["fov"][0].numpy() > 0.5


def _asked_grey(grey: str | Mapping[str, str], domain: str) -> str:
    return grey.get(domain, "auto") if isinstance(grey, Mapping) else grey


def _is_factor(value: Any) -> TypeGuard[float]:
    """Whether a value can be a scale; JSON's ``true`` would be 1."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _check_scale_names(asked: float | str | Mapping[str, float], source: Sequence[Mapping[str, Any]]) -> None:
    names = sorted({str(item["dataset"]) for item in source})
    unknown = sorted(set(asked) - set(names)) if isinstance(asked, Mapping) else []
    if unknown:
        raise InputError(
            f"source_scale: expected scales of {', '.join(names)}, received one of {unknown[0]!r}, which is none of "
            "the source's data sets"
        )


def _check_options(
    grey: str | Mapping[str, str], source_polarity: str, target_polarity: str, target_scale: float, max_images: int
) -> None:
    if isinstance(grey, Mapping) and (unknown := sorted(set(grey) - {"source", "target"})):
        raise InputError(f"grey: expected values for 'source' and 'target', received one for {unknown[0]!r}")
    for name, value in (("source_polarity", source_polarity), ("target_polarity", target_polarity)):
        if value not in ("auto", "bright", "dark"):
            raise InputError(f"{name}: expected 'auto', 'bright' or 'dark', received {value!r}")
    if not _is_factor(target_scale):
        raise InputError(f"target_scale: expected a positive factor, received {target_scale}")
    if max_images < 1:
        raise InputError(f"max_images: expected at least 1, received {max_images}")
