"""An export where an earlier one lies: renewed, replaced, or kept aside if a person changed it."""

import itertools
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from .. import __version__
from ..files import load_json, sha256
from .exported_bundle import METADATA, WITH_SCORES, record_scores, write_config

logger = logging.getLogger("monai_vessel_uda")


def renew_bundle(bundle: Path, made: Path) -> None:
    """Move the files of ``made`` into an older export of the same weights, unless they are as they were there.

    Scores of the older export are recorded in the new files. If a person changed its files, nothing is moved.

    Args:
        bundle: the older export.
        made: the new one; taken apart.
    """
    old, new = (load_json(folder / METADATA) for folder in (bundle, made))
    made_by = old.get("provenance", {})
    before, after = made_by.get("files", {}), new["provenance"]["files"]
    if before == after:
        return
    written = {name: (digest, after.get(name)) for name, digest in before.items() if name not in WITH_SCORES}
    edited = [name for name in written if (bundle / name).is_file() and sha256(bundle / name) not in written[name]]
    if edited:
        logger.warning(
            "%s: not renewed for monai_vessel_uda %s, since %s changed after the export; move the folder away to "
            "have it exported anew",
            bundle,
            __version__,
            ", ".join(edited),
        )
        return
    new["provenance"] |= {key: made_by[key] for key in ("package", "python") if key in made_by}  # made the weights
    write_config(new, made / METADATA)
    if scores := made_by.get("scores"):
        record_scores(made, scores["summary"], scores["images"])
    for name in before.keys() - after.keys():
        (bundle / name).unlink(missing_ok=True)
    for name in sorted(after, key=lambda name: name == METADATA):  # it last: until then the next run begins again
        (bundle / name).parent.mkdir(exist_ok=True)
        os.replace(made / name, bundle / name)


def replace_bundle(bundle: Path, made: Path) -> None:
    """Put ``made`` where an export of other weights may lie, which is kept if it holds what is a person's.

    Args:
        bundle: where the bundle goes, and the older export, if any, lies.
        made: the new export; moved.
    """
    touched = _not_as_exported(bundle, made)
    if touched:
        kept = _free_name(f"{bundle}.before-{sha256(made / 'models' / 'model.pt')[:8]}")
        bundle.rename(kept)
        logger.warning(
            "%s: kept as %s, since it holds files that were added or changed after the export (%s)",
            bundle,
            kept.name,
            ", ".join([*touched[:3], *([f"and {len(touched) - 3} more"] if len(touched) > 3 else [])]),
        )
    else:
        shutil.rmtree(bundle, ignore_errors=True)
    made.rename(bundle)


def _not_as_exported(bundle: Path, made: Path) -> list[str]:
    """Files that the export of ``bundle`` did not write so; those with scores if the rest differs from ``made``."""
    names = sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if not path.is_dir())
    if METADATA not in names:
        return names
    written = load_json(bundle / METADATA).get("provenance", {}).get("files", {})
    plain = [name for name in names if name not in WITH_SCORES and sha256(bundle / name) != written.get(name)]
    scored = [name for name in WITH_SCORES if name in names and _unscored(bundle / name) != _unscored(made / name)]
    return [*plain, *scored]


def _unscored(path: Path) -> Any:
    """What scores and versions do not change in one of the files that hold them."""
    if path.name == "metadata.json":
        vary = {"eval_metrics", "provenance", "required_packages_version"}
        return {key: v for key, v in load_json(path).items() if key not in vary and not key.endswith("_version")}
    before, _, rest = path.read_text(encoding="utf-8").partition("<!-- performance -->")
    return before, rest.partition("<!-- /performance -->")[2]


def _free_name(name: str) -> Path:
    further = (f"{name}-{number}" for number in itertools.count(2))
    return next(path for path in map(Path, itertools.chain([name], further)) if not path.exists())
