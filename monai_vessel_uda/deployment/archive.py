"""A bundle as one file: what ``monai.bundle download`` unpacks and ``monai.bundle load`` reads."""

import errno
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from ..errors import InputError
from ..files import load_json, replacing, sha256
from ..settings import bundle_folder
from .exported_bundle import NAME, check_bundle
from .runtimes import FILES, check_converted

PACKED = ("LICENSE", "configs/*", "docs/*", "models/model.*")
"""What of a bundle goes into its archive: never images, results or what a server left there."""
LARGEST = 8 << 30
"""Bytes that an archive may unpack to."""


def package_bundle(bundle: Path, output: Path | None = None) -> Path:
    """Write the bundle as a zip whose one folder is the bundle; the same bundle gives the same bytes.

    Args:
        bundle: exported bundle.
        output: the zip, or a folder to put ``<name>_v<version>.zip`` into; by default beside the bundle.

    Returns:
        Path of the zip.

    Raises:
        InputError: the bundle is incomplete, its scores or converted files are those of other weights, the name is
            that of another kind of archive, or the zip cannot be written.
    """
    check_bundle(bundle)
    metadata = load_json(bundle / "configs" / "metadata.json")
    file_name = f"{NAME}_v{metadata['version']}.zip"
    path = bundle.parent / file_name if output is None else output
    if path.suffix.lower() in (".tar", ".gz", ".tgz", ".7z", ".rar"):
        raise InputError(f"{path}: expected the name of a zip, or a folder for it")
    if path.suffix.lower() != ".zip":
        path = path / file_name
    if sha256(bundle / "models" / "model.pt") != metadata.get("provenance", {}).get("weights_sha256"):
        raise InputError(
            f"{bundle}: its weights are not those that configs/metadata.json describes (fine-tuned?), so its scores "
            "are another's; correct 'provenance' and 'eval_metrics' there first"
        )
    for runtime, name in FILES.items():
        if (bundle / name).exists():
            check_converted(bundle, runtime)
    names = {path.name for path in bundle_folder(NAME).glob("configs/*")}
    found = {member for pattern in PACKED for member in bundle.glob(pattern) if member.is_file()}
    members = sorted(member for member in found if member.parent.name != "configs" or member.name in names)
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in members:
            info = zipfile.ZipInfo(str(PurePosixPath(NAME, *member.relative_to(bundle).parts)))  # dated 1980
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(info, member.read_bytes())
    return path


def unpack_bundle(archive: Path, folder: Path) -> Path:
    """Unpack a bundle's zip below ``folder``, all or nothing.

    Returns:
        The bundle's folder.

    Raises:
        InputError: no zip, a path that leads outside, a link, more than ``LARGEST`` bytes, or no bundle in it.
    """
    making = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=folder))
    try:
        with _opened(archive) as content:
            _check_members(archive, content.infolist())
            content.extractall(making)
        found = sorted(path.parent.parent for path in making.glob("*/configs/inference.json"))
        if len(found) != 1:
            raise InputError(f"{archive}: expected a zip with one bundle folder in it, found {len(found)}")
        check_bundle(found[0])
        destination = folder / found[0].name
        if destination.exists():
            raise InputError(f"{destination}: exists already; delete it or unpack elsewhere")
        return Path(shutil.move(found[0], destination))
    finally:
        shutil.rmtree(making, ignore_errors=True)


@contextmanager
def opened_bundle(path: str | Path) -> Iterator[Path]:
    """The folder of a bundle given as such, as a workspace that holds one, or as a zip (unpacked for the while).

    Raises:
        InputError: nothing there, or an incomplete bundle.
    """
    path = Path(path)
    if path.is_file():
        with tempfile.TemporaryDirectory(prefix="bundle-") as temporary:
            yield unpack_bundle(path, Path(temporary))
        return
    for folder in (path, path / NAME):
        if (folder / "configs" / "inference.json").exists():
            yield check_bundle(folder.resolve())
            return
    raise InputError(f"{path}: expected a vessel_segmentation bundle, its zip, or a workspace that holds one")


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as content:
            yield content
    except FileNotFoundError as error:
        raise InputError(f"{archive}: no such file") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:  # while unpacking: not the archive's fault
            raise
        raise InputError(f"{archive}: cannot be read ({error.strerror})") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted, unknown method
        raise InputError(f"{archive}: expected a zip, got something else or a damaged one ({error})") from error


def _check_members(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    for member in members:
        parts = PurePosixPath(member.filename.replace("\\", "/")).parts
        if ".." in parts or PurePosixPath(member.filename).is_absolute() or ":" in member.filename:
            raise InputError(f"{archive}: refused, since its member {member.filename!r} leads outside the folder")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise InputError(f"{archive}: refused, since its member {member.filename!r} is a link")
    total = sum(member.file_size for member in members)
    if total > LARGEST:
        raise InputError(f"{archive}: refused, since it would unpack to {total / 1e9:.0f} GB")
