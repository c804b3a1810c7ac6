"""Settings that NumPy reads when it is imported: `conftest.py` imports this file first."""

import os

os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
"""Threads of BLAS that wait for work sleep at once. By default they spin for some milliseconds, on the cores that tests in
other processes need. The value is a power of two, in clock cycles, and 4 is the least."""
