"""What is installed from a wheel works without the repository: its bundles and presets are inside."""

import subprocess
import sys

import pytest

from monai_vessel_uda.segmenter import segment

from .docs.commands import ROOT, environment


def python(*arguments, cwd, **variables):
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment(**variables))
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder of the package as pip unpacks it, dependencies aside."""
    folder = tmp_path_factory.mktemp("wheel")
    python("-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    python("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", target, wheel, cwd=folder)
    return target


def test_bundles_presets_and_pages_are_those_of_the_repository(installed):
    inside = installed / "monai_vessel_uda" / "_bundles"
    expected = {path.relative_to(ROOT / "bundles") for path in (ROOT / "bundles").rglob("*") if path.is_file()}
    found = {path.relative_to(inside) for path in inside.rglob("*") if path.is_file()}
    assert found == expected
    assert all((inside / name).read_bytes() == (ROOT / "bundles" / name).read_bytes() for name in expected)


def test_prepare_and_segment(installed, phantoms, adapted, tmp_path):
    program = "from monai_vessel_uda.settings import bundles_folder; print(bundles_folder())"
    assert python("-c", program, cwd=tmp_path, PYTHONPATH=installed).strip().startswith(str(installed))
    cli = ["-m", "monai_vessel_uda.cli"]
    images = ["--source", phantoms["source"], "--target", phantoms["target"]]
    python(*cli, "prepare", tmp_path / "w", *images, cwd=tmp_path, PYTHONPATH=installed)
    options = ["--bundle", adapted, "--device", "cpu"]
    python(*cli, "segment", phantoms["target"], tmp_path / "out", *options, cwd=tmp_path, PYTHONPATH=installed)
    segment(phantoms["target"], tmp_path / "expected", adapted, device="cpu")
    expected = {path.relative_to(tmp_path / "expected"): path for path in (tmp_path / "expected").rglob("*_vessels.*")}
    assert len(expected) == 4
    assert all((tmp_path / "out" / name).read_bytes() == path.read_bytes() for name, path in expected.items())
