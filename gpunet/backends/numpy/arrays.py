"""Arrays of `NumpyBackend`: sums that keep their digits, and what the backend says of itself."""

from functools import partial

from gpunet.backends.contract import Array
from gpunet.backends.numpy.blas import controllers
from gpunet.backends.numpy.sums import add_axes
from gpunet.backends.numpy.threads import NumpyThreads


class NumpyArrays(NumpyThreads):
    """Sums by BLAS, and a description that names the threads."""

    def describe(self) -> dict[str, str]:
        """Also the number of threads, and the BLAS with the processor that it is built for."""
        blas = sorted(  # libraries are found in any order
            f"{i['internal_api']} {i['version']} ({i.get('architecture', 'unknown architecture')})"
            for i in (library.info() for library in controllers())
        )
        return {**super().describe(), "threads": str(self.threads), "blas": ", ".join(blas) or "unknown"}

    def sum(self, a: Array, axes: tuple[int, ...]) -> Array:
        if a.dtype.char not in "fd" or not a.flags.c_contiguous:
            return super().sum(a, axes)
        return self._alone(partial(add_axes, a, axes))
