"""MONAI's own workflow over bundle configs, for whoever runs one: a stage, or an exported bundle."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .files import load_json


def bundle_workflow(configs: Sequence[Path], root: Path, overrides: Mapping[str, Any]) -> Any:
    """What ``python -m monai.bundle run`` would make of these configs.

    Args:
        configs: each is laid over those before it.
        root: the bundle's folder.
        overrides: ids and values; those that no config knows are left out.

    Returns:
        A ``monai.bundle.ConfigWorkflow``, not yet initialised.
    """
    from monai.bundle import ConfigWorkflow

    ids = {key for file in configs for key in load_json(file)}
    known = {key: value for key, value in overrides.items() if key.split("#")[0] in ids}
    logging.getLogger("ignite").setLevel(logging.WARNING)
    files = [str(file) for file in configs]
    return ConfigWorkflow(files, logging_file=False, workflow_type=None, bundle_root=str(root), **known)
