"""Commands of the README and the pages in ``docs``: taken from the page and run in the words that stand there.

A page's block of commands is a fence of ``bash`` or ``python`` under a mark that says where it is run::

    <!-- run -->                              by tests/docs/test_deployment.py, as it is
    <!-- run by tests/label -->               by a test there, which asks for it with `block`
    <!-- not run: needs a GPU -->

Words that a test cannot take as they are (a port, a number of epochs) are exchanged by `replaced`.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "latent_mining.md", "deployment.md", "monai_label.md", "monai_deploy.md")
MARK = re.compile(r"<!-- (run|run by \S+|not run: .+) -->")


@dataclass(frozen=True)
class Block:
    """One fence of a page.

    Attributes:
        name: heading of its section; the second one there is "Heading (2)".
        mark: as in ``<!-- mark -->``; empty if the line before the fence is none.
        language: of the fence; empty if it says none.
        text: the commands.
    """

    page: str
    name: str
    mark: str
    language: str
    text: str


def path_of(page: str) -> Path:
    """The README lies at the top, the pages in ``docs``."""
    return ROOT / page if page == "README.md" else ROOT / "docs" / page


@cache
def blocks(page: str) -> tuple[Block, ...]:
    """All marked blocks and all of bash and python, in their order."""
    found: list[Block] = []
    section, before, fence = "", "", None
    for line in path_of(page).read_text().splitlines():
        if fence is not None and line == "```":
            mark, language, text = fence
            earlier = sum(block.name.split(" (")[0] == section for block in found)
            name = f"{section} ({earlier + 1})" if earlier else section
            if mark or language in ("bash", "python"):
                found.append(Block(page, name, mark, language, "".join(text)))
            fence = None
        elif fence is not None:
            fence[2].append(f"{line}\n")
        elif line.startswith("```"):
            marked = MARK.fullmatch(before)
            fence = (marked.group(1) if marked else "", line.removeprefix("```"), [])
        elif line.startswith("#"):
            section = line.lstrip("# ")
        before = line
    return tuple(found)


def block(page: str, name: str) -> Block:
    """The block of a page by its name.

    Example:
        >>> print(block("deployment.md", "MONAI Label").text.splitlines()[0])
        make label
    """
    by_name = {found.name: found for found in blocks(page)}
    assert name in by_name, f"{page} has blocks in {list(by_name)}, none in {name!r}"
    return by_name[name]


def replaced(text: str, words: Mapping[str, object]) -> str:
    """``text`` with other words in some places, all of which must be there.

    Example:
        >>> replaced("server --port 5000", {"5000": 8123})
        'server --port 8123'
    """
    for word, other in words.items():
        assert word in text, f"expected {word!r} in\n{text}"
        text = text.replace(word, str(other))
    return text


def environment(**variables: object) -> dict[str, str]:
    """This process's environment with the programs beside its Python, one thread, and the page's variables."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    given = {name: str(value) for name, value in variables.items()}
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **given}


def bash(
    text: str, cwd: str | Path, *, check: bool = True, timeout: float = 400, **variables: object
) -> subprocess.CompletedProcess[str]:
    """Run a block up to its first command that fails; a variable that is not given is a failure, too."""
    command = ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment(**variables), timeout=timeout
    )
    assert not check or done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done
