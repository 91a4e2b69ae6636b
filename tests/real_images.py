"""Real images, which no clone brings along: FIVES, HRF, CHASE_DB1 and ROSSA in one folder."""

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("VESSEL_UDA_DATA", Path(__file__).parents[2] / "shared" / "data"))
ABSENT = f"real images are not at {DATA} (set VESSEL_UDA_DATA)"


def needs_real_images(*folders: str) -> pytest.MarkDecorator:
    """Mark of a test that reads some of them."""
    return pytest.mark.skipif(not all((DATA / folder).is_dir() for folder in folders), reason=ABSENT)
