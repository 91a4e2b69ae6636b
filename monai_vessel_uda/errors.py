"""The one error a user can cause and can mend."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Something the user supplied cannot be used.

    The message names the file or key, says what was expected and what was received, and what to do.
    The command line prints it on one line and exits with code 2.
    """


@contextmanager
def surfacing_input_errors() -> Iterator[None]:
    """Let an InputError through as itself, from wherever MONAI's transforms and configs have wrapped it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, InputError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise cause from None


def mendable(error: BaseException) -> str | None:
    """What to tell the user, on one line, if an InputError, a full or a closed disk lies beneath what MONAI raised."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InputError):
            return " ".join(str(cause).split())
        if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
            return f"{cause.filename or 'writing'}: the disk is full; free some space, then run the same command again"
        if isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and cause.filename:
            return f"{cause.filename}: {cause.strerror}; choose another folder or ask for access to this one"
        cause = cause.__cause__ if cause.__suppress_context__ else cause.__context__
    return None
