"""What every stage does around its work: a folder, a record of what determines the result, a mark at the end."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import check_path, load_json, remove_abandoned, save_json, sha256
from .tracking import StageTracker

MARK = "stage.json"
"""Written when a stage is finished."""
BEGUN = "begun.json"
"""Written when a stage begins."""
GROWS = "rounds"
"""The setting of which a stage, finished or not, may be asked for more: it then does the rest."""


class Stage:
    """One stage of one workspace.

    Args:
        workspace: folder of the adaptation.
        name: name of the stage.
        output_dir: where the stage writes.
        settings: what determines its result; a finished stage is skipped only if these are the same.
        inputs: what it reads of other stages, weights or folders of pairs; made otherwise, this stage is out of date.
        tracking: log to MLflow.
    """

    def __init__(
        self,
        workspace: str | Path,
        name: str,
        output_dir: str | Path,
        settings: Mapping[str, Any],
        inputs: Sequence[str | Path] = (),
        tracking: bool = True,
    ) -> None:
        self.name, self.output_dir = name, Path(output_dir)
        self.settings, self.inputs = _plain(settings), inputs
        self.tracker = StageTracker(workspace, name, self.settings, tracking, self.output_dir / "losses.csv")
        self._started, self._continued = time.time(), False
        self._known: dict[str, Any] = {"settings": self.settings, "inputs": {}}

    def start(self) -> "Stage":
        """Make the folder and open the tracked run.

        Raises:
            InputError: a finished run lies there, or an unfinished one with other settings or inputs, which this one
                would continue; or the tracking store does not answer.
        """
        check_path(self.output_dir)
        self._check_unfinished()
        remove_abandoned(self.output_dir)
        begun = self.output_dir / BEGUN
        self._continued = begun.exists()
        check_begun(self.output_dir, self.settings, self.inputs)
        self._known["inputs"] = identities(self.inputs)
        save_json(self._known, begun)
        self._started = time.time()
        self.tracker.start()
        return self

    def finish(self, results: Mapping[str, Any] | None = None) -> None:
        """Mark the stage finished, drop the checkpoint, close the tracked run with the stage's pictures.

        The seconds in the mark are those since the last start; ``continued`` says that there was one before.
        """
        seconds = round(time.time() - self._started, 1)
        record = {"stage": self.name, **self._known, "seconds": seconds, "continued": self._continued}
        save_json({**record, "results": _plain(results or {})}, self.output_dir / MARK)
        (self.output_dir / "checkpoint.pt").unlink(missing_ok=True)  # not before: a slow upload may be interrupted
        for picture in sorted(self.output_dir.glob("*.png")):
            self.tracker.log_file(picture)
        self.tracker.log_metrics({"seconds": seconds})
        self.tracker.finish()

    def _check_unfinished(self) -> None:
        if not is_finished(self.output_dir, self.settings, self.inputs):
            return
        origin = load_json(self.output_dir / MARK)["results"].get("imported_from")
        if origin:
            raise InputError(
                f"{self.output_dir}: this generator was imported from {origin['file']}, nothing is left to do; to "
                "train one instead, delete the folder"
            )
        raise InputError(
            f"{self.output_dir}: this stage was finished before with these settings, nothing is left to do; to run it "
            "anew, delete the folder"
        )


def tracking_handler(stage: Stage) -> StageTracker:
    """The stage's tracker, which is also the Ignite handler that logs its trainer's losses."""
    return stage.tracker


def is_finished(output_dir: str | Path, settings: Mapping[str, Any], inputs: Sequence[str | Path] = ()) -> bool:
    """Whether ``output_dir`` holds a stage finished with these settings and inputs; InputError if with others.

    One that was finished with fewer ``rounds`` is not.
    """
    mark = Path(output_dir) / MARK
    if not mark.exists():
        return False
    record = load_json(mark)
    _check_same(output_dir, record, settings, inputs, "finished")
    return not _asks_for_more(record["settings"], settings)


def check_begun(output_dir: str | Path, settings: Mapping[str, Any], inputs: Sequence[str | Path] = ()) -> None:
    """Raise InputError if a stage, finished or not, was begun in ``output_dir`` with other settings or inputs."""
    begun = Path(output_dir) / BEGUN
    if not is_finished(output_dir, settings, inputs) and begun.exists():
        _check_same(output_dir, load_json(begun), settings, inputs, "begun")


def identities(inputs: Sequence[str | Path]) -> dict[str, str]:
    """What tells each input from one made otherwise: the hash of weights, or of what determined a stage's pairs.

    Inputs that no record is kept of, such as pairs of the user's own, are left out.
    """
    found = {}
    for path in map(Path, inputs):
        mark = path.parent / MARK
        if path.is_file():
            described = path.with_suffix(".json")
            found[f"{path.parent.name}/{path.name}"] = (
                load_json(described)["sha256"] if described.exists() else sha256(path)
            )
        elif mark.exists():
            record = load_json(mark)
            text = json.dumps([record["settings"], record.get("inputs", {})], sort_keys=True)
            found[f"{path.parent.name}/{path.name}"] = hashlib.sha256(text.encode()).hexdigest()
    return found


def _check_same(
    output_dir: str | Path,
    record: Mapping[str, Any],
    settings: Mapping[str, Any],
    inputs: Sequence[str | Path],
    state: str,
) -> None:
    before, now = record["settings"], _plain(settings)
    changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if _asks_for_more(before, now):
        changed.remove(GROWS)
    if changed:
        differences = ", ".join(f"{key}: {before.get(key)!r} then, {now.get(key)!r} now" for key in changed)
        raise InputError(
            f"{output_dir}: this stage was {state} with other settings ({differences}); give those it was begun with "
            "(an adaptation's are in the workspace's settings.json; of a stage run by itself, in its command); only to "
            "start anew, delete the folder"
        )
    read, there = record.get("inputs", {}), identities(inputs)
    other = sorted(name for name in read.keys() & there.keys() if read[name] != there[name])
    if other:
        raise InputError(
            f"{output_dir}: this stage was {state} with another {', '.join(other)}; put that back, or, to make the "
            "stage anew from what is there now, delete the folder"
        )


def _asks_for_more(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    return GROWS in before and GROWS in now and before[GROWS] < now[GROWS]


def _plain(value: Any) -> Any:
    """What JSON would give back, so that records compare equal after a round trip."""
    if isinstance(value, Mapping):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
