"""The one error a user can cause and can mend."""

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
