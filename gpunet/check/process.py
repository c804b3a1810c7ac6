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
from gpunet.check.stage import Options, Stage, described

FAILED = 3
"""Exit status of a stage in which something failed; 1 is that of a process which Python gave up."""


def command(options: Options) -> list[str]:
    """The command line of a stage's process."""
    return [sys.executable, "-m", "gpunet.check.process", json.dumps(asdict(options))]


def main(arguments: list[str]) -> int:
    """Run a stage -> exit status: `FAILED` if something in it failed."""
    options = Options(**json.loads(arguments[0]))
    _end_with_parent()
    stage = Stage(options)
    try:
        import_module(f"gpunet.check.stages.{options.stage}").run(stage)
    except Exception as exception:
        stage.report(Result(options.stage, "the stage itself", False, error=described(exception)))
    return FAILED if stage.failed else 0


def _end_with_parent() -> None:
    """End this process, and those that it has started, when the one that started it has gone, however it has."""

    def watch() -> None:
        while os.read(0, 1):  # nothing comes: it ends when the other side is closed
            pass
        if hasattr(os, "killpg") and os.getpgid(0) == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
