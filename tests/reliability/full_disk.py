"""Writes checkpoints where writing fails: beyond a size limit, on a full disk, on one that is read-only, and killed.

    python tests/reliability/full_disk.py --writes 100

Prints rows of a Markdown table. The exit status is 1 if a write that failed raised no OSError with
the file's name, left something behind, or altered the file or its previous version.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from altered_files import make

from gpunet.files import previous, remove_leftovers, versions
from gpunet.interop import checkpoint_snapshot, open_checkpoint


def taken(note, features=200):
    """A checkpoint of about half a megabyte that is not written yet."""
    return checkpoint_snapshot(**make(0, features), metadata={"note": note})


def contents(folder):
    """What each file holds, by name, without the file that fills the disk."""
    return {found.name: found.read_bytes() for found in folder.iterdir() if found.name != "filler"}


def fail_to_write(path, kept):
    """Try to write; return (whether it raised, what is wrong with how it failed)."""
    before = contents(path.parent)
    try:
        taken("new").write(path, keep=2)
    except OSError as error:
        faults = [] if str(path) in str(error) and "as it was" in str(error) else [f"the message is {error}"]
        if contents(path.parent) != before:
            faults.append(f"the folder holds {sorted(contents(path.parent))}, or other bytes")
        return True, faults
    return False, [] if previous(path, 1).read_bytes() == kept else ["the previous version is another"]


def two_versions(folder):
    """A checkpoint with its previous version -> (path, the size of one)."""
    path = folder / "last.safetensors"
    for note in ("older", "old"):
        taken(note).write(path, keep=2)
    return path, path.stat().st_size


def on_a_size_limit(folder, writes, rng):
    """At limits from no byte to all but one."""
    path, size = two_versions(folder)
    most, faults, failed = resource.getrlimit(resource.RLIMIT_FSIZE)[1], [], 0
    for n in range(writes):
        limit = (0, size - 1)[n] if n < 2 else rng.randrange(size)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
        raised, wrong = fail_to_write(path, None)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        failed, faults = failed + raised, faults + wrong
    return failed, faults


def on_a_full_disk(folder, writes, rng):
    """With room for less than a checkpoint."""
    path, size = two_versions(folder)
    failed, faults = 0, []
    for _ in range(writes):
        (folder / "filler").unlink(missing_ok=True)
        room = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        (folder / "filler").write_bytes(bytes(room - rng.randrange(size - 4096)))
        raised, wrong = fail_to_write(path, None)
        failed, faults = failed + raised, faults + wrong
    return failed, faults


def on_a_read_only_disk(folder, writes, rng):
    """Root may write everywhere else."""
    path, _ = two_versions(folder)
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    found = [fail_to_write(path, None) for _ in range(writes)]
    return sum(raised for raised, _ in found), [fault for _, faults in found for fault in faults]


KINDS = {"size limit": on_a_size_limit, "full disk": on_a_full_disk, "read-only disk": on_a_read_only_disk}
MOUNTED = 'mount -t tmpfs -o size=4m tmpfs "$0" && exec "$@"'


def in_a_child(kind, writes, seed):
    """Run one kind in a process of its own, on a disk of its own -> (failed writes, faults), or why not."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--child", kind, folder, "--writes", str(writes), "--seed", str(seed)]
        if kind != "size limit":
            mounting = ["unshare", "--mount", "--map-root-user", "sh", "-c", MOUNTED, folder]
            if not shutil.which("unshare") or subprocess.run([*mounting, "true"], capture_output=True).returncode:
                return "this system lets us mount nothing"
            command = mounting + command
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return json.loads(done.stdout)


def write_until_killed(path, snapshots):
    """In a forked process, which does nothing but write."""
    while True:
        for snapshot in snapshots:
            snapshot.write(path, keep=2)


def kill_writers(folder, kills, rng):
    """Kill processes that write -> (how many left something behind, faults)."""
    path, left, faults = folder / "last.safetensors", 0, []
    notes = ["a", "b", "c"]
    snapshots = [taken(note) for note in notes]
    snapshots[0].write(path)
    longest = 0.02
    for _ in range(kills):
        if not (child := os.fork()):
            write_until_killed(path, snapshots)
        time.sleep(rng.uniform(0.001, longest))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        try:
            found = [open_checkpoint(version).metadata["note"] for version in versions(path)]
        except (OSError, ValueError) as error:
            faults.append(f"{type(error).__name__}: {error}")
            continue
        if path not in versions(path) or not set(found) <= set(notes):
            faults.append(f"there are {versions(path)} of {found}")
        left += any(name.startswith(".") for name in contents(folder))
        remove_leftovers(path)
        if not set(contents(folder)) <= {path.name, previous(path, 1).name}:
            faults.append(f"the folder holds {sorted(contents(folder))}")
    return left, faults


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--writes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, folder = options.child
        print(json.dumps(KINDS[kind](Path(folder), options.writes, random.Random(options.seed))))
        return 0
    print("| where | writes | raised OSError, old files whole | left behind | faults |")
    print("|---|---|---|---|---|")
    wrong = []
    for kind in KINDS:
        found = in_a_child(kind, options.writes, options.seed)
        if isinstance(found, str):
            print(f"| {kind} | not run: {found} | | | |")
            continue
        failed, faults = found
        wrong += faults if failed == options.writes else [*faults, f"{kind}: {options.writes - failed} did not fail"]
        print(f"| {kind} | {options.writes} | {failed} | 0 | {len(faults)} |")
    with tempfile.TemporaryDirectory() as folder:
        left, faults = kill_writers(Path(folder), options.writes, random.Random(options.seed))
    print(f"| killed | {options.writes} | the file loaded after each | {left}, all removed | {len(faults)} |")
    wrong += faults
    print("\n".join(sorted(set(wrong))[:20]))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
