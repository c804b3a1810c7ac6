"""matplotlib, where a command draws what it measured."""

from __future__ import annotations

from typing import Any


def pyplot() -> Any:
    """matplotlib's pyplot, which draws to files alone; an ImportError that says what to install."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(f'bench: --plot needs matplotlib ({error}): pip install "gpunet[examples]"') from error
    matplotlib.use("Agg")
    from matplotlib import pyplot as plotter

    return plotter
