"""Synthetic en-face OCT angiograms in DICOM, complete enough for a DICOM validator."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import (
    ExplicitVRLittleEndian,
    OphthalmicOpticalCoherenceTomographyBscanVolumeAnalysisStorage,
    OphthalmicOpticalCoherenceTomographyEnFaceImageStorage,
    OphthalmicPhotography8BitImageStorage,
    generate_uid,
)

SPACING = (0.025, 0.0125)
"""Size of a pixel along a column and along a row, in mm: unequal, so that exchanging them is seen."""


def en_face_angiogram(pixels: np.ndarray, laterality: str = "L") -> Dataset:
    """An Ophthalmic OCT En Face Image of the superficial retina's flow.

    Args:
        pixels: uint8 or uint16 (rows, columns).
        laterality: "R" or "L".
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = OphthalmicOpticalCoherenceTomographyEnFaceImageStorage
    dataset.SOPInstanceUID = generate_uid()
    _set_patient_study_series(dataset)
    _set_image(dataset, laterality)
    _set_pixels(dataset, pixels)
    return dataset


def write_en_face(path: Path, pixels: np.ndarray, laterality: str = "L", **attributes: object) -> Path:
    """Save `en_face_angiogram` as a DICOM file, with other values for some ``attributes``."""
    dataset = en_face_angiogram(pixels, laterality)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def _set_patient_study_series(dataset: Dataset) -> None:
    dataset.PatientName = "Phantom^Retina"
    dataset.PatientID = "PHANTOM-1"
    dataset.PatientBirthDate = "19700101"
    dataset.PatientSex = "O"
    dataset.StudyInstanceUID = generate_uid()
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = "20260102"
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = "030405"
    dataset.AcquisitionDateTime = "20260102030400"
    dataset.StudyID = "1"
    dataset.AccessionNumber = ""
    dataset.ReferringPhysicianName = ""
    dataset.Modality = "OPTENF"
    dataset.SeriesInstanceUID = generate_uid()
    dataset.SeriesNumber = 3
    dataset.FrameOfReferenceUID = generate_uid()
    dataset.PositionReferenceIndicator = ""
    dataset.Manufacturer = "Phantom"
    dataset.ManufacturerModelName = "Phantom OCT"
    dataset.DeviceSerialNumber = "1"
    dataset.SoftwareVersions = "1"


def _set_image(dataset: Dataset, laterality: str) -> None:
    dataset.InstanceNumber = 1
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    dataset.ImageLaterality = laterality
    dataset.AnatomicRegionSequence = [coded(codes.SCT.Retina)]
    dataset.OphthalmicImageTypeCodeSequence = [coded(codes.DCM.SuperficialRetinaVasculatureFlow)]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    dataset.PatientOrientation = ["L", "F"]
    volume = _reference(
        OphthalmicOpticalCoherenceTomographyBscanVolumeAnalysisStorage, codes.DCM.SourceImageForImageProcessingOperation
    )
    dataset.SourceImageSequence = [volume]
    location = _reference(OphthalmicPhotography8BitImageStorage, None)
    location.ReferenceCoordinates = [1.0, 1.0, 100.0, 100.0]
    dataset.OphthalmicFrameLocationSequence = [location]
    dataset.ReferencedSurfaceMeshIdentificationSequence = [
        _slab_boundary(codes.SCT.ILMInternalLimitingMembrane, 1),
        _slab_boundary(codes.DCM.OuterSurfaceOfIPL, 2),
    ]
    algorithm = Dataset()
    algorithm.AlgorithmFamilyCodeSequence = [coded(Code("128252", "DCM", "OCT-A amplitude decorrelation"))]
    algorithm.AlgorithmName, algorithm.AlgorithmVersion = "phantom", "1"
    dataset.DerivationAlgorithmSequence = [algorithm]
    dataset.BurnedInAnnotation = dataset.RecognizableVisualFeatures = "NO"
    dataset.LossyImageCompression = "00"


def _set_pixels(dataset: Dataset, pixels: np.ndarray) -> None:
    bits = 8 * pixels.dtype.itemsize
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelSpacing = list(SPACING)
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = 0
    dataset.WindowCenter, dataset.WindowWidth = 2 ** (bits - 1), 2**bits
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)


def coded(code: Code) -> Dataset:
    """A code as an item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def _slab_boundary(surface: Code, number: int) -> Dataset:
    item = Dataset()
    item.ReferencedSOPInstanceUID = generate_uid()
    item.ReferencedSurfaceNumber = number
    item.SegmentedPropertyTypeCodeSequence = [coded(surface)]
    item.SurfaceMeshZPixelOffset = 0
    return item


def _reference(sop_class: str, purpose: Code | None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, generate_uid()
    if purpose is not None:
        item.PurposeOfReferenceCodeSequence = [coded(purpose)]
    return item
