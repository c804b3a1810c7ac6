"""`Description`: the numbers of a device by which launches are laid out."""

from typing import NamedTuple


class Description(NamedTuple):
    """The numbers of a device on which tiles and splits depend; the defaults are an H200's."""

    multiprocessors: int = 132
    shared: int = 227 * 1024
    """Bytes of shared memory that a block may take."""
    shared_of_multiprocessor: int = 228 * 1024
    """Bytes of shared memory that the blocks of a multiprocessor share."""


H200 = Description()
