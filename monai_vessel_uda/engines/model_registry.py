"""MLflow's model registry: an exported bundle becomes a version of a registered model.

The registered model is the bundle folder itself, file by file, not a flavour of MLflow around it: what
``mlflow artifacts download --artifact-uri models:/vessel_segmentation/1`` brings runs with ``python -m monai.bundle``,
needs no pickle and no MLflow, and has the hash that was exported.
"""

import logging
import re
from pathlib import Path

from .. import __version__
from ..errors import InputError
from .tracking_store import Store

logger = logging.getLogger("monai_vessel_uda")

HASH_TAG = "weights_sha256"
"""Of the adaptation's run and of a version: which weights."""


def check_model_name(name: str) -> str:
    """Return a name that MLflow's registry takes.

    Raises:
        InputError: it has other characters than letters, digits, dots, dashes, underscores and spaces.
    """
    if not re.fullmatch(r"[\w.\- ]+", name):
        raise InputError(
            f"registered_model: expected letters, digits, dots, dashes, underscores or spaces, got {name!r}"
        )
    return name


def register_bundle(store: Store, run: str, bundle: Path, digest: str, model: str, adaptation: str) -> None:
    """Log a bundle as artifact of a run and make it a version of a registered model, unless that was done before.

    Args:
        store: the store.
        run: of the adaptation.
        bundle: the exported folder.
        digest: SHA-256 of its weights.
        model: name of the registered model; made if it does not exist.
        adaptation: its name, a tag of the version.
    """
    client = store.client
    known = client.get_run(run)
    place = f"{bundle.name}/{digest[:12]}"  # never overwritten by later weights: versions point to it
    if known.data.tags.get(HASH_TAG) != digest:
        client.log_artifacts(run, str(bundle), place)
        client.set_tag(run, HASH_TAG, digest)  # last: an upload that broke off is made again
    if client.search_model_versions(f"name = '{model}' and tags.{HASH_TAG} = '{digest}'"):
        return
    if not client.search_registered_models(f"name = '{model}'"):
        client.create_registered_model(model, description="Vessel segmenters: MONAI bundles of monai_vessel_uda")
    tags = {HASH_TAG: digest, "monai_vessel_uda": __version__, "adaptation": adaptation}
    version = client.create_model_version(model, f"{known.info.artifact_uri}/{place}", run_id=run, tags=tags)
    logger.info("registered in MLflow: models:/%s/%s", model, version.version)
