"""MONAI's own workflow over bundle configs, for whoever runs one: a stage, or an exported bundle."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .config_ids import hidden_overrides, parts_of, path_value
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
    if "settings" in config and (hidden := hidden_overrides(known, config)):
        known["settings#overrides"] = hidden
    logging.getLogger("ignite").setLevel(logging.WARNING)
    files = [str(file) for file in configs]
    return ConfigWorkflow(files, logging_file=False, workflow_type=None, bundle_root=path_value(root), **known)
