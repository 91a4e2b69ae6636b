"""The one error a user can cause and can mend."""


class InputError(ValueError):
    """Something the user supplied cannot be used.

    The message names the file or key, says what was expected and what was received, and what to do.
    The command line prints it on one line and exits with code 2.
    """
