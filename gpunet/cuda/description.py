"""`Description`: the numbers of a device by which kernels are chosen and launches laid out."""

from typing import NamedTuple

from gpunet.cuda.tile_table import TileTable


class Description(NamedTuple):
    """The numbers of a device on which tiles and splits depend; the defaults are an H200's."""

    multiprocessors: int = 132
    shared: int = 227 * 1024
    """Bytes of shared memory that a block may take."""
    shared_of_multiprocessor: int = 228 * 1024
    """Bytes of shared memory that the blocks of a multiprocessor share."""
    architecture: int = 90
    """Ten times the compute capability: 90 stands for sm_90."""
    table: TileTable | None = None
    """Tiles and splits that a user has measured, which go before the predicted ones."""


H200 = Description()
