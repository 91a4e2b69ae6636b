"""One picture and its mask, written in any format by that format's own library."""

import gzip

import nibabel
import numpy as np
from PIL import Image

from monai_vessel_uda.data.images import (
    RetinalImage,
)

HEIGHT, WIDTH = 24, 40
AFFINE = np.array([[-0.02, 0.005, 0, 3], [0.004, -0.03, 0, -7], [0, 0, 0.5, 11], [0, 0, 0, 1.0]])


def picture(channels=0):
    """Asymmetric under every flip and transposition."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    grey = (rows * 7 + columns * 2).astype(np.uint8)
    grey[2:6, 30:38] = 250
    return np.stack([grey, grey // 2, 255 - grey], axis=-1) if channels else grey


def mask():
    return picture() > 200


def pil_like(array=None):
    return RetinalImage(picture() if array is None else array, (1.0, 1.0), "like.png", {"kind": "pil"})


def save(path, array=None):
    """Write `array` with the format's own library, not with the code under test."""
    array = picture() if array is None else array
    suffix = "".join(path.suffixes)
    if suffix.startswith(".nii"):
        nibabel.save(nibabel.Nifti1Image(np.swapaxes(array, 0, 1), AFFINE), path)
    elif suffix in (".mha", ".mhd", ".dcm"):
        import itk

        itk.imwrite(itk.image_from_array(np.ascontiguousarray(array)), str(path))
    elif suffix.endswith(".gz"):
        inner = path.with_name("inner" + path.suffixes[0])
        save(inner, array)
        path.write_bytes(gzip.compress(inner.read_bytes()))
        inner.unlink()
    else:
        Image.fromarray(array).save(path, **({"quality": 100} if suffix.startswith(".jp") else {}))
    return path
