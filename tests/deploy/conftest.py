"""The environment with MONAI Deploy's app SDK, a bundle for it, and the commands of the pages."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ..docs.commands import ROOT, Block, bash, replaced

PYTHON = ROOT / ".venv-deploy" / "bin" / "python"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run_block() -> Run:
    """Run a block of a page: ``run_block(block(…), {"words": "others"}, STUDY=folder, …)``."""
    if not PYTHON.exists():
        pytest.skip("no .venv-deploy: run 'make deploy'")

    def run(found: Block, words=None, **variables):
        return bash(replaced(found.text, words or {}), ROOT, check=False, **variables)

    return run


APP_CASES = """
import sys
import app
for line in sys.stdin:
    name, *arguments = line.rstrip("\\n").split("|")
    print("case", app.main(arguments), name, sep="|", file=sys.stderr, flush=True)
"""
"""Calls the application several times in one process, since importing the SDK takes most of the time."""


@pytest.fixture(scope="session")
def run_app_cases(run_block) -> Callable[..., dict[str, tuple[int, list[str]]]]:
    """Exit code and error lines of the application for each of several (study, bundle)."""

    def run(cases, out):
        lines = [f"{name}|--input|{study}|--model|{bundle}|--output|{out}\n" for name, (study, bundle) in cases.items()]
        command, folder = [PYTHON, "-c", APP_CASES], ROOT / "docs" / "examples" / "deploy"
        done = subprocess.run(command, input="".join(lines), capture_output=True, text=True, cwd=folder, timeout=300)
        assert done.returncode == 0, done.stderr
        results, errors = {}, []
        for line in done.stderr.splitlines():
            if line.startswith("error: "):
                errors.append(line)
            elif line.startswith("case|"):
                _, code, name = line.split("|")
                results[name], errors = (int(code), errors), []
        return results

    return run


@pytest.fixture(scope="session")
def validator_errors() -> Callable[[Path], list[str]]:
    """What ``dciodvfy`` says is wrong with a DICOM file; warnings count, too."""
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("no dciodvfy: install dicom3tools")

    def errors(path):
        lines = subprocess.run([program, path], capture_output=True, text=True, timeout=60).stderr.splitlines()
        assert lines, "dciodvfy names at least the kind of object"
        return [line for line in lines if line.startswith(("Error", "Warning", "Abort"))]

    return errors


@pytest.fixture(scope="session")
def bundle(adapted) -> Path:
    """The segmenter of a tiny adaptation, as folder."""
    return adapted / "vessel_segmentation"
