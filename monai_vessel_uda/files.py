"""Files that are either whole or absent: write beside, then rename."""

import errno
import hashlib
import io
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .errors import InputError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it becomes ``path``, on failure it vanishes.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix="".join(path.suffixes[-2:]))
        os.close(handle)
        os.chmod(name, 0o666 & ~_umask())
    except OSError as error:
        raise _unwritable(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


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
    except Exception as error:  # torch raises half a dozen types for a file that it cannot read
        raise InputError(
            f"{path}: expected a file of tensors, got something else or a truncated file ({error})"
        ) from error


def save_json(content: Any, path: str | Path) -> None:
    """Indented JSON with sorted keys, atomic; numbers that are not finite become null, since JSON has none."""
    text = json.dumps(_finite(content), indent=2, sort_keys=True, allow_nan=False) + "\n"
    _write(path, lambda temporary: temporary.write_text(text))


def load_json(path: str | Path) -> Any:
    """JSON content.

    Raises:
        InputError: missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except ValueError as error:
        raise InputError(f"{path}: expected JSON ({error})") from error


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _sha256(file: Any) -> str:  # Python 3.10
    digest = hashlib.sha256()
    for block in iter(lambda: file.read(1 << 20), b""):
        digest.update(block)
    return digest.hexdigest()


def _write(path: str | Path, write: Callable[[Path], Any]) -> None:
    with replacing(path) as temporary:
        write(temporary)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _unwritable(path: Path, error: OSError) -> InputError:
    reason = "the disk is full" if error.errno == errno.ENOSPC else str(error)
    return InputError(f"{path}: cannot be written: {reason}")
