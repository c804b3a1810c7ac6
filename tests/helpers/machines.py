"""Two machines on this one, for tests of runs over several: network namespaces with a link between them.

Neither finds the other by its name, and all messages go over the link. It takes Linux, root and iproute2.

    python tests/helpers/machines.py 1gbit 2 gpunet bench ranks     # two ranks, on machines with such a link
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.ranks import MPIRUN

LAUNCH = """#!/bin/sh
# What mpirun calls in place of ssh: OPTIONS HOST COMMAND
while :; do case $1 in -*) shift ;; *) break ;; esac; done
machine={name}-${{1##*.}}; shift
exec ip netns exec $machine unshare --uts sh -c "hostname $machine && cd '$PWD' && $*"
"""


class TwoMachines:
    """A context in which there are two machines, of the numbers 1 and 2, with the addresses 10.9.0.1 and 10.9.0.2.

    An OSError or a CalledProcessError says that they cannot be made here.
    """

    def __init__(self, folder):
        self.name = f"gpunet-{os.getpid()}"
        self.launcher, self.log = Path(folder) / "launch", Path(folder) / "log"
        self.running = None
        self.launcher.write_text(LAUNCH.format(name=self.name))
        self.launcher.chmod(0o755)

    def __enter__(self):
        with ExitStack() as stack:
            stack.callback(self._remove)
            for machine in (1, 2):
                run("ip", "netns", "add", self.namespace(machine))
            ends = ["wire", "netns", self.namespace(1)], ["wire", "netns", self.namespace(2)]
            run("ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1])
            for machine in (1, 2):
                self.on(machine, "address", "add", f"10.9.0.{machine}/24", "dev", "wire")
                self.on(machine, "link", "set", "lo", "up")
                self.on(machine, "link", "set", "wire", "up")
                run(self.launcher, f"10.9.0.{machine}", "true")
            end = time.monotonic() + 10
            while not all(self.linked(machine) for machine in (1, 2)):
                if time.monotonic() > end:
                    raise OSError("the link between two network namespaces does not come up")
                time.sleep(0.01)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._stack.close()

    def _remove(self):
        for machine in (1, 2):
            while left := self.processes(machine):
                for process in left:
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", self.namespace(machine)], capture_output=True)
        if self.running is not None:
            self.running.wait()

    def namespace(self, machine):
        return f"{self.name}-{machine}"

    def on(self, machine, *command):
        """Have iproute2 change something on a machine."""
        run("ip", "-n", self.namespace(machine), *command)

    def linked(self, machine):
        return "state UP" in run("ip", "-n", self.namespace(machine), "link", "show", "wire")

    def launch(self, ranks, *command):
        """Start mpirun on machine 1, with every second rank on machine 2; `log` gets what is printed."""
        hosts = ["-hosts", "10.9.0.1,10.9.0.2", "-launcher", "ssh", "-launcher-exec", str(self.launcher)]
        variables = {
            **os.environ,
            "GPUNET_NUM_THREADS": "1",
            "UCX_TLS": "tcp,self",  # else MPICH finds that the memory is the same
            "UCX_NET_DEVICES": "wire",
        }
        mpirun = [MPIRUN, *hosts, "-n", str(ranks), *map(str, command)]
        with open(self.log, "w") as log:
            self.running = subprocess.Popen([self.launcher, "10.9.0.1", *mpirun], env=variables, stdout=log, stderr=log)
        return self.running

    def slow_down(self, rate):
        """Let the link carry no more than this, such as "1gbit" a second, in each direction."""
        for machine in (1, 2):
            limits = ["tbf", "rate", rate, "burst", "64kb", "latency", "400ms"]
            run("tc", "-n", self.namespace(machine), "qdisc", "add", "dev", "wire", "root", *limits)

    def cut(self):
        """Take the link between them down."""
        self.on(2, "link", "set", "wire", "down")

    def processes(self, machine):
        """The processes of a machine."""
        found = subprocess.run(["ip", "netns", "pids", self.namespace(machine)], capture_output=True, text=True)
        return [int(each) for each in found.stdout.split()]


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(rate, ranks, *command):
    with tempfile.TemporaryDirectory() as folder, TwoMachines(folder) as machines:
        machines.slow_down(rate)
        status = machines.launch(int(ranks), *command).wait()
        print(machines.log.read_text(), end="")
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
