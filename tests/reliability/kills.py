"""Kills ``gpunet train`` at random moments, goes on, and compares what is left with a run without a break.

    python tests/reliability/kills.py --runs 1000 --signal KILL

Each run is begun, killed once or twice at moments drawn over the time that a run takes (for every fourth
run: as soon as a file is half written), gone on with by ``--resume``, and ended. Weights, buffers, slots of
the optimizer, the schedule, the history, the table and the configuration must then equal those of a run that
was never killed, bit for bit; and after each kill every file that is there must be whole.

A run is a process of its own that has a process group of its own. It is forked from one that has imported
gpunet already, so that a campaign of a thousand takes minutes; ``--fresh`` starts a new Python for each.
"""

import argparse
import contextlib
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors import safe_open

HERE = Path(__file__).parent
TIMES = ("seconds", "images_per_second")
OPTIONS = [
    "--epochs", "3", "--batch-size", "96", "--model", "tiny_net:make", "--lr", "0.01",
    "--checkpoint-steps", "4", "--valid", "0.1",
]  # fmt: skip
OPTIONS_OF = {"emulated": ("--epochs", "2", "--batch-size", "48")}
"""An epoch of 27 batches, of which a graph holds 16, so that checkpoints come within it."""
LONGEST = 300.0
"""Seconds after which a run counts as hanging."""


class Runner:
    """Starts ``gpunet train`` in processes of their own."""

    def __init__(self, backend, fresh):
        self.fresh = fresh
        self.options = [*OPTIONS, "--backend", backend, *OPTIONS_OF.get(backend, ())]
        os.environ["GPUNET_NUM_THREADS"] = "1"  # decides the last bits
        os.environ["PYTHONPATH"] = f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        sys.path.insert(0, str(HERE))
        if not fresh:
            from gpunet import cli, data

            self._main = cli.main
            data.digits()  # imports what reads them

    def start(self, folder, log):
        """Begin or go on with the run in a folder -> the process's number."""
        begun = (folder / "config.json").exists()
        arguments = ["--resume", str(folder)] if begun else [*self.options, "--output", str(folder)]
        if begun:
            arguments += ["--model", "tiny_net:make"]
        if self.fresh:
            command = [sys.executable, "-m", "gpunet", "train", *arguments]
            with open(log, "ab") as output:
                return subprocess.Popen(command, stdout=output, stderr=output).pid
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # until the child has its own way out
        child = os.fork()
        if child:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
            return child
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
            with open(log, "ab") as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
            status = self._main(["train", *arguments])
        except KeyboardInterrupt:
            status = 130
        except SystemExit as stop:
            status = stop.code
        finally:
            os._exit(status)


def wait(child, until=None):
    """The exit status of a process, negative for a signal; None if it still runs at a moment.

    Raises:
        TimeoutError: it hangs.
    """
    start = time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        now = time.monotonic()
        if until is not None and now >= until:
            return None
        if now - start > LONGEST:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise TimeoutError(f"process {child} hangs")
        time.sleep(0.0005)


def half_written(folder):
    """Whether a file of the run is being written."""
    with contextlib.suppress(FileNotFoundError):
        return any(each.startswith(".") for each in os.listdir(folder))
    return False


def wait_for_a_write(child, folder, deadline):
    """Wait until a file is half written, or the process ends, or a moment -> its exit status or None."""
    while not half_written(folder) and time.monotonic() < deadline:
        status = wait(child, time.monotonic())
        if status is not None:
            return status
    return None


# ---- what is compared


def contents(path):
    """(arrays by name, the rest without times) of a checkpoint, read without gpunet."""
    with safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is not a dict
        state = json.loads(file.metadata()["json"])
    training = state["metadata"]["training"]
    training["history"] = without_times(training["history"])
    return arrays, state


def without_times(rows):
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def table_of(folder):
    with open(folder / "history.csv", newline="") as file:
        return without_times(csv.DictReader(file))


def differences(folder, reference):
    """The names of what differs from the run without a break."""
    found = []
    for name in ("last.safetensors", "best.safetensors"):
        (arrays, state), (others, other_state) = contents(folder / name), contents(reference / name)
        if arrays.keys() != others.keys():
            found.append(f"{name}: names of arrays")
        found += [
            f"{name}: {key}" for key in arrays.keys() & others.keys() if not np.array_equal(arrays[key], others[key])
        ]
        found += [
            f"{name}: {key}" for key in state.keys() | other_state.keys() if state.get(key) != other_state.get(key)
        ]
    if table_of(folder) != table_of(reference):
        found.append("history.csv")
    configs = [json.loads((each / "config.json").read_text()) for each in (folder, reference)]
    if configs[0] != configs[1]:
        found.append("config.json")
    if left := {each.name for each in folder.iterdir()} - {each.name for each in reference.iterdir()}:
        found.append(f"left: {', '.join(sorted(left))}")
    return found


def check_whole(folder):
    """Raise an error where a file that is there, and not half written, is not whole."""
    from gpunet.interop import read_metadata

    if not folder.exists():
        return
    for path in folder.glob("[!.]*.safetensors"):
        read_metadata(path)
    if (folder / "config.json").exists():
        json.loads((folder / "config.json").read_text())
    if (folder / "history.csv").exists():
        table_of(folder)


# ---- the campaign


class Campaign:
    """Runs that are killed, each by draws of its own.

    Attributes:
        kills: how many processes the signal ended.
        writing: how many of them while a file was half written.
        resumed: how many processes went on with a run.
    """

    def __init__(self, work, runner, number, seed):
        self.work, self.runner, self.signal, self.seed = work, runner, number, seed
        self.kills = self.writing = self.resumed = 0
        self.reference = work / "reference"
        self._run_to_the_end(self.reference)  # warm
        shutil.rmtree(self.reference)
        start = time.monotonic()
        self._run_to_the_end(self.reference)
        self.span = time.monotonic() - start

    def run(self, i):
        """Run number i -> what went wrong; empty if nothing."""
        draw, folder = random.Random(f"{self.seed} {i}"), self.work / f"run-{i}"
        try:
            while not self._killed(draw, folder, i % 4 == 3):  # it had ended before its moment
                shutil.rmtree(folder)
            check_whole(folder)
            if draw.random() < 1 / 3 and self._killed(draw, folder, False):  # twice in a row
                check_whole(folder)
            if (folder / "config.json").exists():
                self.resumed += 1
            self._run_to_the_end(folder)
            wrong = differences(folder, self.reference)
        except Exception as error:
            wrong = [f"{type(error).__name__}: {error}"]
        if wrong:
            wrong.append(f"log: {self._log(folder).read_text()[-1500:]}")
        else:
            shutil.rmtree(folder)
            self._log(folder).unlink()
        return wrong

    def _killed(self, draw, folder, while_writing):
        """Whether a process was ended by the signal; False if it had ended before."""
        if (folder / "config.json").exists():
            self.resumed += 1
        child = self.runner.start(folder, self._log(folder))
        moment = time.monotonic() + draw.uniform(0, self.span)
        status = wait(child, moment)
        if status is None and while_writing:
            status = wait_for_a_write(child, folder, moment + self.span)
        if status is not None:
            if status != 0:
                raise RuntimeError(f"a process ended by itself with status {status}")
            return False
        writing = half_written(folder)
        os.kill(child, self.signal)
        status = wait(child)
        if status == 0:  # it had just ended
            return False
        expected = {signal.SIGINT: (130, -signal.SIGINT)}.get(self.signal, (-self.signal,))
        if status not in expected:
            raise RuntimeError(f"a process ended with status {status} after {self.signal.name}")
        self.kills += 1
        self.writing += writing
        return True

    def _run_to_the_end(self, folder):
        status = wait(self.runner.start(folder, self._log(folder)))
        if status != 0:
            raise RuntimeError(f"a run ended with status {status}: {self._log(folder).read_text()[-1500:]}")

    def _log(self, folder):
        return folder.with_suffix(".log")


def share(options, part):
    """Run every `jobs`-th run from `part` on -> (results as JSON lines on stdout)."""
    work = Path(tempfile.mkdtemp(prefix="gpunet-kills-"))
    campaign = Campaign(
        work, Runner(options.backend, options.fresh), signal.Signals[f"SIG{options.signal}"], options.seed
    )
    failed = {}
    for i in range(part, options.runs, options.jobs):
        if wrong := campaign.run(i):
            failed[i] = wrong
            print(f"run {i} of seed {options.seed}: {wrong}", file=sys.stderr, flush=True)
    if not failed:
        shutil.rmtree(work)
    counts = {"kills": campaign.kills, "writing": campaign.writing, "resumed": campaign.resumed, "failed": len(failed)}
    print(json.dumps(counts), flush=True)


def main(argv=None):
    """Run a campaign and print a row of a table -> 0 if all runs ended like the one without a break."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--signal", choices=["KILL", "TERM", "INT"], default="KILL")
    parser.add_argument("--backend", default="numpy", help="emulated captures the step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="how many runs go on at a time")
    parser.add_argument("--fresh", action="store_true", help="start a new Python for each process")
    parser.add_argument("--part", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.part is not None:
        share(options, options.part)
        return 0
    start = time.monotonic()
    command = [sys.executable, __file__, *(sys.argv[1:] if argv is None else argv)]
    parts = [
        subprocess.Popen([*command, "--part", str(part)], stdout=subprocess.PIPE, text=True)
        for part in range(options.jobs)
    ]
    outputs = [part.communicate()[0] for part in parts]
    if any(part.returncode for part in parts):
        return 1
    counts = [json.loads(output.splitlines()[-1]) for output in outputs]
    total = {key: sum(each[key] for each in counts) for key in counts[0]}
    print(
        "| signal | backend | runs that ended with the same bits | killed processes | of them while writing | seconds |"
    )
    print("|---|---|---|---|---|---|")
    good = options.runs - total["failed"]
    print(
        f"| SIG{options.signal} | {options.backend} | {good:,} of {options.runs:,} | {total['kills']:,} "
        f"| {total['writing']:,} | {time.monotonic() - start:.0f} |"
    )
    return 0 if good == options.runs else 1


if __name__ == "__main__":
    sys.exit(main())
