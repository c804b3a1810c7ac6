"""Calls of a backward pass that wait for others of their kind, so that all of them share a launch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Primitive = Callable[[list[Any]], Any]
"""A primitive of a backend that takes the arguments of several calls."""


class SharedLaunch:
    """Calls of one primitive that a backward pass has put off.

    A call writes gradients of parameters into segments of their arena, which nothing reads before
    the end of the pass, unless another operation has one of these parameters as an input too.

    Args:
        announce: called with each operation and "backward" or, behind the first, "beside", before
            their launch.
    """

    def __init__(self, announce: Callable[[Any, str], None]) -> None:
        self._announce = announce
        self._primitive: Primitive | None = None
        self._operations: list[Any] = []
        self._arguments: list[Any] = []
        self._parameters: set[int] = set()

    def add(self, operation: Any, primitive: Primitive, argument: Any, parameters: Iterable[Any]) -> None:
        """Put off a call of a primitive, which writes the gradients of these parameters."""
        if primitive != self._primitive:
            self.launch()
            self._primitive = primitive
        self._operations.append(operation)
        self._arguments.append(argument)
        self._parameters.update(map(id, parameters))

    def launch_before(self, inputs: Iterable[Any]) -> None:
        """Launch what waits if an operation with these inputs could add to the same gradients."""
        if self._parameters and not self._parameters.isdisjoint(map(id, inputs)):
            self.launch()

    def launch(self) -> None:
        """Launch what waits."""
        operations, arguments, primitive = self._operations, self._arguments, self._primitive
        self._operations, self._arguments, self._parameters = [], [], set()
        if primitive is not None and arguments:
            for i, operation in enumerate(operations):
                self._announce(operation, "beside" if i else "backward")
            primitive(arguments)
