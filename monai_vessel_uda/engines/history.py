"""Losses of a training: shown while it runs, kept in the checkpoint, written as CSV."""

import math
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from ..errors import InputError
from ..files import replacing
from ..progress import Progress


class LossHistory:
    """Mean loss of each epoch, with progress and time left while the epoch runs.

    Of several processes each holds the mean over all of them, and the first writes it.

    Args:
        label: what is being trained, for the progress line.
        path: CSV file to write after each epoch (columns ``iteration``, ``loss``).
    """

    def __init__(self, label: str, path: str | Path) -> None:
        self.label, self.path = label, Path(path)
        self.rows: list[list[float]] = []
        self._sum: Any = 0.0
        self._progress: Progress | None = None

    def attach(self, engine: Engine) -> None:
        """Listen to a trainer whose output holds ``loss``; attach before the checkpoint, which saves the row.

        A training whose mean loss over an epoch is not finite is stopped with an InputError, before its checkpoint.
        """
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._close_epoch)

    def state_dict(self) -> dict[str, Any]:
        """The epochs so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the epochs of a checkpoint."""
        self.rows = [list(row) for row in state["rows"]]

    def _add(self, engine: Engine) -> None:
        # Summed on the device: reading the value at each step would make the host wait for the accelerator.
        state: Any = engine.state
        self._sum = self._sum + state.output["loss"].detach()
        if self._progress is None:  # not before: a resumed engine learns its place only when it starts
            self._progress = Progress(self.label, state.max_epochs * state.epoch_length, done=state.iteration - 1)
        if self.rows:
            self._progress.update(loss=self.rows[-1][1])
        else:
            self._progress.update()

    def _close_epoch(self, engine: Engine) -> None:
        state: Any = engine.state
        mean = float(idist.all_reduce(self._sum)) / idist.get_world_size() / state.epoch_length
        if not math.isfinite(mean):
            raise InputError(
                f"{self.label}: the loss is {mean} after {state.iteration} iterations; lower the learning rate"
            )
        self.rows.append([state.iteration, mean])
        self._sum = 0.0
        self._write()

    @idist.one_rank_only()
    def _write(self) -> None:
        with replacing(self.path) as temporary:
            temporary.write_text("iteration,loss\n" + "".join(f"{i:.0f},{loss:.6g}\n" for i, loss in self.rows))
