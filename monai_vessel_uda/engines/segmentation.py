"""The inference bundle's parts: which files, how they are preprocessed, how results are written beside them."""

import csv
import logging
import math
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.transforms import Transform
from torch import Tensor
from torch.utils.data import DataLoader

from ..data.images import (
    IMAGE_SUFFIXES,
    RetinalImage,
    check_format,
    image_size,
    image_stem,
    image_suffix,
    read_image,
    write_like,
)
from ..data.layouts import find_items
from ..data.manifest import datalist, load_manifest
from ..errors import InputError
from ..files import load_json, replacing
from ..metrics.morphology import vessel_morphology
from ..preview import overlay
from ..progress import Progress
from ..transforms.preprocessing import target_transforms
from .inference import to_size

logger = logging.getLogger("monai_vessel_uda")

RESULTS = ("vessels", "probability", "overlay")
"""What is written beside ``<stem>``: ``<stem>_vessels`` and so on."""
OTHER_SIZE = 1.5
"""How many times larger or smaller than the training's an image is before its resolution is doubted."""


def images_to_segment(source: str | Path, output_dir: str | Path | None = None) -> list[dict[str, Any]]:
    """Items for one image file or all images below a folder, without results of an earlier run.

    Args:
        source: image or folder.
        output_dir: where results go; what lies there is no image to segment, unless it is ``source`` itself: then
            results are known by their names, as those beside any other image are.

    Raises:
        InputError: no such file or folder, no image in it, or two images that would write the same result.
    """
    source = Path(source)
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    paths = [source] if source.is_file() else sorted(p for p in _files(source) if _is_image(p, source))
    if source.is_dir():
        if output_dir is not None and (results := Path(output_dir).resolve()) != source.resolve():
            paths = [path for path in paths if results not in path.resolve().parents]
        written = {path.with_name(f"{image_stem(path)}_{result}") for path in paths for result in RESULTS}
        paths = [path for path in paths if written.isdisjoint(_may_be_result_beside(path, source))]
    if not paths:
        raise InputError(f"{source}: expected images ({', '.join(sorted(IMAGE_SUFFIXES))}), found none")
    seen: dict[tuple[Path, str], Path] = {}
    for path in paths:
        other = seen.setdefault((path.parent, image_stem(path)), path)
        if other != path:
            raise InputError(f"{path}: two files with one stem ({other.name}); results would overwrite each other")
    return [{"image": str(path), "id": image_stem(path), "domain": "target"} for path in paths]


def warn_of_other_sizes(items: Iterable[Mapping[str, Any]], bundle: str | Path) -> None:
    """Say so where images are much larger or smaller than those of the training, and so may be of another resolution.

    Args:
        items: with ``image``, the path; what has no readable header is left to whoever reads it.
        bundle: exported bundle; one that does not say how large its training images were gives no warning.
    """
    provenance = load_json(Path(bundle) / "configs" / "metadata.json").get("provenance", {})
    trained = sorted(provenance.get("target_size_px", {}).values(), key=_side)
    if not trained:
        return
    sizes = {item["image"]: _readable_size(item["image"]) for item in items}
    low, high = _side(trained[0]) / OTHER_SIZE, _side(trained[-1]) * OTHER_SIZE
    other = {path: size for path, size in sizes.items() if size is not None and not low <= _side(size) <= high}
    if other:
        path, (height, width) = next(iter(other.items()))
        logger.warning(
            "%d of %d images are more than %g times larger or smaller than those of the training, %d x %d to %d x %d; "
            "the first is %s, %d x %d. If they have more or fewer pixels per mm, give --scale: working pixels for one "
            "pixel, %.4g in the training; half of that for twice as many pixels per mm",
            *(len(other), len(sizes), OTHER_SIZE, *trained[0], *trained[-1], path, height, width),
            provenance["working_scale"],
        )


def images_to_evaluate(
    folder: str | Path | None = None,
    manifest: str | Path | None = None,
    split: str | None = None,
) -> list[dict[str, Any]]:
    """Items with masks, from a folder in any known layout, or the manifest's evaluation list.

    Of a data set's root this is its official ``split``; by default the test part, where there is one.

    Raises:
        InputError: neither or both are given, or there is nothing to evaluate.
    """
    if (folder is None) == (manifest is None):
        raise InputError("evaluation: give either a folder (evaluation_dir) or a manifest, not both")
    if folder is not None:
        return find_items(folder, domain="target", labels="required", split=split, preferred="test")
    assert manifest is not None
    items = datalist(load_manifest(manifest), "evaluation")
    if not items:
        raise InputError(f"{manifest}: the manifest lists no evaluation images")
    return items


def model_transforms(description: Mapping[str, Any], scale: float | None = None) -> Transform:
    """The target preprocessing that a model was trained with, from the JSON beside its weights.

    Args:
        description: content of ``model.json``.
        scale: working pixels for one pixel of the files, if their resolution differs from the training images'.

    Raises:
        InputError: the description holds no preprocessing.
    """
    if "preprocessing" not in description:
        raise InputError("model.json: expected the key 'preprocessing'; export the segmenter with 'vessel-uda adapt'")
    record = dict(description["preprocessing"])
    if scale is not None:
        if not (scale > 0 and math.isfinite(scale)):
            raise InputError(f"scale: expected a positive factor, got {scale}")
        record = {**record, "target": {**record["target"], "scale": float(scale)}}
    return target_transforms(record)


class SegmentableImages:
    """The batches of a data loader without those of images that cannot be read; these are logged as they come.

    It has no length: that is known at its end.

    Args:
        loader: of one image in a batch, in the order of its sampler.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader
        self.failed: list[str] = []

    def __iter__(self) -> Iterator[Any]:
        """Batches.

        Raises:
            InputError: of the only image there is.
        """
        self.failed = []
        batches, indices = iter(self.loader), list(self.loader.sampler)
        for index in indices:
            try:
                yield next(batches)  # kept nowhere, since images may be large
            except InputError as error:
                if len(indices) == 1:
                    raise
                logger.error("not segmented: %s", " ".join(str(error).split()))
                self.failed.append(str(self.loader.dataset.data[index]["image"]))  # type: ignore[attr-defined]

    def check(self) -> None:
        """Raise InputError if some were left out."""
        if self.failed:
            names = ", ".join(self.failed[:3]) + (", …" if len(self.failed) > 3 else "")
            total = len(self.loader.sampler)  # type: ignore[arg-type]
            raise InputError(
                f"{len(self.failed)} of {total} images could not be segmented: {names}; the lines above say why. Mend "
                "them or leave them out; the others have their masks"
            )


class Measurements:
    """A table of what is measured on masks, one row an image.

    Args:
        output_dir: folder of ``measurements.csv``, which :meth:`save` writes.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.path = Path(output_dir) / "measurements.csv"
        self.rows: list[dict[str, Any]] = []

    def add(self, name: str, image: RetinalImage, mask: np.ndarray, fov: np.ndarray | None, threshold: float) -> None:
        """Measure a mask, see :mod:`monai_vessel_uda.metrics.morphology`.

        Args:
            name: of the image.
            image: which the mask belongs to.
            mask: bool (H, W).
            fov: bool (H, W), None where it is the whole image.
            threshold: that made the mask.
        """
        measured = vessel_morphology(mask, fov, image.pixel_mm)
        shown = {key: "" if math.isnan(value) else f"{value:.6g}" for key, value in measured.items()}
        area = mask.size if fov is None else int(fov.sum())
        self.rows.append({"image": name, **shown, "area_px": area, "threshold": f"{threshold:.6g}"})

    def save(self) -> None:
        """Write the table, if it has a row."""
        if self.rows:
            with replacing(self.path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, list(self.rows[0]))
                table.writeheader()
                table.writerows(self.rows)


class SaveVesselsd(Transform):
    """Write the mask (and the probabilities, and an overlay) of one image's logit of vessel, at its native geometry.

    Args:
        output_dir: where results go; sub-folders of ``root`` are kept.
        root: the folder (or file) that was segmented.
        threshold: least probability of a vessel pixel.
        probability: also write ``<stem>_probability``, float32 where the format can hold it, else 16-bit PNG.
        overlay: also write ``<stem>_overlay.png``.
        suffix: format of the results, such as ".png"; by default the input's own where it can hold a mask
            losslessly (NIfTI, MHA, TIFF, PNG, BMP), else PNG; MHA for DICOM.
        measurements: a table to add a row to.

    Raises:
        InputError: a suffix whose format cannot hold the results.
    """

    def __init__(
        self,
        output_dir: str | Path,
        root: str | Path,
        threshold: float = 0.5,
        probability: bool = False,
        overlay: bool = False,
        suffix: str | None = None,
        measurements: Measurements | None = None,
    ) -> None:
        self.output_dir, self.root = Path(output_dir), Path(root)
        self.threshold, self.probability, self.overlay = threshold, probability, overlay
        self.suffix, self.measurements = suffix, measurements
        if suffix:  # refused before the first image is segmented
            check_format(f"NAME_vessels{suffix}")
            if probability:
                check_format(f"NAME_probability{self._float_suffix(Path())}", probabilities=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the results of ``pred``, the vessel logit (1, H, W) at working resolution, used up; return the rest."""
        path = Path(data["file"])
        original = read_image(path)
        # in place, because large images have their peak here; a product would copy the field of view as floats
        working = data["pred"].as_subclass(Tensor).cpu().float().sigmoid_().masked_fill_(data["fov"].cpu() == 0, 0)
        probability = to_size(working, original.array.shape[:2])[0].numpy()
        mask = probability >= self.threshold
        place, stem = self._place(path), image_stem(path)
        write_like(mask, place / f"{stem}_vessels{self._suffix(path)}", original)
        if self.probability:
            write_like(probability, place / f"{stem}_probability{self._float_suffix(path)}", original)
        if self.overlay:
            _write_overlay(original.array, mask, place / f"{stem}_overlay.png")
        if self.measurements is not None:
            name = (self._place(path).relative_to(self.output_dir) / path.name).as_posix()
            self.measurements.add(name, original, mask, _native_fov(data["fov"], mask.shape), self.threshold)
        return {key: value for key, value in data.items() if key != "pred"}

    def _place(self, path: Path) -> Path:
        if self.root.is_file():
            return self.output_dir
        return self.output_dir / path.parent.absolute().relative_to(self.root.absolute())  # links as they are named

    def _suffix(self, path: Path) -> str:
        own = image_suffix(path)
        lossless = (".png", ".tif", ".tiff", ".bmp", ".nii", ".nii.gz", ".mha", ".mhd")
        return self.suffix or (own if own in lossless else ".mha" if own == ".dcm" else ".png")

    def _float_suffix(self, path: Path) -> str:
        suffix = self._suffix(path)
        return ".png" if suffix == ".bmp" else suffix


class InferenceProgress:
    """Progress with time left for an evaluator that goes through images one by one.

    Args:
        total: number of images.
    """

    def __init__(self, total: int) -> None:
        self.total = total

    def attach(self, engine: Engine) -> None:
        """Count iterations, and at the end those that there were none of, of images left out."""
        progress = Progress("segmenting", self.total)
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: progress.update())

        @engine.on(Events.COMPLETED)
        def finish() -> None:
            if progress.done < progress.total:
                progress.update(progress.total - progress.done)


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, also through links to other folders, each of which is entered once."""
    entered = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in entered:
            folders.clear()
            continue
        entered.add(real)
        yield from (Path(place) / name for name in names)


def _may_be_result_beside(path: Path, folder: Path) -> set[Path]:
    """Where the image would lie that this file is named as a result of, without the suffix.

    Results of an earlier run lie beside their image, or in any folder within, which repeats the images' sub-folders.
    """
    *parents, _ = path.relative_to(folder).parts
    return {Path(folder, *parents[skipped:], image_stem(path)) for skipped in range(len(parents) + 1)}


def _is_image(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.is_file() and bool(image_suffix(path)) and not hidden


def _native_fov(fov: Tensor, size: tuple[int, ...]) -> np.ndarray | None:
    """The field of view (1, h, w) at the image's own size; None where it is the whole image."""
    inside = fov.as_subclass(Tensor).cpu() > 0
    return None if bool(inside.all()) else to_size(inside.float(), size)[0].numpy() >= 0.5


def _readable_size(path: str) -> tuple[int, int] | None:
    try:
        return image_size(path)
    except InputError:
        return None


def _side(size: Sequence[int]) -> float:
    """Side of the square with as many pixels."""
    return math.sqrt(size[0] * size[1])


def _write_overlay(array: np.ndarray, mask: np.ndarray, path: Path) -> None:
    """The image, from its darkest to its brightest, with tinted vessels."""
    from PIL import Image

    grey = array.astype(np.float32)
    low, high = np.percentile(grey, (0.5, 99.5))
    scaled = np.clip((grey - low) / max(high - low, 1e-6), 0, 1) * 255
    picture = scaled.round().astype(np.uint8)
    with replacing(path) as temporary:
        Image.fromarray(overlay(picture if picture.ndim == 2 else picture[..., :3], mask)).save(temporary, format="PNG")
