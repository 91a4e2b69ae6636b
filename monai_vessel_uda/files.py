"""Files that are either whole or absent: write beside, then rename. Folders in which one process works at a time."""

import errno
import hashlib
import io
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch

from .errors import InputError

_WRITING = ".writing-"
_LOCK = ".lock"


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a path of the same name in a temporary folder beside ``path``; on success what was written there moves in.

    A format that spreads over several files (``.mhd`` and its pixels) may write them all under that name.

    Raises:
        InputError: the disk is full or the folder cannot be written; then everything is as it was. What fails with
            another file, an input that is not there, say, is raised as it is.
    """
    path = Path(path)
    folder: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=_WRITING, dir=path.parent))
        yield folder / path.name
        # The named file last: a header must not appear before its pixels.
        for written in sorted(folder.iterdir(), key=lambda file: file.name == path.name):
            os.replace(written, path.parent / written.name)
    except OSError as error:
        if not _about_writing(error, path.parent):
            raise
        reason = "the disk is full" if error.errno == errno.ENOSPC else " ".join(str(error).split())
        advice = "free some space or choose another folder" if error.errno == errno.ENOSPC else "choose another folder"
        raise InputError(f"{path}: cannot be written ({reason}); {advice}.") from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _about_writing(error: OSError, folder: Path) -> bool:
    """Whether an error came of writing below a folder, or of making it; what fails in an open file names none."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or isinstance(error.filename, int | None):
        return True
    named, folder = Path(os.path.abspath(os.fsdecode(error.filename))), Path(os.path.abspath(folder))
    return folder in (named, *named.parents) or named in folder.parents


def remove_abandoned(folder: Path) -> None:
    """Delete what processes that were killed while they wrote have left anywhere below a folder.

    What is younger than ten minutes may be another process's, which is writing it.
    """
    for left in folder.rglob(f"{_WRITING}*"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > 600:
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def working_alone(folder: str | Path) -> Iterator[None]:
    """Be the only process that works in a folder, as far as others ask for it, too.

    The lock ends with the process, however that ends. A folder that cannot be written is left to what writes there.

    Raises:
        InputError: another process works in the folder.
    """
    lock = _locked(Path(folder) / _LOCK)
    try:
        yield
    finally:
        if lock is not None:
            with lock, suppress(OSError):
                os.unlink(lock.name)


def _locked(path: Path) -> IO[str] | None:
    while True:
        try:
            lock = open(path, "a")
        except OSError:
            return None
        if not try_lock(lock):
            lock.close()
            raise InputError(f"{path.parent}: another command works in this folder; wait until it ends, or stop it")
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock
        lock.close()  # whoever held it has removed the file meanwhile


def try_lock(file: IO[str]) -> bool:
    """Lock an open file until it is closed, also by the end of this process and of those that inherited it.

    Returns:
        Whether nobody else holds the lock. Some network folders, and Windows, know no such locks; there it is always
        true.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def save_tensors(content: Any, path: str | Path) -> None:
    """``torch.save``, atomic. Only plain tensors, numbers, strings and containers of them load again."""
    buffer = io.BytesIO()  # torch's own file writer hides the reason when the disk is full
    torch.save(content, buffer)
    _write(path, lambda temporary: temporary.write_bytes(buffer.getbuffer()))


def load_tensors(path: str | Path, **kwargs: Any) -> Any:
    """``torch.load`` with ``weights_only=True``; never runs code from the file.

    Raises:
        InputError: missing, truncated, or holding something other than tensors.
    """
    try:
        return torch.load(path, weights_only=True, **kwargs)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except MemoryError:
        raise
    except Exception as error:  # torch raises half a dozen types for a file that it cannot read
        # torch's own text would advise to load it with code execution allowed
        raise InputError(
            f"{path}: expected a file of tensors, got something else or a truncated file ({type(error).__name__})"
        ) from error


def save_json(content: Any, path: str | Path) -> None:
    """Indented JSON with sorted keys, atomic; numbers that are not finite become null, since JSON has none."""
    text = json.dumps(_finite(content), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    _write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def load_json(path: str | Path) -> Any:
    """JSON content.

    Raises:
        InputError: missing, unreadable or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{path}: expected JSON ({error})") from error


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal.

    Raises:
        InputError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}); check the path.") from error
    return digest.hexdigest()


def check_path(path: str | Path) -> None:
    """Refuse paths that MONAI's config language would rewrite ('#' separates ids there)."""
    if "#" in str(path):
        raise InputError(
            f"{path}: a path with '#' cannot be used, since bundle configs read it as a separator; rename it"
        )


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: str | Path, write: Callable[[Path], Any]) -> None:
    with replacing(path) as temporary:
        write(temporary)
