"""Read and write two-dimensional images of any format with one axis order.

Every format is read as ``array[row, column]``, the picture as it is displayed. Affine, origin, spacing and
direction travel in ``RetinalImage.meta`` and come back unchanged in results written by `write_like`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from monai_vessel_uda.data import formats
from monai_vessel_uda.data.formats import ITK_SUFFIXES, NIFTI_SUFFIXES, PIL_SUFFIXES
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.files import replacing

IMAGE_SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES + PIL_SUFFIXES + tuple(s + ".gz" for s in PIL_SUFFIXES)

_READERS = {"pil": formats.read_pil, "nifti": formats.read_nifti, "itk": formats.read_itk}
_SIZES = {"pil": formats.pil_size, "nifti": formats.nifti_size, "itk": formats.itk_size}
_MILLIMETRES = {"meter": 1000.0, "micron": 0.001}
"""NIfTI's units of length besides mm, which holds where none is named."""
_LOSSY = (".jpg", ".jpeg")
_EIGHT_BIT = (".jpg", ".jpeg", ".bmp", ".gif")
_CLASSES = 16
"""An integer mask whose largest value is smaller numbers classes; one with more values has smoothed outlines."""
_MOST_VESSELS = 0.5
"""Share of an image that vessels, capillaries included, do not exceed."""
_SIZEABLE = 0.001
"""Share of an image above which pixels of one value can be a class of vessels."""
_LONG = 10
"""Area over that of the widest circle inside: about 2 for the avascular zone, above 50 for a tree of vessels."""
_MASK_VALUES: tuple[set[int], ...] = ({0}, {1}, {0, 1}, {255}, {0, 255})


@dataclass(frozen=True)
class RetinalImage:
    """One image as displayed, with what is needed to write a result beside it.

    Attributes:
        array: (height, width) or (height, width, 3), in the file's own dtype.
        spacing: (row, column) size of a pixel, in mm; 1.0 where the format does not say.
        source: the file it was read from.
        meta: ``kind`` ("pil", "nifti", "itk" or "dicom") and that kind's geometry.
    """

    array: np.ndarray
    spacing: tuple[float, float]
    source: Path
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def pixel_mm(self) -> tuple[float, float] | None:
        """(row, column) size of a pixel in mm, or None where the file does not say: 1 mm is what formats assume."""
        if self.meta.get("kind") == "pil" or self.spacing == (1.0, 1.0):
            return None
        header = self.meta.get("header")
        unit = 1.0 if header is None else _MILLIMETRES.get(header.get_xyzt_units()[0], 1.0)
        return self.spacing[0] * unit, self.spacing[1] * unit


def image_suffix(path: str | Path) -> str:
    """Return the suffix of `path` in lower case, with the part before ".gz", or "" if it is no image suffix.

    Example:
        >>> image_suffix("im0001.ah.PPM.gz"), image_suffix("notes.txt")
        ('.ppm.gz', '')
    """
    name = Path(path).name.lower()
    return next((suffix for suffix in IMAGE_SUFFIXES if name.endswith(suffix)), "")


def image_stem(path: str | Path) -> str:
    """Return the file name without its image suffix.

    Example:
        >>> image_stem("labels/im0001.ah.ppm.gz")
        'im0001.ah'
    """
    name = Path(path).name
    return name[: len(name) - len(image_suffix(name))]


def read_image(path: str | Path) -> RetinalImage:
    """Read a two-dimensional image: alpha dropped, palette expanded to RGB, 1-bit as uint8 {0, 255}.

    16-bit grey stays uint16 and floats stay floats.

    Raises:
        InputError: the file is missing, empty, truncated or of an unknown kind, holds a 3-D volume, or holds
            NaN or infinity.
    """
    path = Path(path)
    with _decoding(path) as suffix:
        array, spacing, meta = _READERS[formats.family(suffix)](path)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise InputError(f"{path}: {bad} pixels are NaN or infinite; replace them by numbers and try again.")
    return RetinalImage(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")), spacing, path, meta)


def read_mask(path: str | Path) -> np.ndarray:
    """Read a vessel mask, bool (height, width): whatever is above half of the file's own maximum.

    Colour masks count by their brightest channel; alpha is ignored. A mask without a positive pixel is empty. Darker
    outlines (smoothed ones) and darker regions (the avascular zone in OCTA-500) are background.

    Raises:
        InputError: as for `read_image`, or classes of vessels instead of vessel and background.
    """
    array = read_image(path).array
    grey = array if array.ndim == 2 else array.max(axis=-1)
    mask = (grey > grey.max() / 2) & (grey > 0)
    lossless = image_suffix(path).removesuffix(".gz") not in _LOSSY
    if grey.dtype.kind in "iu" and (_are_numbers(grey) or (lossless and _drops_vessels(grey, mask))):
        raise InputError(
            f"{path}: expected two values, vessel and background, got the classes "
            f"{', '.join(map(str, np.unique(grey)))}; write those that are vessels (arteries and veins, say) as one."
        )
    return mask


def _are_numbers(grey: np.ndarray) -> bool:
    """Whether small integers number classes."""
    return bool(1 < grey.max() < _CLASSES) and len(np.unique(grey)) > 2


def _drops_vessels(grey: np.ndarray, mask: np.ndarray) -> bool:
    """Whether `mask` lacks vessels that `grey` marks by a darker value of their own."""
    dark = grey[(grey > 0) & ~mask]
    if not dark.size or len(np.unique(grey)) > _CLASSES:
        return False
    values, counts = np.unique(dark, return_counts=True)
    return any(_is_vessel_class(grey == value, mask) for value in values[counts > _SIZEABLE * grey.size])


def _is_vessel_class(pixels: np.ndarray, brighter: np.ndarray) -> bool:
    """Whether `pixels` are long and thin like vessels, and neither outlines of the brighter ones nor a region."""
    from scipy.ndimage import binary_dilation, distance_transform_edt

    if binary_dilation(brighter, np.ones((3, 3)))[pixels].mean() >= 0.5:
        return False
    return bool(pixels.sum() > _LONG * np.pi * distance_transform_edt(pixels).max() ** 2)


def image_size(path: str | Path) -> tuple[int, int]:
    """Return (height, width) as `read_image` would, from the header alone.

    Raises:
        InputError: as for `read_image`, as far as the header can tell.
    """
    path = Path(path)
    with _decoding(path) as suffix:
        height, width = _SIZES[formats.family(suffix)](path)
    return int(height), int(width)


def check_image(image: RetinalImage) -> None:
    """Raise InputError if every pixel of `image` has the same value."""
    if image.array.min() == image.array.max():
        raise InputError(
            f"{image.source}: every pixel is {image.array.flat[0]}; expected a picture of vessels. "
            "Export it again or leave it out."
        )


def check_mask(mask: np.ndarray, path: str | Path) -> None:
    """Raise InputError if `mask` (bool, as from `read_mask`) marks no vessel, or more than vessels can be."""
    if not mask.any():
        raise InputError(f"{path}: the mask marks no vessel; expected some. Annotate it or leave it out.")
    if mask.mean() > _MOST_VESSELS:
        raise InputError(
            f"{path}: the mask marks {mask.mean():.0%} of the image as vessel; expected at most {_MOST_VESSELS:.0%}. "
            "Vessels must be the brighter value: is it inverted, or the mask of something else?"
        )


def write_like(array: np.ndarray, path: str | Path, like: RetinalImage) -> None:
    """Write a mask or probability map in the format of `path`, with the geometry of `like`, all or nothing.

    Args:
        array: (height, width) as in `like`. bool, or integers of {0, 1} or {0, 255}, are a mask: written as
            {0, 255} to photograph formats and {0, 1} to NIfTI and MHA. Other uint8 is written as it is. Floats
            are probabilities in [0, 1]: float32 in NIfTI, MHA and TIFF, ``round(65535 p)`` in PNG and PPM.
        path: the file to write; its suffix chooses the format. Missing folders are made.
        like: the image that `array` describes.

    Raises:
        InputError: the format cannot hold the values exactly, or the file cannot be written (a full disk, say);
            then `path` is as it was before.
        ValueError: `array` has another shape than `like`, another dtype, or probabilities outside [0, 1].
    """
    path = Path(path)
    check_format(path, probabilities=array.dtype.kind == "f")
    suffix = image_suffix(path)
    _check_values(array, path, like)
    kind = formats.family(suffix)
    values = _stored_values(array, vessel=255 if kind == "pil" else 1)
    with replacing(path) as temporary:
        if kind == "pil":
            formats.write_pil(values, temporary, suffix)
        elif kind == "nifti" and like.meta.get("kind") != "itk":
            formats.write_nifti(values, temporary, like.spacing, like.meta)
        else:
            formats.write_itk(values, temporary, like.spacing, like.meta)


@contextmanager
def _decoding(path: Path) -> Iterator[str]:
    """Check that `path` can be an image, give its suffix, and turn what a decoder raises into InputError."""
    suffix = image_suffix(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path.")
    if not suffix:
        raise InputError(f"{path}: not a known image format; expected one of {', '.join(IMAGE_SUFFIXES)}.")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes); copy or export it again.")
    try:
        yield suffix
    except (InputError, MemoryError):
        raise
    except Exception as error:  # decoders raise anything: OSError, EOFError, SyntaxError, RuntimeError, …
        raise InputError(
            f"{path}: cannot be read as a {suffix} image ({_one_line(error)}); it may be damaged, cut short, or of "
            "another pixel type than 8 or 16 bits or 32-bit float. Copy or export it again."
        ) from error


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + " …"  # ITK lists every type that it knows


def _is_mask(array: np.ndarray) -> bool:
    return array.dtype == bool or (array.dtype.kind in "iu" and set(np.unique(array).tolist()) in _MASK_VALUES)


def _stored_values(array: np.ndarray, *, vessel: int) -> np.ndarray:
    """Return what to store: float32 probabilities, a uint8 mask {0, vessel}, or other uint8 unchanged."""
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    return np.multiply(array > 0, vessel, dtype=np.uint8) if _is_mask(array) else array


def check_format(path: str | Path, *, probabilities: bool = False) -> None:
    """Raise InputError if the format that the suffix of `path` names cannot hold a mask, or probabilities, exactly."""
    suffix = image_suffix(path)
    bare = suffix.removesuffix(".gz")
    if suffix == ".dcm":
        raise InputError(f"{path}: results are not written as DICOM; use .png, or .nii.gz to keep the geometry.")
    if not suffix:
        raise InputError(f"{path}: cannot write this format; expected .png, .tif, .nii.gz or .mha.")
    if probabilities and bare in _EIGHT_BIT:
        raise InputError(f"{path}: {bare} cannot hold probabilities; use .nii.gz, .mha, .tif or .png.")
    if bare in _LOSSY:
        raise InputError(f"{path}: {bare} changes pixel values, so it cannot hold a mask; use .png or .nii.gz.")


def _check_values(array: np.ndarray, path: Path, like: RetinalImage) -> None:
    size = like.array.shape[:2]
    if array.shape != size:
        raise ValueError(f"{path}: the result has shape {array.shape}, its image {size}; they must agree")
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ValueError(f"{path}: a floating-point result is a probability and must lie in [0, 1]")
    elif array.dtype != np.uint8 and not _is_mask(array):
        raise ValueError(f"{path}: expected a mask, uint8 or probabilities, received {array.dtype}")
