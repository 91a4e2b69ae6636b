"""Progress with time left, on a terminal and in a log alike."""

import logging
import multiprocessing
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

logger = logging.getLogger("monai_vessel_uda")
T = TypeVar("T")


class Progress:
    """Counts work towards a known total and says how long the rest will take.

    A terminal gets one line that is rewritten; a log, and a terminal that several processes write to, gets a new line
    every ``log_every`` seconds. Work that ends within five seconds prints nothing but its end. Nothing at all is
    printed where the package's logger lets no warnings through, as in all but the first of several processes.

    Args:
        label: what is being done.
        total: units of work.
        done: units done before this process started (a resumed run), left out of the estimate.
        log_every: seconds between lines in a log.
    """

    def __init__(self, label: str, total: int, done: int = 0, log_every: float = 15.0) -> None:
        self.label, self.total, self.done = label, total, done
        self._resumed_at = done
        self._started = self._last = time.monotonic()
        alone = multiprocessing.parent_process() is None
        self._terminal = alone and sys.stderr.isatty() and logger.isEnabledFor(logging.WARNING)
        self._interval = 0.2 if self._terminal else log_every

    def update(self, units: int = 1, **values: float) -> None:
        """Count ``units`` more and, if it is time, print the state with ``values`` (losses and the like)."""
        self.done += units
        now = time.monotonic()
        if self.done >= self.total or (now - self._last >= self._interval and now - self._started >= 5):
            self._last = now
            self._print(self._line(now, values))

    def _line(self, now: float, values: dict[str, float]) -> str:
        elapsed = now - self._started
        rate = (self.done - self._resumed_at) / elapsed if elapsed > 0 else 0.0
        left = (self.total - self.done) / rate if rate > 0 else float("nan")
        shown = "".join(f", {name} {value:.4g}" for name, value in values.items())
        timing = f"{clock(elapsed)} taken" if self.done >= self.total else f"{clock(left)} left"
        return f"{self.label}: {self.done}/{self.total}{shown}, {timing}"

    def _print(self, line: str) -> None:
        if self._terminal:
            end = "\n" if self.done >= self.total else ""
            sys.stderr.write(f"\r\x1b[2K{line}{end}")
            sys.stderr.flush()
        else:
            logger.info(line)


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Iterate with :class:`Progress`."""
    if total is None:
        total = len(items) if isinstance(items, Sized) else 0
    progress = Progress(label, total)
    for item in items:
        yield item
        progress.update()


def log_to_stderr(prefix: str = "") -> None:
    """Our progress on stderr and nothing else: what Ignite and MONAI log as errors reaches the user as exceptions.

    Args:
        prefix: of every message.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"%(asctime)s  {prefix}%(message)s", "%H:%M:%S"))
    logger.setLevel(logging.INFO)
    handlers: dict[str, logging.Handler] = {"monai_vessel_uda": handler}
    # MONAI gives its loggers a handler on stdout unless they exist before it is imported.
    handlers |= {name: logging.NullHandler() for name in ("ignite", "monai.bundle.workflows")}
    for name, only in handlers.items():
        logging.getLogger(name).handlers, logging.getLogger(name).propagate = [only], False
    warnings.filterwarnings("ignore", category=FutureWarning)


def clock(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``.

    Example:
        >>> clock(75.2), clock(3725)
        ('1:15', '1:02:05')
    """
    if seconds != seconds:
        return "?"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
