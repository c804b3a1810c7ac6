"""What the tests of several areas share."""

from helpers.differences import check_gradients, gradients
from helpers.marks import needs_cuda, needs_emulator
from helpers.values import apart, host, relative_error, same

__all__ = ["apart", "check_gradients", "gradients", "host", "needs_cuda", "needs_emulator", "relative_error", "same"]
