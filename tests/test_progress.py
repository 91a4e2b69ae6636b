import io
import logging
import sys

from monai_vessel_uda.progress import Progress, track


class Clock:
    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)


def test_a_log_gets_a_line_now_and_then_with_the_time_left(monkeypatch, caplog):
    clock = Clock(monkeypatch)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    caplog.set_level(logging.INFO, "monai_vessel_uda")
    progress = Progress("training", 100)
    for _ in range(50):
        clock.now += 1
        progress.update(loss=0.5)
    lines = [record.message for record in caplog.records]
    assert 2 <= len(lines) <= 4
    assert lines[0] == "training: 15/100, loss 0.5, 1:25 left"


def test_a_terminal_gets_one_line_rewritten(monkeypatch):
    clock = Clock(monkeypatch)
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress("training", 10)
    for _ in range(10):
        clock.now += 1
        progress.update()
    text = terminal.getvalue()
    assert text.count("\r") >= 4
    assert text.endswith("training: 10/10, 0:10 taken\n")


def test_work_done_before_a_resume_does_not_flatter_the_estimate(monkeypatch, caplog):
    clock = Clock(monkeypatch)
    caplog.set_level(logging.INFO, "monai_vessel_uda")
    progress = Progress("training", 100, done=80)
    for _ in range(15):
        clock.now += 2
        progress.update()
    first = caplog.messages[0]
    done = int(first.split()[1].split("/")[0])
    assert first == f"training: {done}/100, 0:{2 * (100 - done):02d} left"  # two seconds each, not 1/9 of that


def test_track_yields_everything(caplog):
    caplog.set_level(logging.INFO, "monai_vessel_uda")
    assert list(track(range(3), "counting")) == [0, 1, 2]
    assert "counting: 3/3" in caplog.text
