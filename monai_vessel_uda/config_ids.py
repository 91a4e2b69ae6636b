"""Ids of bundle configs, such as ``generator_def#channels``: whether a config has them, setting them, and paths."""

import difflib
import inspect
import json
import pydoc
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_OF_MONAI = {"_target_", "_mode_", "_disabled_", "_requires_", "_desc_"}
"""What MONAI takes in every definition."""


def misspelt(key: str, configs: Sequence[Any]) -> str | None:
    """Whether none of the configs has an id, so that MONAI would take it for a new one.

    A definition also has the arguments of its ``_target_``, whether they are written there or not.

    Args:
        key: such as ``generator_def#channels`` or ``generator_def::channels``.
        configs: what the JSON files of a run hold.

    Returns:
        None if the id is known, else the known one that it resembles most (empty if there is none).

    Example:
        >>> misspelt("generator_def#chanels", [{"generator_def": {"channels": [8]}}])
        'generator_def#channels'
    """
    nodes = list(configs)
    for part in parts_of(key):
        known = set().union(*map(_names, nodes))
        if part not in known:
            close = difflib.get_close_matches(part, sorted(known), n=1)
            return key.replace(part, close[0], 1) if close else ""
        nodes = [child for node in nodes for child in _children(node, part)]
    return None


def parts_of(key: str) -> list[str]:
    """``generator_def#channels`` or ``generator_def::channels`` as ``["generator_def", "channels"]``."""
    return re.split("#|::", key)


def references(value: Any) -> set[str]:
    """Ids that a config's value names, however deep.

    Example:
        >>> sorted(references({"a": "@one", "b": ["$@two#part + 1"]}))
        ['one', 'two#part']
    """
    if isinstance(value, dict):
        return set().union(*map(references, value.values()))
    if isinstance(value, list):
        return set().union(*map(references, value))
    return set(re.findall(r"@([\w#]+)", value)) if isinstance(value, str) else set()


def reached(config: Mapping[str, Any], key: str) -> set[str]:
    """Ids that an id's value depends on, over any number of steps."""
    found: set[str] = set()
    new = references(config[key])
    while new:
        found |= new
        new = set().union(*(references(config.get(parts_of(name)[0])) for name in new)) - found
    return found


def hidden_overrides(overrides: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """Overrides inside a definition, such as ``schedule#beta_end``, on which nothing in the config's settings depends.

    Settings of their own need not be looked at: a stage records those that determine its result.

    Args:
        overrides: ids that the config has, and values.
        config: of a stage, with ``settings``.

    Returns:
        For example ``{"schedule.beta_end": "0.01"}``: values as text, so that MONAI makes nothing of them.
    """
    shown = reached(config, "settings")
    hidden = {}
    for key, value in overrides.items():
        parts = parts_of(key)
        is_shown = any("#".join(parts[:length]) in shown for length in range(1, len(parts) + 1))
        if not is_shown and isinstance(config[parts[0]], dict | list):
            hidden[".".join(parts)] = json.dumps(value, default=str)
    return hidden


def _names(node: Any) -> set[str]:
    if isinstance(node, list):
        return {str(number) for number in range(len(node))}
    if not isinstance(node, dict):
        return set()
    names = {name.lstrip("+") for name in node}
    return names | _OF_MONAI | _arguments(pydoc.locate(node["_target_"])) if "_target_" in node else names


def _children(node: Any, name: str) -> list[Any]:
    if isinstance(node, list):
        return [node[int(name)]] if name.isdigit() and int(name) < len(node) else []
    return [node[key] for key in (name, f"+{name}") if key in node] if isinstance(node, dict) else []


def _arguments(target: Any) -> set[str]:
    """Names of a function's arguments, or of a class's and its bases', since it may hand them on as ``**options``."""
    functions = [vars(base).get("__init__") for base in target.__mro__] if inspect.isclass(target) else [target]
    return {name for function in functions if callable(function) for name in _parameters(function)}


def _parameters(function: Any) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except ValueError:  # some built-in functions have none to show
        return []


def set_id(config: dict[str, Any], key: str, value: Any) -> None:
    """Set an id such as ``segmenter_def#channels`` or ``strides#0`` in a config, if the config has its first part."""
    *parents, last = parts_of(key)
    if (parents[0] if parents else last) in config:
        node: Any = config
        for parent in parents:
            node = node[int(parent) if isinstance(node, list) else parent]
        node[int(last) if isinstance(node, list) else last] = value


def path_value(path: str | Path) -> str:
    """An absolute path as a value of MONAI's configs, which would rewrite ``#``, their separator of ids, in plain text.

    Example:
        >>> path_value("/data/OCTA"), path_value("/data/patient#1")
        ('/data/OCTA', "$'/data/patient' + chr(35) + '1'")
    """
    text = str(path)
    if "#" not in text:
        return text
    parts = [part for part in re.split("([#@])", text) if part]  # of an expression '@' would begin a reference
    return "$" + " + ".join(f"chr({ord(part)})" if part in "#@" else repr(part) for part in parts)
