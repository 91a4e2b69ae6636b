"""Small data sets."""

import pytest

from .trees import TREES, make


@pytest.fixture
def tree(tmp_path):
    """A function that makes a small data set, by its layout's name."""
    return lambda name: make(tmp_path / "clinic", TREES[name])
