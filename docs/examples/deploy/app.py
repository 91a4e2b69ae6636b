"""A MONAI Deploy application: en-face OCT angiograms in DICOM → vessel segmentations in DICOM.

    python app.py --input STUDY --model BUNDLE --output RESULTS

BUNDLE is an exported ``vessel_segmentation``, as folder or as TorchScript with its configs (``monai.bundle
ckpt_export``), or a folder that holds one of them, as in a MONAI Application Package. ``HOLOSCAN_INPUT_PATH``,
``HOLOSCAN_MODEL_PATH`` and ``HOLOSCAN_OUTPUT_PATH`` are used for options that are not given.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from dicom_seg import InputError, find_angiograms, read_angiogram, vessel_segmentation, write_segmentation
from monai.data import PydicomReader
from monai.deploy.conditions import CountCondition
from monai.deploy.core import (
    AppContext,
    Application,
    Image,
    IOType,
    ModelFactory,
    Operator,
    OperatorSpec,
    TorchScriptModel,
)
from monai.deploy.operators import BundleConfigNames, IOMapping, MonaiBundleInferenceOperator
from monai.deploy.operators.monai_bundle_inference_operator import get_bundle_config
from monai.transforms import LoadImage


class EnFaceReader(Operator):
    """Emits one image per call, as MONAI's loader reads it: float32 (columns, rows).

    En-face images of one series are different layers, not slices, so each goes its way alone; the SDK's
    ``DICOMSeriesToVolumeOperator`` would drop them, since they have no position in the volume.

    Named outputs:
        image: SDK image for the bundle.
        source: pydicom dataset of the same file.
    """

    def __init__(self, fragment: Application, *args: Any, paths: Sequence[Path], **kwargs: Any) -> None:
        self._paths = iter(paths)
        self._load = LoadImage(reader=PydicomReader())  # ITK 5.4 does not know en-face images
        super().__init__(fragment, CountCondition(fragment, len(paths)), *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the outputs."""
        spec.output("image")
        spec.output("source")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Read the next file."""
        path = next(self._paths)
        picture = self._load(path)
        op_output.emit(Image(picture.numpy(), metadata=dict(picture.meta)), "image")
        op_output.emit(read_angiogram(path), "source")


class VesselSegmentationWriter(Operator):
    """Writes each mask as a DICOM segmentation of its image.

    Named inputs:
        pred: SDK image, uint8 (columns, rows), as the bundle's ``deploy_postprocessing`` gives it.
        source: pydicom dataset of the image.
    """

    def __init__(
        self, fragment: Application, *args: Any, folder: Path, algorithm: Mapping[str, Any], **kwargs: Any
    ) -> None:
        self._folder = folder
        self._algorithm = algorithm
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the inputs."""
        spec.input("pred")
        spec.input("source")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Write one segmentation and print its path."""
        vessels = op_input.receive("pred").asnumpy().T  # DICOM stores rows first
        source = op_input.receive("source")
        print(write_segmentation(vessel_segmentation(source, vessels, self._algorithm), self._folder), flush=True)


class VesselSegmentationApp(Application):
    """Reader → MonaiBundleInferenceOperator → writer."""

    def __init__(self, context: AppContext, bundle: Path, metadata: Mapping[str, Any], paths: Sequence[Path]) -> None:
        self._context = context
        self._bundle = bundle
        self._metadata = metadata
        self._paths = paths
        super().__init__()

    def compose(self) -> None:
        """Connect the three operators."""
        reader = EnFaceReader(self, paths=self._paths, name="reader")
        segmenter = MonaiBundleInferenceOperator(
            self,
            app_context=self._context,
            input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
            bundle_path=self._bundle,
            bundle_config_names=BundleConfigNames(postproc_name="deploy_postprocessing"),
            name="segmenter",
        )
        writer = VesselSegmentationWriter(
            self, folder=Path(self._context.output_path), algorithm=self._metadata, name="writer"
        )
        self.add_flow(reader, segmenter, {("image", "image")})
        self.add_flow(reader, writer, {("source", "source")})
        self.add_flow(segmenter, writer, {("pred", "pred")})


def find_bundle(path: Path) -> Path:
    """Find the bundle that ``path`` is, or that it holds.

    Args:
        path: bundle folder, TorchScript file, or a folder with exactly one of them in it or in a folder of it.

    Returns:
        Bundle folder or TorchScript file.

    Raises:
        InputError: there is none, or more than one.
    """
    if (path / "configs" / "metadata.json").is_file() or TorchScriptModel.accept(str(path))[0]:
        return path
    folders = [file.parent.parent for file in path.glob("*/configs/metadata.json")]
    found = folders + [file for pattern in ("*.ts", "*/*.ts") for file in path.glob(pattern)]
    if len(found) != 1:
        raise InputError(
            f"{path}: expected one bundle, as folder with configs/ or as TorchScript file, found {len(found)}."
        )
    return found[0]


def checked_metadata(bundle: Path) -> dict[str, Any]:
    """Check a bundle for the operator, and read its metadata. It is a folder or a TorchScript file.

    Raises:
        InputError: metadata, inference config or weights are missing, or the config has no ``deploy_postprocessing``.
    """
    try:
        parser = get_bundle_config(str(bundle), ["inference"])
    except (OSError, ValueError) as error:
        raise InputError(
            f"{bundle}: metadata.json and inference.json cannot be read ({error}); export it again."
        ) from error
    if bundle.is_dir() and not any((bundle / "models" / name).is_file() for name in ("model.ts", "model.pt")):
        raise InputError(f"{bundle}: this bundle has no weights (models/model.pt or models/model.ts); export it again.")
    if parser.get("deploy_postprocessing") is None:
        raise InputError(
            f"{bundle}: its inference.json has no 'deploy_postprocessing'; export it with a current version."
        )
    return parser.get("_meta_")


def main(arguments: list[str] | None = None) -> int:
    """Run the application; return the exit code."""
    context = Application.init_app_context([__file__, *(sys.argv[1:] if arguments is None else arguments)])
    try:
        bundle = find_bundle(Path(context.model_path))
        # The operator loads a folder itself, but only if no model object stands for it.
        context.models = ModelFactory.create(bundle) if bundle.is_file() else None
        paths = find_angiograms(Path(context.input_path))
        VesselSegmentationApp(context, bundle, checked_metadata(bundle), paths).run()
    except (InputError, RuntimeError, UnpicklingError) as error:  # the latter two: weights that do not fit
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
