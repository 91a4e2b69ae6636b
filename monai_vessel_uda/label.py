"""Start MONAI Label's own server with an exported bundle, on a folder of images.

The server runs in an environment of its own (``make label``), since MONAI Label needs other versions of some packages.
What it works with lies in ``<studies>/monai_label``: the application (``label_app``), a copy of the bundle, which
fine-tuning changes, the scores of active learning, the log. Labels go into ``<studies>/labels``, as MONAI Label has it.
"""

import errno
import json
import logging
import os
import shutil
import socket
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, NoReturn

from .deployment.exported_bundle import check_bundle
from .errors import InputError
from .files import check_path, load_json, save_json, sha256, try_lock

logger = logging.getLogger("monai_vessel_uda")

APPLICATION = Path(__file__).parent / "label_app"
FOLDER = "monai_label"
"""Folder below the studies for everything but images and labels."""
SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg", ".nii", ".nii.gz", ".nrrd", ".mha", ".dcm")
"""Files that are served as images, in lower or upper case."""
_ORIGIN, _LOCK = "origin.json", "server.lock"
"""Which bundle was copied; the lock that says that a server runs."""


def serve(
    studies: str | Path,
    bundle: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    environment: str | Path | None = None,
) -> NoReturn:
    """Become MONAI Label's server for a folder of images.

    Everything is checked before anything is written. The first start copies the bundle; later starts go on with that
    copy and with what was fine-tuned in it.

    Args:
        studies: folder of the images to label.
        bundle: a ``vessel_segmentation`` folder, or a workspace that holds one.
        host: address to listen on. On any but the loopback address everyone on the network can read the images.
        port: to listen on.
        environment: virtual environment that has MONAI Label; by default ``.venv-label`` beside this one.

    Raises:
        InputError: no MONAI Label, a folder that is missing or cannot be written, a bundle that MONAI Label could not
            run as it is, a server that already runs on these studies, a port in use.
    """
    python = label_python(environment)
    studies, bundle = _checked_studies(studies), _checked_bundle(bundle)
    application = studies / FOLDER
    with suppress(FileNotFoundError), open(application / _LOCK) as held:
        _acquire(held, studies)
    served = _checked_copy(application, bundle)
    _check_port(host, port)
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    lock = _prepare(application, bundle, served, url)
    os.set_inheritable(lock.fileno(), True)
    logger.info("MONAI Label with %s on %s; stop it with Ctrl-C", served, url)
    os.chdir(application)
    os.execve(python, _command(python, studies, served.name, host, port), _server_environment(application, python))


def label_python(environment: str | Path | None = None) -> Path:
    """The Python that has MONAI Label.

    Raises:
        InputError: there is none.
    """
    folder = Path(sys.prefix).parent / ".venv-label" if environment is None else Path(environment).absolute()
    if not any(folder.glob("lib/python*/site-packages/monailabel/main.py")):
        raise InputError(
            f"{folder}: expected a virtual environment with MONAI Label; run 'make label', or name one by --environment"
        )
    return folder / "bin" / "python"


def _checked_studies(studies: str | Path) -> Path:
    folder = Path(studies).resolve()
    if not folder.is_dir():
        raise InputError(f"{studies}: no such folder; --studies expects the folder of the images to label")
    check_path(folder)
    images: dict[str, Path] = {}
    for file in sorted(path for path in folder.iterdir() if path.name.lower().endswith(SUFFIXES)):
        check_path(file)
        name = _image_id(file.name)
        if name in images:
            raise InputError(
                f"{file}: MONAI Label tells images apart by their names without suffix, and there is also "
                f"{images[name].name}; rename one"
            )
        images[name] = file
    _check_writable(folder)
    return folder


def _image_id(name: str) -> str:
    suffix = max((known for known in SUFFIXES if name.lower().endswith(known)), key=len)
    return name[: -len(suffix)]


def _checked_bundle(bundle: str | Path) -> Path:
    folder = Path(bundle).resolve()
    if not folder.is_dir():
        raise InputError(f"{bundle}: no such folder; expected a vessel_segmentation bundle or a workspace with one")
    check_path(folder)
    inner = folder / "vessel_segmentation"
    folder = check_bundle(inner if inner.is_dir() else folder)
    required = load_json(folder / "configs" / "metadata.json").get("required_packages_version", {})
    if "monai-vessel-uda" in required or not (folder / "configs" / "train.json").is_file():
        raise InputError(
            f"{folder}: MONAI Label has MONAI's classes alone, this bundle needs more (configs/metadata.json says why) "
            "or has no configs/train.json; if an older version exported it, run 'vessel-uda adapt' again"
        )
    return folder


def _checked_copy(application: Path, bundle: Path) -> Path:
    """Where the copy of the bundle is or will be; if it is there, it must be of this bundle and complete."""
    served = application / "model" / bundle.name
    if (application / _ORIGIN).exists() and served != bundle:
        origin = load_json(application / _ORIGIN)
        copied = application / "model" / origin["name"]
        is_of_bundle = (copied, origin["sha256"]) == (served, sha256(bundle / "models" / "model.pt"))
        if copied.exists() and not is_of_bundle:
            raise InputError(
                f"{application}: holds a copy of another bundle ({origin['bundle']}), perhaps fine-tuned; go on with "
                f"it by --bundle '{copied}', or move {application} away"
            )
    return check_bundle(served) if served.exists() else served


def _check_writable(folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); labels and weights are kept there"
        ) from error


def _check_port(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            candidate.bind(address)
            candidate.listen()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"port {port} is in use on {host}; choose another by --port") from error
        raise InputError(f"{host}:{port}: cannot listen there ({error.strerror}); check --host and --port") from error


def _prepare(application: Path, bundle: Path, served: Path, url: str) -> IO[str]:
    """Lock the folder, put the application and the bundle there; a folder that was not there is not left by a failure.

    Returns:
        The lock. It lasts until its file is closed, also by the end of whatever process inherited it.
    """
    is_ours = False
    try:
        is_new = not application.exists()
        application.mkdir(exist_ok=True)
        lock = open(application / _LOCK, "a+")
        _acquire(lock, application.parent)
        is_ours = is_new  # and no other's that made it at the same time
        shutil.copytree(APPLICATION, application, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        if not served.exists():
            _copy_bundle(bundle, served)
            origin = {"name": bundle.name, "bundle": str(bundle), "sha256": sha256(bundle / "models" / "model.pt")}
            save_json(origin, application / _ORIGIN)
        lock.truncate(0)
        lock.write(url)
        lock.flush()
        return lock
    except (OSError, InputError) as error:
        if is_ours:
            shutil.rmtree(application, ignore_errors=True)
        if isinstance(error, InputError):
            raise
        raise InputError(f"{application}: cannot be written ({error.strerror}); check space and permissions") from error


def _acquire(lock: IO[str], studies: Path) -> None:
    if not try_lock(lock):
        lock.seek(0)
        raise InputError(
            f"{studies}: a MONAI Label server already runs on these studies ({lock.read() or 'starting'}); "
            "use it, or stop it first"
        )


def _copy_bundle(bundle: Path, destination: Path) -> None:
    making = destination.with_name(f".{destination.name}")
    shutil.rmtree(making, ignore_errors=True)
    # Only what MONAI Label reads and what documents it: other forms of the weights would go stale with fine-tuning.
    shutil.copytree(bundle, making, ignore=shutil.ignore_patterns("eval", "mlruns*", "*.ts", "*.onnx", "__pycache__"))
    making.rename(destination)


def _command(python: Path, studies: Path, model: str, host: str, port: int) -> list[str]:
    options = {
        "--app": studies / FOLDER,
        "--studies": studies,
        "--host": host,
        "--port": port,
        "--uvicorn_app": "lib.server:app",
    }
    conf = ["--conf", "models", model, "--conf", "preload", "true"]
    given = [str(part) for option in options.items() for part in option]
    return [str(python), "-m", "monailabel.main", "start_server", *given, *conf]


def _server_environment(application: Path, python: Path) -> dict[str, str]:
    """MONAI Label's settings; those that the user has set win."""
    patterns = [f"*{suffix}" for name in SUFFIXES for suffix in (name, name.upper())]
    settings = {
        "MONAI_LABEL_DATASTORE_FILE_EXT": json.dumps(patterns),
        "MONAI_LABEL_SESSION_PATH": str(application / "sessions"),
    }
    # MONAI Label starts torchrun by its name
    path = f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**settings, **os.environ, "PATH": path}
