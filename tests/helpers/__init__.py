"""What the tests of several areas share."""

from helpers.differences import check_gradients, gradients
from helpers.values import apart, host, relative_error, same

__all__ = ["apart", "check_gradients", "gradients", "host", "relative_error", "same"]
