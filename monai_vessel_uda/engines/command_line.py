"""Clear errors for those who run a bundle by ``python -m monai.bundle run``.

MONAI takes a misspelt override for a new id and ignores it, and shows a user's mistake as a traceback. The configs of
the stages call :func:`check` first.
"""

import difflib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from ..errors import InputError, surfacing_input_errors
from ..files import load_json

_OWN_OPTIONS = {
    "args_file",
    "config_file",
    "final_id",
    "init_id",
    "logging_file",
    "meta_file",
    "run_id",
    "tracking",
    "workflow",
    "workflow_type",
}
"""Options of ``monai.bundle run`` itself."""


def check(arguments: Sequence[str] | None = None) -> None:
    """Refuse misspelt overrides and unusable paths, and from here on show an InputError as one line with exit code 2.

    Does nothing in a process that ``monai.bundle`` did not start, such as ``vessel-uda``.

    Args:
        arguments: the command line; this process's by default.

    Raises:
        InputError: an option that no config has, or a path with '#'.
    """
    arguments = sys.argv if arguments is None else arguments
    if Path(arguments[0]).parts[-3:] != ("monai", "bundle", "__main__.py"):
        return
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _one_line
    options = dict(_options(arguments[1:]))
    known = {key.lstrip("+") for path in _config_files(options.get("config_file", "")) for key in load_json(path)}
    for name, value in options.items():
        first = name.replace("::", "#").split("#")[0]
        if first not in known | _OWN_OPTIONS and known:
            close = difflib.get_close_matches(first, sorted(known), n=1)
            hint = f"; did you mean --{close[0]}?" if close else ""
            raise InputError(f"--{name}: no config that was given has this id{hint}")
        if "#" in value and not value.startswith(("$", "@", "%")):
            raise InputError(
                f"--{name}: a path with '#' cannot be used, since bundle configs read it as a separator: {value}; "
                "rename it"
            )


def _options(arguments: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Names and values of ``--name value`` and ``--name=value``."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            yield name.replace("-", "_"), value if equals else following


def _config_files(text: str) -> list[str]:
    """Paths in ``a.json``, ``a.json,b.json`` or ``['a.json','b.json']``."""
    names = [name.strip(" '\"") for name in text.strip("[]() ").split(",")]
    return [name for name in names if name.endswith(".json") and Path(name).is_file()]


def _one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an InputError, however deep MONAI has wrapped it, as one line; leave everything else to Python."""
    try:
        with surfacing_input_errors():
            raise error
    except InputError as mendable:
        print(f"error: {' '.join(str(mendable).split())}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        # an excepthook cannot choose the exit code otherwise
        raise SystemExit(2) from None
    except BaseException:
        sys.__excepthook__(kind, error, trace)
