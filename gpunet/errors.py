"""The exceptions that are gpunet's own; bad values and shapes are ValueError, bad kinds and dtypes TypeError."""


class BackendError(RuntimeError):
    """A device, driver or library that a backend needs is absent, or tensors of two backends were mixed."""
