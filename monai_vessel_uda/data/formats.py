"""Decoders and encoders of the three families of image formats; `images` is what the rest of the package calls.

Each family has a reader (array as displayed, (row, column) spacing, geometry), a reader of the size alone, and a
writer. Axis orders meet here: NIfTI and ITK index the horizontal axis first, arrays the vertical one.

| family | suffixes | library | geometry |
|---|---|---|---|
| photographs | .png .jpg .jpeg .tif .tiff .bmp .gif .ppm .pgm .pnm, each also with .gz | Pillow | none |
| NIfTI | .nii .nii.gz | nibabel | affine |
| ITK | .mha .mhd .dcm | ITK, pydicom for DICOM that ITK does not know | origin, spacing, direction |
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from monai_vessel_uda.errors import InputError

PIL_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".pnm")
NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".mha", ".mhd", ".dcm")

Decoded = tuple[np.ndarray, tuple[float, float], dict[str, Any]]

_EXIF_ORIENTATION = 0x0112
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO = 0
_UNSIGNED, _SIGNED = 1, 2
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0])  # NIfTI's world axes against ITK's


def family(suffix: str) -> str:
    """Return "pil", "nifti" or "itk"."""
    if suffix in NIFTI_SUFFIXES:
        return "nifti"
    return "itk" if suffix in ITK_SUFFIXES else "pil"


def plane_axes(path: Path, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the two axes of `shape` that span the image, all others having length 1.

    Raises:
        InputError: more than two axes are longer than 1.
    """
    axes = list(range(len(shape)))
    for axis in reversed(range(len(shape))):
        if len(axes) > 2 and shape[axis] == 1:
            axes.remove(axis)
    if len(axes) != 2:
        raise InputError(
            f"{path}: a 3-D volume where a 2-D image is expected (its shape is {'x'.join(map(str, shape))}); "
            "export one en-face image per file."
        )
    return axes[0], axes[1]


@contextmanager
def _open_pil(path: Path) -> Iterator[Any]:
    from PIL import Image

    opened: Any = gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb")
    with opened as stream, Image.open(stream) as image:
        pages = getattr(image, "n_frames", 1)
        if image.format in ("TIFF", "GIF") and pages > 1:
            raise InputError(
                f"{path}: a 3-D volume where a 2-D image is expected ({pages} pages); keep one page per file."
            )
        yield image


def read_pil(path: Path) -> Decoded:
    """Read a photograph, turned upright as its EXIF orientation says."""
    from PIL import ImageFile, ImageOps

    # Another library in this process may have asked for silence about truncated files.
    previous, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        with _open_pil(path) as image:
            if image.format == "TIFF":
                _check_pixel_type(image, path)
            image.load()
            return _pil_array(ImageOps.exif_transpose(image), str(image.format)), (1.0, 1.0), {"kind": "pil"}
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = previous


def _check_pixel_type(image: Any, path: Path) -> None:
    """Refuse the TIFFs whose values Pillow gives back changed: it knows no signed bytes and no unsigned 32 bits."""
    bits, kind = (image.tag_v2.get(tag, (1,))[0] for tag in (_TIFF_BITS, _TIFF_SAMPLE_FORMAT))
    if bits > 8 and image.tag_v2.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:
        raise InputError(f"{path}: a TIFF of {bits} bits in which 0 is white; export it again with 0 as black.")
    if (bits, kind) in ((8, _SIGNED), (32, _UNSIGNED)):
        named = "signed 8-bit" if kind == _SIGNED else "unsigned 32-bit"
        raise InputError(f"{path}: {named} pixels; export it again with unsigned 8 or 16 bits, or 32-bit float.")


def _pil_array(image: Any, file_format: str) -> np.ndarray:
    """Return (height, width[, 3]); alpha is dropped, not blended, so that hidden colours stay what they were."""
    if image.mode == "1":
        return np.asarray(image.convert("L"))
    if image.mode in ("LA", "La"):
        return np.asarray(image.getchannel(0))
    if image.mode == "I" and file_format in ("PNG", "PPM"):  # Pillow's way to say 16-bit grey
        return np.asarray(image).astype(np.uint16)
    if image.mode in ("L", "RGB", "F", "I") or image.mode.startswith("I;16"):
        return np.asarray(image)
    return np.asarray(image.convert("RGB"))


def pil_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of a photograph as displayed."""
    with _open_pil(path) as image:
        width, height = image.size
        # TIFF: Pillow turns the size itself. Without "exif", asking for it would decode a whole PNG.
        tags = image.getexif() if "exif" in image.info and image.format != "TIFF" else {}
        turned = tags.get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
        return (width, height) if turned else (height, width)


def write_pil(values: np.ndarray, path: Path, suffix: str) -> None:
    """Write uint8 as it is; float32 probabilities as they are in TIFF and as 16-bit integers elsewhere."""
    from PIL import Image

    if values.dtype == np.float32 and not suffix.startswith(".tif"):
        values = np.round(values * 65535).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format=Image.registered_extensions()[suffix.removesuffix(".gz")])
    payload = buffer.getvalue()
    # A fixed time stamp, so that the same mask gives the same bytes.
    path.write_bytes(gzip.compress(payload, mtime=0) if suffix.endswith(".gz") else payload)


def _nifti_plane(path: Path, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the (horizontal, vertical) axes; a fifth axis holds colours, as NIfTI prescribes."""
    return plane_axes(path, shape[:4] if len(shape) == 5 else shape)


def read_nifti(path: Path) -> Decoded:
    """Read NIfTI: axis i is the column, axis j the row; no axis is flipped, whatever the affine says."""
    import nibabel

    nifti: Any = nibabel.load(path)
    stored = np.asanyarray(nifti.dataobj)
    if stored.dtype.names:  # RGB24 and RGBA32 are records
        stored = np.stack([stored[name] for name in stored.dtype.names[:3]], axis=-1)
    shape = tuple(nifti.shape)
    across, down = _nifti_plane(path, shape)
    zooms = nifti.header.get_zooms()
    colours = stored.shape[4 if len(shape) == 5 else len(shape) :]
    array = stored.reshape((shape[across], shape[down]) + colours).swapaxes(0, 1)
    meta = {"kind": "nifti", "affine": nifti.affine, "header": nifti.header.copy(), "shape": shape[:4]}
    return array, (float(zooms[down]), float(zooms[across])), meta


def nifti_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of a NIfTI file from its header."""
    import nibabel

    nifti: Any = nibabel.load(path)
    across, down = _nifti_plane(path, nifti.shape)
    return nifti.shape[down], nifti.shape[across]


def write_nifti(values: np.ndarray, path: Path, spacing: tuple[float, float], meta: dict[str, Any]) -> None:
    """Write NIfTI with the affine and header of `meta`, or a plain affine of `spacing` if it has none."""
    import nibabel

    affine = meta.get("affine", np.diag([spacing[1], spacing[0], 1.0, 1.0]))
    header = meta["header"].copy() if "header" in meta else None
    if header is not None:
        header.set_data_dtype(values.dtype)
        header.set_slope_inter(1, 0)
    nibabel.save(nibabel.Nifti1Image(values.T.reshape(meta.get("shape", values.T.shape)), affine, header), path)


def _itk_header(path: Path) -> Any:
    """Return ITK's reader of `path` with the header read, or None for a DICOM kind that ITK does not know."""
    import itk

    header = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
    if header is None:
        if path.suffix.lower() == ".dcm":
            return None
        raise ValueError("no reader recognises its content")
    header.SetFileName(str(path))
    header.ReadImageInformation()
    return header


def read_itk(path: Path) -> Decoded:
    """Read MetaImage or DICOM; ITK itself inverts DICOM's MONOCHROME1, as a viewer does."""
    import itk

    header = _itk_header(path)
    if header is None:
        return _read_pydicom(path)
    # MetaImage says "three channels", which ITK would take for a kind of vector that Python cannot hold.
    colours = {3: itk.RGBPixel, 4: itk.RGBAPixel}.get(header.GetNumberOfComponents())
    if colours and header.GetComponentType() != itk.CommonEnums.IOComponent_UCHAR:  # ITK would keep the last eight bits
        kind = header.GetComponentTypeAsString(header.GetComponentType())
        raise InputError(f"{path}: colours of type {kind}; export it again with 8 bits for each colour, or in grey")
    image = itk.imread(str(path), colours[itk.UC] if colours else None)
    stored = np.array(itk.array_view_from_image(image))
    dimension = image.GetImageDimension()
    shape = stored.shape[:dimension]  # slowest axis first: (…, row, column)
    down, across = plane_axes(path, shape)
    array = stored.reshape((shape[down], shape[across]) + stored.shape[dimension:])
    spacing = [float(value) for value in image.GetSpacing()][::-1]
    meta = {
        "kind": "itk",
        "shape": shape,
        "spacing": tuple(image.GetSpacing()),
        "origin": tuple(image.GetOrigin()),
        "direction": itk.array_from_matrix(image.GetDirection()).copy(),
    }
    return array[..., :3] if array.ndim == 3 else array, (spacing[down], spacing[across]), meta


def _dicom(path: Path, stop_before_pixels: bool = False) -> Any:
    import pydicom

    dataset = pydicom.dcmread(path, stop_before_pixels=stop_before_pixels)
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise InputError(f"{path}: {dataset.NumberOfFrames} frames where one image is expected; export one per file.")
    return dataset


def _read_pydicom(path: Path) -> Decoded:
    """Read what ITK does not, above all 'Ophthalmic OCT En Face Image', the standard's own kind for en-face OCTA."""
    dataset = _dicom(path)
    array = dataset.pixel_array
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        array = array.max() - array
    elif dataset.PhotometricInterpretation == "PALETTE COLOR":
        array = _coloured(array, dataset)
    spacing = [float(value) for value in dataset.get("PixelSpacing") or (1.0, 1.0)]
    return array, (spacing[0], spacing[1]), {"kind": "dicom"}


def _coloured(indices: np.ndarray, dataset: Any) -> np.ndarray:
    """Colours of 8 bits for indices into the palette of `dataset`, as ITK reads the kinds that it knows."""
    from pydicom.pixels import apply_color_lut

    colours = apply_color_lut(indices, dataset)[..., :3]
    return (colours >> 8).astype(np.uint8) if colours.dtype.itemsize > 1 else colours


def itk_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of a MetaImage or DICOM file from its header."""
    header = _itk_header(path)
    if header is None:
        dataset = _dicom(path, stop_before_pixels=True)
        return int(dataset.Rows), int(dataset.Columns)
    shape = tuple(header.GetDimensions(axis) for axis in reversed(range(header.GetNumberOfDimensions())))
    down, across = plane_axes(path, shape)
    return shape[down], shape[across]


def _itk_geometry(size: tuple[int, ...], spacing: tuple[float, float], meta: dict[str, Any]) -> dict[str, Any]:
    """Return shape, spacing, origin and direction as ITK keeps them, translating a NIfTI affine if need be."""
    if meta.get("kind") == "itk":
        return meta
    if meta.get("kind") != "nifti":
        plain = {"origin": (0.0, 0.0), "direction": np.eye(2)}
        return {"shape": size, "spacing": (spacing[1], spacing[0]), **plain}
    affine = np.asarray(meta["affine"], dtype=float)
    columns = _RAS_FROM_LPS @ affine[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    shape = tuple(meta["shape"][:3])
    return {
        "shape": (shape + (1,) * (3 - len(shape)))[::-1],
        "spacing": tuple(lengths),
        "origin": tuple(_RAS_FROM_LPS @ affine[:3, 3]),
        "direction": columns / lengths,
    }


def write_itk(values: np.ndarray, path: Path, spacing: tuple[float, float], meta: dict[str, Any]) -> None:
    """Write MetaImage, or NIfTI beside an ITK image, with the geometry of `meta`.

    Raises:
        OSError: ITK fails, or the file read back differs: it does not report every write that fails, a full disk
            among them.
    """
    import itk

    geometry = _itk_geometry(values.shape, spacing, meta)
    image = itk.image_from_array(np.ascontiguousarray(values.reshape(geometry["shape"])))
    image.SetSpacing([float(value) for value in geometry["spacing"]])
    image.SetOrigin([float(value) for value in geometry["origin"]])
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(geometry["direction"])))
    try:
        itk.imwrite(image, str(path), compression=True)
        written = itk.imread(str(path))
    except RuntimeError as error:  # the only type that ITK raises
        raise OSError(str(error)) from error
    if not np.array_equal(itk.array_view_from_image(written).ravel(), values.ravel()):
        raise OSError("the file read back differs from what was written; is the disk full?")
