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
        for cause in _chain(error):
            if isinstance(cause, InputError):
                raise cause from None
        raise


def mendable(error: BaseException) -> str | None:
    """What to tell the user, on one line, if an InputError, a full or a closed disk lies beneath what MONAI raised."""
    for cause in _chain(error):
        if isinstance(cause, InputError):
            return " ".join(str(cause).split())
        if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
            return f"{cause.filename or 'writing'}: the disk is full; free some space, then run the same command again"
        if isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and cause.filename:
            return f"{cause.filename}: {cause.strerror}; choose another folder or ask for access to this one"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what lies beneath it, as far as its traceback would show it."""
    while error is not None:
        yield error
        error = error.__cause__ if error.__suppress_context__ else error.__context__
