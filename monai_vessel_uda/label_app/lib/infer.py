"""Inference with the bundle's ``inference.json``: masks in the geometry of their images, uncertainty of an image."""

import logging
import os
import tempfile
from typing import Any

import itk
import nibabel
import numpy as np
import torch
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.utils.others.generic import file_ext, name_to_device

from lib.uncertainty import mean_over_flips, uncertainty

logger = logging.getLogger(__name__)

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".nii", ".nii.gz", ".nrrd", ".mha")
"""Formats that hold a mask as it is; masks of others become ``.png``, of DICOM images ``.nii.gz``."""


class VesselInferTask(BundleInferTask):
    """MONAI Label's bundle inference, with weights that must fit and masks that lie where the image lies.

    Args:
        path: the bundle.
        conf: configuration of the application.
    """

    def __init__(self, path: str, conf: dict[str, str]) -> None:
        # The bundle's own Invertd restores the size; MONAI Label's Restored takes a squeezed dimension for the height.
        super().__init__(path, conf, type="segmentation", add_post_restore=False, load_strict=True)
        if not self.is_valid():
            raise MONAILabelException(MONAILabelError.APP_INIT_ERROR, f"{path}: no configs/inference.json or weights")

    def writer(self, data: dict[str, Any], extension: str | None = None, dtype: Any = None) -> tuple[str, Any]:
        """Write the mask (labels as numbers, uint8) with the geometry of the image's file.

        MONAI Label's writer drops the affine of 2-D images, which puts the mask elsewhere in a viewer.
        """
        mask = torch.as_tensor(data[self.output_label_key]).cpu().numpy().astype(np.uint8)
        suffix = data.get("result_extension") or extension or mask_suffix(data["image_path"])
        file, path = tempfile.mkstemp(suffix=suffix)
        os.close(file)
        write_mask(mask, data["image_path"], path)
        return path, data.get(self.output_json_key, {})

    def uncertainty(self, path: str) -> float:
        """How unsure the segmenter is of an image: see :func:`lib.uncertainty.uncertainty`."""
        device = name_to_device(None)
        data = {**self.config(), self.input_key: path, "image_path": path, "device": device, "logging": "WARNING"}
        data = self.run_pre_transforms(data, self.pre_transforms(data))
        inferer, network = self.inferer(data), self._get_network(device, None)

        def predict(image: torch.Tensor) -> torch.Tensor:
            return inferer(image[None].to(device), network)[0]

        with torch.no_grad():
            probability = mean_over_flips(predict, torch.as_tensor(data[self.input_key]))
        return uncertainty(probability, self.config().get("threshold", 0.5))


def mask_suffix(image: str) -> str:
    """Suffix of the mask's file: the image's own where that format can hold a mask."""
    suffix = file_ext(image).lower()
    own = [known for known in MASK_SUFFIXES if suffix.endswith(known)]
    return max(own, key=len) if own else ".nii.gz" if suffix.endswith(".dcm") else ".png"


def write_mask(mask: np.ndarray, image: str, path: str) -> None:
    """Write a mask with origin, spacing and direction of its image.

    Args:
        mask: shape (width, height).
        image: file of the image, which may have further dimensions of length 1.
        path: where to; the suffix decides the format.
    """
    if all(".nii" in name[-7:].lower() for name in (image, path)):
        nifti: Any = nibabel.load(image)
        result = nibabel.Nifti1Image(mask.reshape(nifti.shape), nifti.affine, nifti.header)
        result.set_data_dtype(np.uint8)
        nibabel.save(result, path)
        return
    # As a volume of one slice, which is how viewers read it: the slice has a place in space too.
    reader = itk.ImageFileReader[itk.Image[itk.F, 3]].New(FileName=image)
    reader.UpdateOutputInformation()
    reference = reader.GetOutput()
    result = itk.image_from_array(np.ascontiguousarray(mask.T[None]))
    result.SetOrigin(reference.GetOrigin())
    result.SetSpacing(reference.GetSpacing())
    result.SetDirection(reference.GetDirection())
    itk.imwrite(result, path, compression=True)
