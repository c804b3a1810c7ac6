"""Captured work of the stand-in: who records it, and the orders in which a graph does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from standin.errors import runtime_error

if TYPE_CHECKING:
    from standin.streams import Event, Stream, Task


class Node:
    """A piece of captured work, and what must be done before it."""

    __slots__ = ("after", "run")

    def __init__(self, run: Callable[[], None], after: Sequence[Node | None]):
        self.run, self.after = run, [node for node in after if node is not None]


class Capture:
    """The work that the stream that began it records, and those that have joined by waiting for its events.

    Args:
        origin: the stream that began it.
        mode: a cudaStreamCaptureMode.
    """

    def __init__(self, origin: Stream, mode: int):
        self.origin, self.mode, self.valid, self.ended = origin, mode, True, False
        self._nodes: list[Node] = []
        self._tails: dict[Stream, Node | None] = {origin: None}
        origin.capture = self

    def add(self, stream: Stream, run: Callable[[], None], after: Sequence[Node | None] = ()) -> Node:
        """Record work at the end of a stream, behind these nodes too."""
        if not self.valid:
            raise runtime_error("StreamCaptureInvalidated")
        node = self._tails[stream] = Node(run, [self._tails[stream], *after])
        self._nodes.append(node)
        return node

    def let_wait(self, stream: Stream, event: Event) -> None:
        """Let a stream wait for one of this capture's events; it joins the capture."""
        if self.ended:
            raise runtime_error("CapturedEvent")
        if stream.capture is not None and stream.capture is not self:
            self.valid = stream.capture.valid = False
            raise runtime_error("StreamCaptureMerge")
        if stream.capture is None:
            stream.capture, self._tails[stream] = self, event.node
        else:
            self.add(stream, lambda: None, [event.node])

    def end(self) -> Graph:
        """End it in all of its streams, and return the captured work."""
        self.ended = True
        for stream in self._tails:
            stream.capture = None
        if not self.valid:
            raise runtime_error("StreamCaptureInvalidated")
        late = _behind(self._tails[self.origin])
        if any(node is not None and node not in late for node in self._tails.values()):
            raise runtime_error("StreamCaptureUnjoined")
        return Graph([node.run for node in late], [node.run for node in self._early(late)])

    def _early(self, late: Sequence[Node]) -> list[Node]:
        """An order in which what has been recorded by other streams is done as soon as it can be."""
        own, node = [], self._tails[self.origin]
        while node is not None:
            own.append(node)
            node = node.after[0] if node.after else None
        main = set(own)
        others = [node for node in self._nodes if node not in main]
        order: dict[Node, None] = {}
        for node in reversed(own):
            order[node] = None
            waiting = []
            for other in others:  # in the order in which they were recorded, so a stream's own keep theirs
                if all(before in order for before in other.after):
                    order[other] = None
                else:
                    waiting.append(other)
            others = waiting
        assert order.keys() == set(late)
        return list(order)


def _behind(last: Node | None) -> dict[Node, None]:
    """The nodes that must be done for the last one, each as late as it can be."""
    order: dict[Node, None] = {}
    path = [] if last is None else [last]
    while path:
        missing = [node for node in path[-1].after if node not in order]
        if missing:
            path.append(missing[0])
        else:
            order[path.pop()] = None
    return order


class Graph:
    """Captured work, in two orders that CUDA allows; replays take them in turns.

    Attributes:
        late: what other streams than the first have recorded comes where it is waited for.
        early: it comes as soon as what it waits for is done.
        last: the last replay, for which the next one waits.
    """

    def __init__(self, late: Sequence[Callable[[], None]], early: Sequence[Callable[[], None]]):
        self.late, self.early = late, early
        self.last: Task | None = None
        self._replays = 0

    def replay(self) -> None:
        """Do the work."""
        self._replays += 1
        for run in self.late if self._replays % 2 else self.early:
            run()
