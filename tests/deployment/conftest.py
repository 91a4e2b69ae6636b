"""An environment that has MONAI but not this package, and one picture in every format."""

import subprocess
import sysconfig
import venv

import nibabel
import numpy as np
import pytest
from PIL import Image

from monai_vessel_uda.data.images import read_image

from ..deploy.en_face import write_en_face


@pytest.fixture(scope="session")
def without_package(tmp_path_factory):
    """Runs a Python of its own with the packages of this environment, except for this one."""
    folder = tmp_path_factory.mktemp("without_package")
    venv.create(folder, symlinks=True, with_pip=False)

    def run(*arguments, cwd, check=True):
        # a folder on PYTHONPATH is no site folder: the file there that leads to an editable install is not read
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": sysconfig.get_paths()["purelib"], "OMP_NUM_THREADS": "1"}
        command = [str(folder / "bin" / "python"), *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300)
        assert not check or result.returncode == 0, (result.stdout + result.stderr)[-3000:]
        return result

    probe = run("-c", "import monai, torch\nimport monai_vessel_uda.errors", cwd="/", check=False)
    assert "No module named 'monai_vessel_uda" in probe.stderr
    return run


def write_dicom(path, array):
    """A secondary capture, grey or RGB."""
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
    data.PhotometricInterpretation = "MONOCHROME2" if array.ndim == 2 else "RGB"
    if array.ndim == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.PixelData = array.astype(np.uint8).tobytes()
    data.save_as(path, enforce_file_format=True)


AFFINE = np.array([[-0.1, 0, 0, 3], [0, 0.2, 0, -4], [0, 0, 1, 5], [0, 0, 0, 1]])


@pytest.fixture(scope="session")
def every_format(phantoms, tmp_path_factory):
    """One non-square picture in 17 files, and a second one of another size."""
    folder = tmp_path_factory.mktemp("formats")
    (folder / "sub").mkdir()
    paths = sorted((phantoms["evaluation"] / "images").glob("*.png"))
    grey = read_image(paths[0]).array[:, :50]
    picture = Image.fromarray(grey)
    for mode, name in (("L", "grey"), ("RGB", "rgb"), ("RGBA", "rgba"), ("P", "palette"), ("LA", "grey_alpha")):
        picture.convert(mode).save(folder / f"{name}.png")
    picture.save(folder / "tiff.tif")
    picture.convert("RGB").save(folder / "tiff_rgb.tiff")
    picture.save(folder / "bitmap.bmp")
    picture.save(folder / "sub" / "gif.gif")
    sixteen = Image.fromarray(grey.astype(np.uint16) * 257)
    sixteen.save(folder / "sixteen.png")
    sixteen.save(folder / "sixteen_tiff.tif")
    Image.fromarray(grey.astype(np.float32) / 255).save(folder / "float.tif")
    nibabel.save(nibabel.Nifti1Image(grey.T.astype(np.float32), AFFINE), folder / "nifti.nii.gz")
    nibabel.save(nibabel.Nifti1Image(grey.T[..., None].astype(np.int16), AFFINE), folder / "nifti_slice.nii")
    write_dicom(folder / "dicom.dcm", grey)
    write_dicom(folder / "dicom_rgb.dcm", np.repeat(grey[..., None], 3, axis=-1))
    write_en_face(folder / "en_face.dcm", grey)
    Image.fromarray(read_image(paths[1]).array[:40]).save(folder / "sub" / "wide.png")
    return folder
