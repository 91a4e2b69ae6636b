"""Resuming a training so that the result is bitwise that of an uninterrupted one."""

from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from ..errors import InputError
from ..files import load_tensors, save_tensors


class ResumableCheckpoint:
    """Saves every epoch, and continues from the saved state when the engine starts.

    Ignite's ``Checkpoint`` deletes the old file before it has written the new one, and MONAI's ``CheckpointLoader``
    wants the name of an existing file; this handler replaces one file atomically and loads it if it is there. Of
    several processes the first saves and all load; how many there are may change in between.

    Args:
        path: the checkpoint file.
        objects: what to save, by name; each has ``state_dict`` and ``load_state_dict``. The engine itself is added.
        fingerprint: what must be the same for the checkpoint to be continued (settings, data); compared as text.
    """

    def __init__(self, path: str | Path, objects: dict[str, Any], fingerprint: str = "") -> None:
        self.path = Path(path)
        self.objects = objects
        self.fingerprint = fingerprint

    def attach(self, engine: Engine) -> None:
        """Load at the start, save after each epoch."""
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def load(self, engine: Engine) -> None:
        """Restore the objects and the engine's place, if there is a checkpoint.

        Raises:
            InputError: the checkpoint belongs to other settings or another architecture, lies within one of the
                engine's epochs, or not all processes see it.
        """
        if self.path.exists():
            self._restore(engine)
        places: Any = idist.all_gather(engine.state.iteration)
        if len(set(places)) > 1:
            raise InputError(
                f"{self.path}: expected one checkpoint for all processes, but they are at steps {places}; "
                "keep the workspace in a folder that all machines share"
            )

    def _restore(self, engine: Engine) -> None:
        content = load_tensors(self.path, map_location="cpu")
        if content["fingerprint"] != self.fingerprint:
            raise InputError(
                f"{self.path}: this checkpoint was made with other settings; expected {self.fingerprint!r}, "
                f"found {content['fingerprint']!r}. Give those it was made with; only to start anew, delete it."
            )
        for name, thing in self.objects.items():
            try:
                thing.load_state_dict(content[name])
            except (KeyError, RuntimeError, ValueError) as error:
                raise InputError(f"{self.path}: checkpoint of another architecture ({name}: {error})") from error
        engine.state.epoch = self._epochs(engine, content["iteration"])
        engine.state.iteration = content["iteration"]

    def _epochs(self, engine: Engine, iteration: int) -> int:
        """Whole epochs until ``iteration``; by the engine's own epochs, which may be longer or shorter than before."""
        length: Any = engine.state.epoch_length
        epochs, rest = divmod(iteration, length)
        if rest:
            raise InputError(
                f"{self.path}: this checkpoint was made after {iteration} iterations, which cannot be continued with "
                f"{length} iterations per epoch; choose a number that divides {iteration}, such as "
                "the one before"
            )
        return epochs

    @idist.one_rank_only()
    def save(self, engine: Engine) -> None:
        """Replace the checkpoint."""
        content = {name: thing.state_dict() for name, thing in self.objects.items()}
        place = {
            "iteration": engine.state.iteration,
            "fingerprint": self.fingerprint,
        }
        save_tensors({**content, **place}, self.path)
