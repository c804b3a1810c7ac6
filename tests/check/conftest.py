"""A folder, and what runs checks in it."""

import pytest
from checking import Checks


@pytest.fixture
def checks(tmp_path):
    """Checks whose output is a new folder."""
    return Checks(tmp_path / "check")
