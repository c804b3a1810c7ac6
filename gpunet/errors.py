"""gpunet's own exceptions.

Values and shapes that do not fit raise Python's ValueError, kinds and dtypes its TypeError.
"""


class BackendError(RuntimeError):
    """A backend lacks its device, driver or library, or tensors of two backends were mixed."""
