"""gpunet's own exceptions, and its warnings.

Values and shapes that do not fit raise Python's ValueError, kinds and dtypes its TypeError.
"""

import sys
import warnings
from types import FrameType


class BackendError(RuntimeError):
    """A backend lacks its device, driver or library, or tensors of two backends were mixed."""


class DamagedFileError(ValueError):
    """A file is truncated or altered, or is not of a kind that can be read here."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Give a warning, whose place is the line that called gpunet, however deep inside it arises."""
    frame: FrameType | None = sys._getframe()
    level = 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "gpunet":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
