"""A process that answers requests line by line, with a time limit for each answer."""

from __future__ import annotations

import signal
import subprocess
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import IO

from gpunet.bench import ContenderError

END_SECONDS = 10.0
"""The time in which a process must end by itself when no more requests come."""


class Process:
    """A process that reads requests from standard input and answers on standard output.

    Args:
        command: the program and its arguments.
        environment: all variables of its environment.
    """

    def __init__(self, command: list[str], environment: dict[str, str]):
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._lines: SimpleQueue[str] = SimpleQueue()
        assert self._process.stdout is not None
        # A thread reads, because not every system can read a pipe with a timeout.
        Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()

    def ask(self, line: str) -> None:
        """Send a line. If the process has ended, the next `answer` says so."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def answer(self, timeout: float) -> str:
        """The next line.

        Raises:
            ContenderError: the process has ended, or gave no answer within `timeout` seconds.
        """
        try:
            line = self._lines.get(timeout=timeout)
        except Empty:
            raise ContenderError(f"no answer within {timeout:g} s") from None
        if not line.endswith("\n"):  # the process has ended, perhaps in the middle of an answer
            raise ContenderError(f"the process ended {_ending(self._process.wait())}")
        return line

    def end(self) -> None:
        """Close standard input, and wait for the process to end; kill it if that takes too long."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self._lines.put(line)
        self._lines.put("")


def _ending(status: int) -> str:
    """How a process with this exit status has ended, such as "with status 1" or "by SIGSEGV"."""
    if status < 0:
        with suppress(ValueError):
            return f"by {signal.Signals(-status).name}"
    return f"with status {status}"
