"""What every stage does around its work: a folder, a record of its settings, a mark that it is finished."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import check_path, load_json, save_json
from .tracking import StageTracker

MARK = "stage.json"
"""Written when a stage is finished."""
BEGUN = "settings.json"
"""Written when a stage begins."""


class Stage:
    """One stage of one workspace.

    Args:
        workspace: folder of the adaptation.
        name: name of the stage.
        output_dir: where the stage writes.
        settings: what determines its result; a finished stage is skipped only if these are the same.
        tracking: log to MLflow.
    """

    def __init__(
        self,
        workspace: str | Path,
        name: str,
        output_dir: str | Path,
        settings: Mapping[str, Any],
        tracking: bool = True,
    ) -> None:
        self.name, self.output_dir = name, Path(output_dir)
        self.settings = _plain(settings)
        self.tracker = StageTracker(workspace, name, self.settings, tracking, self.output_dir / "losses.csv")
        self._started, self._continued = time.time(), False

    def finished(self) -> bool:
        """Whether the stage was run to its end with these settings.

        Raises:
            InputError: it was run with other settings.
        """
        return is_finished(self.output_dir, self.settings)

    def start(self) -> "Stage":
        """Make the folder and open the tracked run.

        Raises:
            InputError: an unfinished run with other settings lies there, which this one would continue; or the
                tracking store does not answer.
        """
        check_path(self.output_dir)
        begun = self.output_dir / BEGUN
        self._continued = begun.exists()
        if self._continued:
            _check_same(self.output_dir, load_json(begun), self.settings, "begun")
        save_json(self.settings, begun)
        self._started = time.time()
        self.tracker.start()
        return self

    def finish(self, results: Mapping[str, Any] | None = None) -> None:
        """Drop the checkpoint, mark the stage finished, close the tracked run with the stage's pictures.

        The seconds in the mark are those since the last start; ``continued`` says that there was one before.
        """
        (self.output_dir / "checkpoint.pt").unlink(missing_ok=True)
        seconds = round(time.time() - self._started, 1)
        for picture in sorted(self.output_dir.glob("*.png")):
            self.tracker.log_file(picture)
        self.tracker.log_metrics({"seconds": seconds})
        self.tracker.finish()
        record = {"stage": self.name, "settings": self.settings, "seconds": seconds, "continued": self._continued}
        save_json({**record, "results": _plain(results or {})}, self.output_dir / MARK)


def tracking_handler(stage: Stage) -> StageTracker:
    """The stage's tracker, which is also the Ignite handler that logs its trainer's losses."""
    return stage.tracker


def is_finished(output_dir: str | Path, settings: Mapping[str, Any]) -> bool:
    """Whether ``output_dir`` holds a stage finished with ``settings``; raises InputError if with others."""
    mark = Path(output_dir) / MARK
    if not mark.exists():
        return False
    _check_same(output_dir, load_json(mark)["settings"], _plain(settings), "finished")
    return True


def _check_same(output_dir: str | Path, before: Mapping[str, Any], now: Mapping[str, Any], state: str) -> None:
    changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if changed:
        differences = ", ".join(f"{key}: {before.get(key)!r} then, {now.get(key)!r} now" for key in changed)
        raise InputError(f"{output_dir}: this stage was {state} with other settings ({differences}); delete the folder")


def _plain(value: Any) -> Any:
    """What JSON would give back, so that records compare equal after a round trip."""
    if isinstance(value, Mapping):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
