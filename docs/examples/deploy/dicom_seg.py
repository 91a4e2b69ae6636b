"""Vessel masks of en-face OCT angiograms as DICOM segmentations.

Needs pydicom and highdicom, nothing of MONAI Deploy: also for masks that ``vessel-uda segment --suffix .png`` or
``python -m monai.bundle run`` wrote::

    python dicom_seg.py IMAGE.dcm IMAGE_vessels.png --bundle WORKSPACE/vessel_segmentation --output OUTPUT

Read: Ophthalmic OCT En Face Images, single-frame, grey (MONOCHROME2), of the flow in a retinal layer.
Written: one binary segment, (59820001, SCT, "Blood Vessel") in (5665001, SCT, "Retina").
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.sr.codedict import codes
from pydicom.uid import OphthalmicOpticalCoherenceTomographyEnFaceImageStorage as EN_FACE_IMAGE

RETINAL_FLOW = (
    codes.CID4271.RetinaVasculatureFlow,
    codes.CID4271.RadialPeripapillaryVasculatureFlow,
    codes.CID4271.SuperficialRetinaVasculatureFlow,
    codes.CID4271.MiddleInnerRetinaVasculatureFlow,
    codes.CID4271.DeepRetinaVasculatureFlow,
)
"""Kinds of en-face image that show retinal vessels; the others show structure, or other tissue."""

NOMINAL_THICKNESS_MM = 1.0
"""A projection has no thickness, but readers of segmentations require one; ITK, too, gives 2-D images 1 mm."""

SERIES_NUMBER_OFFSET = 1000
"""Keeps the new series apart from those of the camera."""


class InputError(ValueError):
    """Something the user supplied cannot be used; the message says what, and what to do."""


def find_angiograms(folder: Path) -> list[Path]:
    """Find the en-face angiograms in a folder and below it; what else is DICOM there is named on standard error.

    Args:
        folder: one or several studies, in files of any name.

    Returns:
        The files, in the order of their paths.

    Raises:
        InputError: there is none.
    """
    found, refused = [], []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            check_angiogram(dcmread(path, stop_before_pixels=True), path)
        except InvalidDicomError:
            continue
        except InputError as error:
            refused.append(str(error))
        else:
            found.append(path)
    if not found:
        raise InputError(
            "; ".join(refused[:3]) or f"{folder}: expected an en-face OCTA image in DICOM, found no DICOM file."
        )
    for reason in refused:
        print(f"skipped: {reason}", file=sys.stderr)
    return found


def read_angiogram(path: Path) -> Dataset:
    """Read and check one en-face angiogram.

    Raises:
        InputError: it is missing, no DICOM, or of a kind that is not supported.
    """
    try:
        dataset = dcmread(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path.") from error
    except InvalidDicomError as error:
        raise InputError(f"{path}: expected a DICOM file, this is none.") from error
    check_angiogram(dataset, path)
    return dataset


def check_angiogram(dataset: Dataset, path: Path) -> None:
    """Refuse what is not a grey, single-frame en-face image of retinal flow.

    Raises:
        InputError: with the first reason.
    """
    for expected, received in _objections(dataset):
        raise InputError(f"{path}: expected {expected}, got {received}; choose another image.")


def _objections(dataset: Dataset) -> Iterator[tuple[str, str]]:
    sop_class = dataset.get("SOPClassUID")
    if sop_class != EN_FACE_IMAGE:
        yield f"an {EN_FACE_IMAGE.name}", sop_class.name if sop_class else "a file without SOP class"
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        yield "a single frame", f"{dataset.NumberOfFrames} frames"
    if dataset.get("PhotometricInterpretation") != "MONOCHROME2":
        yield "a grey image (MONOCHROME2)", str(dataset.get("PhotometricInterpretation"))
    kinds = dataset.get("OphthalmicImageTypeCodeSequence") or []
    if not any(
        (kind.get("CodeValue"), kind.get("CodingSchemeDesignator")) == code[:2]
        for kind in kinds
        for code in RETINAL_FLOW
    ):
        yield f"retinal flow such as '{RETINAL_FLOW[2].meaning}'", str([kind.get("CodeMeaning") for kind in kinds])


def vessel_segmentation(
    source: Dataset, vessels: np.ndarray, algorithm: Mapping[str, Any]
) -> highdicom.seg.Segmentation:
    """Describe a vessel mask as a DICOM segmentation of its image.

    Args:
        source: the en-face image, with its study and series.
        vessels: bool or {0, 1} (rows, columns), as the image is displayed.
        algorithm: metadata of the bundle that made the mask: ``name``, ``version`` and ``authors``.

    Returns:
        A segmentation in a new series of the same study.

    Raises:
        InputError: the mask has another size than the image.
    """
    if vessels.shape != (source.Rows, source.Columns):
        received = " rows and ".join(map(str, vessels.shape))
        raise InputError(
            f"the mask has {received} columns, expected {source.Rows} and {source.Columns} as the image has."
        )
    name, version, authors = (str(algorithm[key])[:64] for key in ("name", "version", "authors"))
    segmentation = highdicom.seg.Segmentation(
        source_images=[source],
        pixel_array=vessels.astype(np.uint8),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_segment(source, name, version, authors)],
        series_instance_uid=highdicom.UID(),
        series_number=SERIES_NUMBER_OFFSET + int(source.get("SeriesNumber") or 0),
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=authors,
        manufacturer_model_name=name,
        software_versions=version,
        device_serial_number="none",
        pixel_measures=_pixel_measures(source),
        omit_empty_frames=False,
        content_description="Retinal vessels. Research only, not for diagnosis.",
        series_description="Retinal vessels (research only)",
    )
    segmentation.PatientOrientation = source.get("PatientOrientation", "")
    return segmentation


def _segment(source: Dataset, name: str, version: str, authors: str) -> highdicom.seg.SegmentDescription:
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="Retinal blood vessel",
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=codes.SCT.BloodVessel,
        anatomic_regions=[codes.SCT.Retina],
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=name, version=version, source=authors, family=codes.DCM.ArtificialIntelligence
        ),
    )
    side = {"R": codes.SCT.Right, "L": codes.SCT.Left}.get(source.get("ImageLaterality"))
    if side is not None:
        region = segment.AnatomicRegionSequence[0]
        region.AnatomicRegionModifierSequence = [
            highdicom.sr.CodedConcept(side.value, side.scheme_designator, side.meaning)
        ]
    return segment


def _pixel_measures(source: Dataset) -> highdicom.PixelMeasuresSequence:
    return highdicom.PixelMeasuresSequence(
        pixel_spacing=source.PixelSpacing, slice_thickness=source.get("SliceThickness") or NOMINAL_THICKNESS_MM
    )


def write_segmentation(segmentation: highdicom.seg.Segmentation, folder: Path) -> Path:
    """Save as ``<SOP Instance UID>.dcm``, whole or not at all.

    Raises:
        InputError: the folder cannot be written.
    """
    path = folder / f"{segmentation.SOPInstanceUID}.dcm"
    temporary = path.with_suffix(".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        segmentation.save_as(temporary)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another folder.") from error
    return path


def read_mask(path: Path) -> np.ndarray:
    """Read a mask image, bool (rows, columns): whatever is not 0.

    Raises:
        InputError: it is no grey image that Pillow can read.
    """
    from PIL import Image

    try:
        mask = np.asarray(Image.open(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read as an image ({error}); expected a mask in PNG.") from error
    if mask.ndim != 2:
        raise InputError(f"{path}: expected a grey mask, got an image with {mask.shape[-1]} channels.")
    return mask > 0


def read_metadata(bundle: Path) -> dict[str, Any]:
    """Read the metadata of a bundle folder.

    Raises:
        InputError: the folder is no bundle.
    """
    try:
        return json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{bundle}: expected a bundle folder with configs/metadata.json ({error}).") from error


def main(arguments: list[str] | None = None) -> int:
    """Write the segmentation for one image and its mask; return the exit code."""
    parser = argparse.ArgumentParser(description="Write a vessel mask as DICOM segmentation.")
    parser.add_argument("image", type=Path, help="en-face OCTA image in DICOM")
    parser.add_argument("mask", type=Path, help="its vessel mask, an image of the same size")
    parser.add_argument("--bundle", type=Path, required=True, help="folder of the bundle that made the mask")
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder to write to")
    options = parser.parse_args(arguments)
    try:
        source, mask = read_angiogram(options.image), read_mask(options.mask)
        print(write_segmentation(vessel_segmentation(source, mask, read_metadata(options.bundle)), options.output))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
