"""Clear errors and whole records for those who run a bundle by ``python -m monai.bundle run``.

MONAI takes a misspelt override for a new id and ignores it, and shows a user's mistake as a traceback. The configs of
the stages call :func:`check` first; what a command line sets inside a definition, their records get by
:func:`recorded`. Both do nothing in a process that ``monai.bundle`` did not start, such as ``vessel-uda``.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser

from ..config_ids import hidden_overrides, misspelt, parts_of
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

    Args:
        arguments: the command line; this process's by default.

    Raises:
        InputError: an option that no config has, or a path with '#'.
    """
    options = _options_of_monai(arguments)
    if options is None:
        return
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _one_line
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


def recorded(settings: Mapping[str, Any], arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """A stage's settings and, as ``overrides``, what the command line sets inside definitions and they do not show.

    Args:
        settings: what determines the stage's result, as its config has it.
        arguments: the command line; this process's by default.
    """
    options = _options_of_monai(arguments) or {}
    config = {
        key: value for path in _config_files(options.get("config_file", "")) for key, value in load_json(path).items()
    }
    given = {name: DefaultParseValue(value) for name, value in options.items() if parts_of(name)[0] in config}
    hidden = hidden_overrides(given, config) if given else {}
    return {**settings, **({"overrides": hidden} if hidden else {})}


def _options_of_monai(arguments: Sequence[str] | None) -> dict[str, str] | None:
    """Options of a process that ``monai.bundle`` started, those in its ``--args_file`` included; None in others."""
    arguments = sys.argv if arguments is None else arguments
    if Path(arguments[0]).parts[-3:] != ("monai", "bundle", "__main__.py"):
        return None
    given = dict(_options(arguments[1:]))
    in_file = ConfigParser.load_config_file(given["args_file"]) if "args_file" in given else {}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in in_file.items()}
    return {**texts, **given}


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
