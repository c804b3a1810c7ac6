"""The process of one stage: ``python -m gpunet.check.process OPTIONS``, started by `conductor`."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from dataclasses import asdict
from importlib import import_module

from gpunet.check.record import Result
from gpunet.check.stage import Options, Stage, exception_text

FAILED = 3
"""The exit status of a stage in which something failed. It is not 1, with which Python ends after
an error."""


def command(options: Options) -> list[str]:
    """The command line of a stage's process."""
    return [sys.executable, "-m", "gpunet.check.process", json.dumps(asdict(options))]


def main(arguments: list[str]) -> int:
    """Run the stage whose options are given as JSON -> `FAILED` if something failed, else 0."""
    options = Options(**json.loads(arguments[0]))
    _end_with_parent()
    stage = Stage(options)
    try:
        import_module(f"gpunet.check.stages.{options.stage}").run(stage)
    except Exception as exception:
        stage.report(Result(options.stage, "the stage itself", False, error=exception_text(exception)))
    return FAILED if stage.failed else 0


def _end_with_parent() -> None:
    """End this process, and those that it has started, as soon as its parent has ended."""

    def watch() -> None:
        while os.read(0, 1):  # the parent sends nothing; reading ends when the parent ends
            pass
        if hasattr(os, "killpg") and os.getpgid(0) == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
