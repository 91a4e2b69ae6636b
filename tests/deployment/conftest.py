"""An environment that has MONAI but not this package, and one picture in every format."""

import shutil
import subprocess
import sysconfig
import venv

import itk
import nibabel
import numpy as np
import pytest
from PIL import Image

from monai_vessel_uda.data.images import read_image

from ..deploy.en_face import write_en_face


@pytest.fixture(scope="session")
def bundle(adapted):
    return adapted / "vessel_segmentation"


@pytest.fixture
def copy(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "bundle")


@pytest.fixture(scope="session")
def without_package(tmp_path_factory):
    """Runs a Python of its own with the packages of this environment, except for this one."""
    folder = tmp_path_factory.mktemp("without_package")
    venv.create(folder, symlinks=True, with_pip=False)

    def run(*arguments, cwd, check=True, **options):
        # a folder on PYTHONPATH is no site folder: the file there that leads to an editable install is not read
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": sysconfig.get_paths()["purelib"], "OMP_NUM_THREADS": "1"}
        command = [str(folder / "bin" / "python"), *map(str, arguments)]
        result = subprocess.run(
            command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300, **options
        )
        assert not check or result.returncode == 0, (result.stdout + result.stderr)[-3000:]
        return result

    probe = run("-c", "import monai, torch\nimport monai_vessel_uda.errors", cwd="/", check=False)
    assert "No module named 'monai_vessel_uda" in probe.stderr
    return run


def write_dicom(path, array, grey="MONOCHROME2"):
    """A secondary capture, RGB or of that kind of grey."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID = generate_uid(), generate_uid()
    data.PatientID, data.Modality = "phantom", "OPT"
    data.Rows, data.Columns = array.shape[:2]
    data.SamplesPerPixel = 1 if array.ndim == 2 else 3
    data.PhotometricInterpretation = grey if array.ndim == 2 else "RGB"
    if array.ndim == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.PixelData = array.astype(np.uint8).tobytes()
    data.save_as(path, enforce_file_format=True)


AFFINE = np.array([[-0.1, 0, 0, 3], [0, 0.2, 0, -4], [0, 0, 1, 5], [0, 0, 0, 1]])


GREY = {"grey", "grey_alpha", "tiff", "bitmap", "sixteen", "sixteen_tiff", "float", "nifti", "nifti_slice"}
GREY |= {"dicom", "monochrome1", "en_face"}
COLOUR = {"luma", "rgb", "rgba", "palette", "tiff_rgb", "bitmap_rgb", "pixmap", "gif"}
"""Names in `every_format` of the grey picture, and of the coloured one whose luma (ITU-R BT.601) is in ``luma.tif``."""
COLOUR_709 = {"luma_709", "dicom_rgb", "meta_rgb"}
"""Coloured as well; MONAI reads these with ITK, whose luma (ITU-R BT.709) is in ``luma_709.tif``."""
INVERTED = {"en_face_monochrome1"}
"""Grey as well; MONAI reads it with pydicom, which does not invert what is stored."""
OTHER = {"photograph", "wide"}
"""A lossy copy of the coloured picture, and one of another size."""
EVERY = GREY | COLOUR | COLOUR_709 | INVERTED | OTHER


def coloured(grey):
    """A colour for each grey level, so that a palette holds them all; each weighting of them is another grey."""
    level = grey.astype(np.float64)
    return np.stack([level, level**2 / 255, 255 - level], axis=-1).round().astype(np.uint8)


@pytest.fixture(scope="session")
def every_format(phantoms, tmp_path_factory):
    """One non-square picture, grey and coloured, in all formats; one of another size; a DICOM file without suffix."""
    folder = tmp_path_factory.mktemp("formats")
    (folder / "sub").mkdir()
    paths = sorted((phantoms["evaluation"] / "images").glob("*.png"))
    grey = read_image(paths[0]).array[:, :50]
    picture = Image.fromarray(grey)
    picture.save(folder / "grey.png")
    picture.convert("LA").save(folder / "grey_alpha.png")
    picture.save(folder / "tiff.tif")
    picture.save(folder / "bitmap.bmp")
    sixteen = Image.fromarray(grey.astype(np.uint16) * 257)
    sixteen.save(folder / "sixteen.png")
    sixteen.save(folder / "sixteen_tiff.tif")
    Image.fromarray(grey.astype(np.float32) / 255).save(folder / "float.tif")
    nibabel.save(nibabel.Nifti1Image(grey.T.astype(np.float32), AFFINE), folder / "nifti.nii.gz")
    nibabel.save(nibabel.Nifti1Image(grey.T[..., None].astype(np.int16), AFFINE), folder / "nifti_slice.nii")
    write_dicom(folder / "dicom.dcm", grey)
    write_dicom(folder / "without_suffix", grey)
    write_dicom(folder / "monochrome1.dcm", 255 - grey, "MONOCHROME1")
    write_en_face(folder / "en_face.dcm", grey)
    write_en_face(folder / "en_face_monochrome1.dcm", 255 - grey, PhotometricInterpretation="MONOCHROME1")
    write_colours(folder, grey)
    Image.fromarray(read_image(paths[1]).array[:40]).save(folder / "sub" / "wide.png")
    return folder


def write_colours(folder, grey):
    colours = coloured(grey)
    for name, weights in (("luma", (0.299, 0.587, 0.114)), ("luma_709", (0.2125, 0.7154, 0.0721))):  # ITK's digits
        Image.fromarray((colours @ np.array(weights)).astype(np.float32)).save(folder / f"{name}.tif")
    picture = Image.fromarray(colours)
    for name in ("rgb.png", "tiff_rgb.tiff", "bitmap_rgb.bmp", "pixmap.ppm", "photograph.jpg"):
        picture.save(folder / name)
    picture.putalpha(Image.fromarray(grey))
    picture.save(folder / "rgba.png")
    indexed = Image.fromarray(grey, "P")
    indexed.putpalette(coloured(np.arange(256)).tobytes())
    indexed.save(folder / "palette.png")
    indexed.save(folder / "sub" / "gif.gif")
    write_dicom(folder / "dicom_rgb.dcm", colours)
    itk.imwrite(itk.image_from_array(colours, is_vector=True), str(folder / "meta_rgb.mha"))
