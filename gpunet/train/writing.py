"""Writes checkpoints on a thread of its own, so that training waits only for the copy of its state."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Self

from gpunet.interop.container import Snapshot


class BackgroundWriter:
    """Writes snapshots to files in the order in which they come.

    A snapshot that still waits gives way to a newer one of the same file, so that a slow disk holds
    up no training, and no file has more than two snapshots in memory. The thread lives while there
    is something to write, and the interpreter waits for it before it ends.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[Path, tuple[Snapshot, int]] = {}
        self._idle = threading.Event()
        self._idle.set()
        self._error: BaseException | None = None

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        """A copy of a Trainer has a writer of its own, with nothing to write."""
        return type(self), ()

    def submit(self, path: Path, snapshot: Snapshot, keep: int = 1) -> None:
        """Have a snapshot written, see `Snapshot.write`.

        Raises:
            OSError: an earlier one could not be written.
        """
        self._raise_error()
        with self._lock:
            self._waiting.pop(path, None)  # so that the newer one takes its turn as the last
            self._waiting[path] = snapshot, keep
            if self._idle.is_set():
                # It waits for the lock. Were `_idle` cleared before, a Ctrl-C between the two lines
                # would leave `finish` waiting for a thread that there is not.
                threading.Thread(target=self._write_all, name="gpunet-writer").start()
                self._idle.clear()

    def finish(self) -> None:
        """Wait until everything is written.

        Raises:
            OSError: something could not be written.
        """
        # no `Thread.join`: where Ctrl-C ends one, Python 3.11 takes the thread for ended too
        self._idle.wait()
        self._raise_error()

    def _write_all(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._idle.set()
                    return
                path = next(iter(self._waiting))
                snapshot, keep = self._waiting.pop(path)
            try:
                snapshot.write(path, keep)
            except BaseException as error:  # raised where training can end for it
                with self._lock:  # what comes after it may not be newer than what was lost
                    self._error = error
                    self._waiting.clear()

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
