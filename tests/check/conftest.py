"""A fixture that runs checks in a folder of their own."""

import pytest
from checking import Checks


@pytest.fixture
def checks(tmp_path):
    """Starts checks that write to a new folder."""
    return Checks(tmp_path / "check")
