"""The inference bundle's parts: how images are preprocessed, what of them is measured and written beside them."""

import csv
import logging
import math
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.transforms import Transform
from torch import Tensor
from torch.utils.data import DataLoader

from ..data.images import RetinalImage, check_format, image_stem, image_suffix, read_image, write_like
from ..errors import InputError
from ..files import replacing
from ..metrics.morphology import vessel_morphology
from ..preview import overlay
from ..progress import Progress
from ..transforms.dictionary import DropWholeFieldOfViewd, RetinalCompose
from ..transforms.preprocessing import target_transforms
from .inference import to_size

logger = logging.getLogger("monai_vessel_uda")


def model_transforms(description: Mapping[str, Any], scale: float | None = None) -> Transform:
    """The target preprocessing that a model was trained with, from the JSON beside its weights.

    It gives ``image`` and, where the field of view is not the whole image, ``fov``.

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
    return RetinalCompose([target_transforms(record), DropWholeFieldOfViewd()])


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
        """Write the results of ``pred``, the vessel logit (1, H, W) at working resolution, used up; return the rest.

        Where there is ``fov``, also at working resolution, there are no vessels outside it.
        """
        path, fov = Path(data["file"]), data.get("fov")
        original = read_image(path)
        # in place, because large images have their peak here; a product would copy the field of view as floats
        working = data["pred"].as_subclass(Tensor).cpu().float().sigmoid_()
        if fov is not None:
            working.masked_fill_(fov.cpu() == 0, 0)
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
            self.measurements.add(name, original, mask, _native_fov(fov, mask.shape), self.threshold)
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


def _native_fov(fov: Tensor | None, size: tuple[int, ...]) -> np.ndarray | None:
    """The field of view (1, h, w) at the image's own size; None where it is the whole image."""
    return None if fov is None else to_size((fov.as_subclass(Tensor).cpu() > 0).float(), size)[0].numpy() >= 0.5


def _write_overlay(array: np.ndarray, mask: np.ndarray, path: Path) -> None:
    """The image, from its darkest to its brightest, with tinted vessels."""
    from PIL import Image

    grey = array.astype(np.float32)
    low, high = np.percentile(grey, (0.5, 99.5))
    scaled = np.clip((grey - low) / max(high - low, 1e-6), 0, 1) * 255
    picture = scaled.round().astype(np.uint8)
    with replacing(path) as temporary:
        Image.fromarray(overlay(picture if picture.ndim == 2 else picture[..., :3], mask)).save(temporary, format="PNG")
