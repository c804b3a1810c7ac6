"""Shows that long work goes on: bars in a terminal and in a notebook, a few lines in a log.

All of it goes to stderr. What takes less than two seconds shows nothing in a log, and next to
nothing in a terminal. The environment variable ``GPUNET_PROGRESS=0`` turns everything off.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from threading import Timer
from time import perf_counter
from typing import Any, TypeVar

T = TypeVar("T")
PATIENCE = 2.0
"""Seconds of work until a log gets its first line; each further line takes twice as long."""
BAR_DELAY = 0.5
"""Seconds of work until a terminal shows a bar."""
LINE = "{desc}: {n_fmt}{unit} in {elapsed}"
LINE_OF_TOTAL = "{desc}: {n_fmt} of {total_fmt}{unit} in {elapsed}"


def bar(what: str, total: int | None = None, unit: str = "", **options: Any) -> Any:
    """Make a tqdm bar on stderr, or return None where a bar would spoil the output.

    A bar that stands below another one goes away when it is closed. It has no thread that redraws
    it while it is idle: at exit, that thread could wait for a lock that Ctrl-C has left locked.
    """
    if not _draws():
        return None
    from tqdm import tqdm

    without_thread = type("Bar", (tqdm,), {"monitor_interval": 0})
    return without_thread(desc=what, total=total, unit=unit, unit_scale=unit == "B", leave=False, **options)


class Progress:
    """Shows work of many parts inside a ``with``; call `update` after each part.

    Args:
        what: what is done, such as ``"reading images"``.
        total: how many parts there are, or something that has this length, if it is known.
        unit: of the parts, such as ``"image"``; ``"B"`` for bytes, which are shown in kB and MB.
        bars, lines: whether a terminal shows a bar, and whether a log gets lines.
    """

    def __init__(
        self, what: str, total: object = None, unit: str = "", *, bars: bool = True, lines: bool = True
    ) -> None:
        self.what, self.unit = what, unit
        self.total = total if isinstance(total, int) else len(total) if isinstance(total, Sized) else None
        self._bars, self._lines = bars, lines and _enabled() and not _draws()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        self._done = self._written = 0
        self._start, self._next_line = perf_counter(), PATIENCE
        self._bar = bar(self.what, self.total, self.unit, delay=BAR_DELAY) if self._bars else None
        return self

    def update(self, count: int = 1) -> None:
        """Count `count` more parts as done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._lines and perf_counter() - self._start >= self._next_line:
            self._next_line *= 2
            self._write_line()

    def __exit__(self, kind: object, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._lines and self._next_line > PATIENCE and self._done != self._written and kind is None:
            self._write_line()

    def _write_line(self) -> None:
        from tqdm import tqdm

        self._written = self._done
        write_line(
            tqdm.format_meter(
                self._done, self.total, perf_counter() - self._start, prefix=self.what,
                unit=self.unit if self.unit == "B" else f" {_plural(self.unit)}" if self.unit else "",
                unit_scale=self.unit == "B", bar_format=LINE if self.total is None else LINE_OF_TOTAL,
            )
        )  # fmt: skip


def track(items: Iterable[T], what: str, unit: str = "", total: object = None) -> Iterator[T]:
    """Go through items and show how many are done, see `Progress`."""
    with Progress(what, items if total is None else total, unit) as shown:
        for item in items:
            yield item
            shown.update()


@contextmanager
def working(what: str, part: str = "") -> Iterator[None]:
    """Show work inside a ``with`` that cannot count its parts.

    Work of one name adds up, such as compilations that a program meets here and there: a terminal
    names each part from half a second on, and a log gets one line in all, after two seconds.
    """
    bars: list[Any] = []
    before, start = _seconds.get(what, 0.0), perf_counter()
    text = f"{what}: {part}" if part else what
    timer = Timer(max((BAR_DELAY if _draws() else PATIENCE) - before, 0), _show_work, [what, text, bars])
    timer.daemon = True
    if _draws() or (_enabled() and what not in _written):
        timer.start()
    try:
        yield
    finally:
        _seconds[what] = before + perf_counter() - start
        if timer.ident is not None:
            timer.cancel()
            timer.join()
        for each in bars:
            each.close()


def _show_work(what: str, text: str, bars: list[Any]) -> None:
    """Show `working`'s text, as a bar that is added to `bars` or as a line."""
    shown = bar(text, bar_format="{desc}")
    if shown is not None:
        bars.append(shown)
    elif what not in _written:
        _written.add(what)
        write_line(f"{text} …")


_seconds: dict[str, float] = {}
"""Seconds that `working` has taken, by what was done."""
_written: set[str] = set()
"""What has had its line."""


def write_line(text: str) -> None:
    """Write a line about long work to stderr, unless that is turned off."""
    with suppress(AttributeError, ValueError, OSError):  # a stderr that is none, or is closed
        if _enabled():
            print(f"gpunet: {text}", file=sys.stderr, flush=True)


def _plural(unit: str) -> str:
    return f"{unit}es" if unit.endswith("ch") else f"{unit}s"


def turn_off() -> None:
    """Show nothing from now on in this process and in those that it starts."""
    os.environ["GPUNET_PROGRESS"] = "0"


def _enabled() -> bool:
    """Whether anything is shown; a program without a console has no stderr."""
    return sys.stderr is not None and os.environ.get("GPUNET_PROGRESS") != "0"


def _draws() -> bool:
    """Whether stderr shows bars: as an open terminal, or as a notebook's cell."""
    try:
        return _enabled() and (sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel"))
    except (AttributeError, ValueError):
        return False
