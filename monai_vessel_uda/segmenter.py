"""Using an exported bundle: masks of new images, and scores against masks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .config_ids import path_value
from .deployment.archive import opened_bundle
from .deployment.runtimes import FILES, check_converted
from .errors import InputError, surfacing_input_errors
from .settings import bundle_folder, device_override
from .workflows import bundle_workflow

_PATHS = ("dataset_dir", "output_dir", "output", "evaluation_dir", "manifest", "ckpt_path")
"""Ids whose values are paths."""


def segment(
    source: str | Path,
    output: str | Path,
    bundle: str | Path,
    *,
    probability: bool = False,
    overlay: bool = False,
    measurements: bool = False,
    scale: float | None = None,
    threshold: float | None = None,
    suffix: str | None = None,
    views: int = 1,
    runtime: str = "torch",
    device: str | None = None,
) -> Path:
    """Segment one image or a folder with an exported bundle.

    An image that cannot be read does not keep the others from their masks.

    Args:
        source: image file or folder.
        output: folder of the results.
        bundle: a ``vessel_segmentation`` folder, its zip, or a workspace that holds one.
        probability: also write probability maps.
        overlay: also write overlays.
        measurements: also write ``measurements.csv``, see :mod:`monai_vessel_uda.metrics.morphology`.
        scale: working pixels for one pixel of the images, if they differ in resolution from the training images.
            Without it images of quite another size are warned of.
        threshold: probability from which on a pixel is vessel, in (0, 1); by default the segmenter's own.
        suffix: format of the results; by default the input's own.
        views: mirrored views of the image that are averaged, 1, 2, 4 or 8; costs as many times the time.
        runtime: ``torch``, or ``torchscript`` or ``onnx`` if the bundle was converted.
        device: ``cpu`` or ``cuda``.

    Returns:
        ``output``.

    Raises:
        InputError: nothing to segment, an option out of range, a converted segmenter of other weights, or, after all
            others are segmented, images that cannot be.
    """
    if suffix is not None and not suffix.startswith("."):
        raise InputError(f"suffix: expected one such as .png, got {suffix!r}")
    overrides = {
        "dataset_dir": str(Path(source).absolute()),  # a relative one may begin as MONAI's expressions do
        "output_dir": str(Path(output).absolute()),
        "probability": probability,
        "overlay": overlay,
        "measurements": measurements,
        "check_sizes": scale is None,
        "output_suffix": suffix,
        **_options(scale, threshold, views, runtime, device),
    }
    with opened_bundle(bundle) as folder:
        _run_inference(folder, _overlays(folder, runtime), overrides)
    return Path(output)


def evaluate(
    bundle: str | Path,
    folder: str | Path | None = None,
    output: str | Path | None = None,
    *,
    manifest: str | Path | None = None,
    split: str | None = None,
    scale: float | None = None,
    threshold: float | None = None,
    views: int = 1,
    runtime: str = "torch",
    device: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Score a bundle against masks of a folder or of a manifest's evaluation list.

    Of a data set's root its official ``split`` is scored; by default the test part, where there is one. ``scale`` to
    ``device`` as in :func:`segment`; the result's ``conditions`` hold them.
    """
    values: dict[str, Any] = {"evaluation_dir": _text(folder), "manifest": _text(manifest), "split": split}
    values["check_sizes"] = scale is None and folder is not None
    values |= {**_options(scale, threshold, views, runtime, device), **(overrides or {})}
    if output is not None:
        values["output"] = _text(output)
    with opened_bundle(bundle) as opened:
        result: dict[str, Any] = _run_inference(opened, [*_overlays(opened, runtime), "score.json"], values)[-1]
    return result


def inference_workflow(bundle: Path, overlays: Sequence[str], overrides: Mapping[str, Any]) -> Any:
    """The bundle's own inference, with this package's reading, checking and writing of files laid over it."""
    ours = bundle_folder("vessel_segmentation") / "configs"
    configs = [bundle / "configs" / "inference.json", *(ours / name for name in overlays)]
    return bundle_workflow(configs, bundle, overrides)


def _options(
    scale: float | None, threshold: float | None, views: int, runtime: str, device: str | None
) -> dict[str, Any]:
    """Overrides of what masks depend on; without a value the bundle's own holds."""
    if threshold is not None and not 0 < threshold < 1:
        raise InputError(f"threshold: expected a probability between 0 and 1, got {threshold}")
    if runtime not in ("torch", *FILES):
        raise InputError(f"runtime: expected one of torch, {', '.join(FILES)}, got {runtime!r}")
    given = {"scale": scale, "threshold": threshold}
    chosen = {key: value for key, value in given.items() if value is not None}
    return {**chosen, "views": views, "runtime": runtime, **device_override(device)}


def _overlays(bundle: Path, runtime: str) -> list[str]:
    """Configs laid over the bundle's own to segment with a runtime."""
    if runtime == "torch":
        return ["segment.json"]
    check_converted(bundle, runtime)
    return ["segment.json", f"inference_{runtime}.json"]


def _run_inference(bundle: Path, overlays: Sequence[str], overrides: Mapping[str, Any]) -> list[Any]:
    paths = {key: path_value(overrides[key]) for key in _PATHS if overrides.get(key)}
    workflow = inference_workflow(bundle, overlays, {**overrides, **paths})
    with surfacing_input_errors():
        workflow.initialize()
        results: list[Any] = workflow.run()
        workflow.finalize()
    return results


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(Path(path).absolute())
