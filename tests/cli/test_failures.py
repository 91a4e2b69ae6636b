"""What a command says, and with which exit code it ends, where it cannot do its work."""

import errno
import json
import shutil
import subprocess
import sys

import pytest

from monai_vessel_uda import demo
from monai_vessel_uda.errors import InputError

from ..conftest import TINY
from ..permissions import give_up_override
from .commands import run


def raising(error):
    def fail(*args, **kwargs):
        raise error

    return fail


@pytest.mark.parametrize(
    "arguments",
    [
        ["prepare", "w", "--source", "missing", "--target", "missing"],
        ["prepare", "w", "--source", "missing"],
        ["adapt", "w", "--target", "missing"],
        ["adapt", "w", "--source", "missing", "--target", "missing"],
        ["adapt", "w", "--source", "a", "--target", "b", "--upper-bound", "missing"],
        ["adapt", "missing"],
        ["adapt", "missing", "--set", "no_value"],
        ["segment", "missing", "w", "--bundle", "missing"],
        ["evaluate", "missing", "w"],
        ["report", "missing"],
        ["package", "missing"],
        ["convert", "missing", "--to", "onnx"],
        ["import-generator", "missing", "missing", "--domain", "source"],
    ],
)
def test_bad_input_is_one_line_and_code_2_and_leaves_nothing(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert result.stdout == ""
    assert "missing" in line or "no_value" in line or "--target" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_folders_that_cannot_be_written_are_one_line_and_code_2(phantoms, adapted, tmp_path):
    """All commands that write, in one process without root's right to write everywhere."""
    closed, workspace = tmp_path / "closed", tmp_path / "workspace"
    shutil.copytree(adapted, workspace)
    closed.mkdir()
    folders = ["--source", phantoms["source"], "--target", phantoms["target"]]
    images = phantoms["evaluation"]
    settings = [option for key, value in TINY.items() for option in ("--set", f"{key}={json.dumps(value)}")]
    commands = [
        ["prepare", closed / "w", *folders],
        ["adapt", closed / "w", *folders],
        ["demo", closed / "demo", "--jobs", 1],
        ["segment", images / "images", closed / "masks", "--bundle", workspace],
        ["evaluate", workspace, images, "--output", closed / "scores.json"],
        ["package", workspace, "--output", closed],
        ["report", workspace],
        ["convert", workspace, "--to", "torchscript"],
        ["adapt", workspace, "--preset", "demo", *settings],
    ]
    (tmp_path / "commands.json").write_text(json.dumps([[str(a) for a in command] for command in commands]))
    program = f"""
import json
from pathlib import Path
from typer.testing import CliRunner
from monai_vessel_uda.cli import app
for command in json.loads(Path({str(tmp_path / "commands.json")!r}).read_text()):
    result = CliRunner().invoke(app, command)
    print(json.dumps([command[0], result.exit_code, result.stderr.splitlines()[-1:], repr(result.exception)]))
"""
    closable = [closed, *(path for path in (workspace, *workspace.rglob("*")) if path.is_dir())]
    before = {path: path.read_bytes() for path in workspace.rglob("*") if path.is_file()}
    try:
        for folder in closable:
            folder.chmod(0o555)
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, preexec_fn=give_up_override)
    finally:
        for folder in closable:
            folder.chmod(0o755)
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["')]
    assert [result[0] for result in results] == [command[0] for command in commands], done.stderr[-2000:]
    for result in results:
        name, code, (line,), _ = result
        assert code == 2 and line.startswith("error: ") and ("ermission denied" in line or "written" in line), result
        assert str(closed if name not in ("report", "convert") else workspace) in line or name == "adapt", result
    assert not list(closed.iterdir())
    assert {path: path.read_bytes() for path in workspace.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("arguments", [["adapt"], ["demo", "--seeds", "0"], ["nonsense"], ["segment", "a", "b"]])
def test_usage_errors_are_code_2(arguments, calls):
    assert run(*arguments).exit_code == 2
    assert calls == []


def test_input_error_is_found_below_what_wraps_it(monkeypatch):
    error = RuntimeError("Failed to instantiate component")
    error.__cause__ = InputError("rounds: expected K of at least 1,\ngot 0")
    error.__suppress_context__ = True
    monkeypatch.setattr(demo, "run_demo", raising(error))
    result = run("demo")
    assert (result.exit_code, result.stderr) == (2, "error: rounds: expected K of at least 1, got 0\n")


def test_full_disk(monkeypatch):
    monkeypatch.setattr(demo, "run_demo", raising(OSError(errno.ENOSPC, "No space left on device", "w/pairs.pt")))
    result = run("demo")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: w/pairs.pt: the disk is full") and result.stderr.count("\n") == 1


def test_interruption(monkeypatch):
    monkeypatch.setattr(demo, "run_demo", raising(KeyboardInterrupt()))
    result = run("demo")
    assert result.exit_code == 130
    assert result.stderr == "interrupted; run the same command again to continue\n"


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError(errno.EIO, "broken disk")])
def test_what_nobody_foresaw_keeps_its_traceback(error, monkeypatch):
    monkeypatch.setattr(demo, "run_demo", raising(error))
    assert run("demo").exception is error
