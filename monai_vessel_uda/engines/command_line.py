"""Clear errors for those who run a bundle by ``python -m monai.bundle run``.

MONAI takes a misspelt override for a new id and ignores it, and shows a user's mistake as a traceback. The configs of
the stages call :func:`check` first.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from ..config_ids import misspelt
from ..errors import InputError, mendable
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
    configs = [load_json(path) for path in _config_files(options.get("config_file", ""))]
    for name, value in options.items():
        close = misspelt(name, configs) if configs and name not in _OWN_OPTIONS else None
        if close is not None:
            hint = f"; did you mean --{close}?" if close else ""
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
    """Print what a user can mend, however deep MONAI has wrapped it, as one line; leave everything else to Python."""
    message = mendable(error)
    if message is None:
        sys.__excepthook__(kind, error, trace)
        return
    print(f"error: {message}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    # an excepthook cannot choose the exit code otherwise
    raise SystemExit(2) from None
