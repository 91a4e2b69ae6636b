"""The zip: what MONAI downloads and loads, and what is refused."""

import shutil
import stat
import zipfile

import pytest
import torch

from monai_vessel_uda import segmenter
from monai_vessel_uda.deployment.archive import opened_bundle, package_bundle, unpack_bundle
from monai_vessel_uda.errors import InputError


@pytest.fixture(scope="session")
def archive(adapted, tmp_path_factory):
    return package_bundle(adapted / "vessel_segmentation", tmp_path_factory.mktemp("zip"))


def test_one_folder_whole_and_the_same_bytes_again(archive, adapted, tmp_path):
    bundle = shutil.copytree(adapted / "vessel_segmentation", tmp_path / "elsewhere")
    for name in ("eval/mask.png", "images/patient.png", "labelled/images/patient.png", "configs/monailabel_train.json"):
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_bytes(b"x")
    assert package_bundle(bundle, tmp_path / "b.zip").read_bytes() == archive.read_bytes()
    names = zipfile.ZipFile(archive).namelist()
    assert {name.split("/")[0] for name in names} == {"vessel_segmentation"}
    expected = {str(p.relative_to(adapted)) for p in (adapted / "vessel_segmentation").rglob("*") if p.is_file()}
    assert set(names) == expected


def test_names_of_other_archives_are_refused(adapted, tmp_path):
    with pytest.raises(InputError, match=r"b.tar: expected the name of a zip, or a folder"):
        package_bundle(adapted / "vessel_segmentation", tmp_path / "b.tar")


def test_monai_downloads_and_loads_it(archive, adapted, tmp_path):
    """With MONAI's own functions: what they return has the bundle's weights."""
    from monai.bundle import download, load
    from monai.networks.nets import UNet

    download(name="vessel_segmentation", url=archive.as_uri(), bundle_dir=str(tmp_path), progress=False)
    assert (tmp_path / "vessel_segmentation" / "configs" / "inference.json").exists()
    network = load("vessel_segmentation", bundle_dir=str(tmp_path))
    saved = torch.load(adapted / "vessel_segmentation" / "models" / "model.pt", weights_only=True)
    assert isinstance(network, UNet)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in network.state_dict().items())


def test_segments_from_the_zip_alone(archive, adapted, phantoms, tmp_path):
    images = phantoms["evaluation"] / "images"
    segmenter.segment(images, tmp_path / "zip", archive)
    segmenter.segment(images, tmp_path / "folder", adapted)
    names = sorted(path.name for path in (tmp_path / "folder").iterdir())
    assert len(names) == 2
    for name in names:
        assert (tmp_path / "zip" / name).read_bytes() == (tmp_path / "folder" / name).read_bytes()


def rewritten(archive, path, extra):
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
        for member in old.infolist():
            new.writestr(member, old.read(member))
        extra(new)
    return path


def add_link(content):
    info = zipfile.ZipInfo("vessel_segmentation/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    content.writestr(info, "/etc/passwd")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda z: z.writestr("../climbed.txt", "x"), "leads outside"),
        (lambda z: z.writestr("vessel_segmentation/../../climbed.txt", "x"), "leads outside"),
        (lambda z: z.writestr("/tmp/climbed.txt", "x"), "leads outside"),
        (lambda z: z.writestr("..\\climbed.txt", "x"), "leads outside"),
        (add_link, "is a link"),
        (lambda z: z.writestr("second/configs/inference.json", "{}"), "one bundle folder"),
    ],
)
def test_refuses_what_climbs_out(archive, tmp_path, fault, message):
    bad = rewritten(archive, tmp_path / "bad.zip", fault)
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(InputError, match=message):
        unpack_bundle(bad, folder)
    assert not list(folder.iterdir())
    assert not list(tmp_path.rglob("climbed*"))


def test_refuses_no_zip_a_damaged_one_and_an_incomplete_bundle(archive, adapted, tmp_path):
    (tmp_path / "text.zip").write_text("not a zip")
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(archive.read_bytes()[:500])
    for path in (tmp_path / "text.zip", damaged, tmp_path / "missing.zip", tmp_path):
        with pytest.raises(InputError), opened_bundle(path):
            pass
    bundle = shutil.copytree(adapted / "vessel_segmentation", tmp_path / "bundle")
    (bundle / "models" / "model.pt").unlink()
    with pytest.raises(InputError, match="no weights"):
        package_bundle(bundle, tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()


def test_does_not_write_over_a_folder(archive, tmp_path):
    unpacked = unpack_bundle(archive, tmp_path)
    assert unpacked == tmp_path / "vessel_segmentation"
    with pytest.raises(InputError, match="exists already"):
        unpack_bundle(archive, tmp_path)
