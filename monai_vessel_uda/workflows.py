"""MONAI's own workflow over bundle configs, for whoever runs one: a stage, or an exported bundle."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .config_ids import parts_of, reached
from .files import load_json


def bundle_workflow(configs: Sequence[Path], root: Path, overrides: Mapping[str, Any]) -> Any:
    """What ``python -m monai.bundle run`` would make of these configs.

    Args:
        configs: each is laid over those before it.
        root: the bundle's folder.
        overrides: ids and values; those that no config knows are left out. A stage's ``settings`` get those that they
            would not show.

    Returns:
        A ``monai.bundle.ConfigWorkflow``, not yet initialised.
    """
    from monai.bundle import ConfigWorkflow

    config = {key: value for file in configs for key, value in load_json(file).items()}
    known = {key: value for key, value in overrides.items() if parts_of(key)[0] in config}
    if "settings" in config:
        known |= _recorded(known, config)
    logging.getLogger("ignite").setLevel(logging.WARNING)
    files = [str(file) for file in configs]
    return ConfigWorkflow(files, logging_file=False, workflow_type=None, bundle_root=str(root), **known)


def _recorded(overrides: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides inside a definition, such as ``schedule#beta_end``, that no recorded setting depends on.

    Settings of their own need not be looked at: a stage records those that determine its result.
    """
    shown = reached(config, "settings")
    hidden = {}
    for key, value in overrides.items():
        parts = parts_of(key)
        is_shown = any("#".join(parts[:length]) in shown for length in range(1, len(parts) + 1))
        if not is_shown and isinstance(config[parts[0]], dict | list):
            hidden[".".join(parts)] = json.dumps(value, default=str)  # as text, so that MONAI makes nothing of it
    return {"settings#overrides": hidden} if hidden else {}
