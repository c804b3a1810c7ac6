"""Alters a checkpoint in many random ways, and counts how many of the files are refused.

    python tests/reliability/altered_files.py --files 100000

Prints rows of a Markdown table. The exit status is 1 if an altered file was loaded, raised another
error than DamagedFileError, changed something, or took more memory than twice its size.
"""

import argparse
import json
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np

import gpunet as gp
from gpunet import nn, optim
from gpunet.interop import checkpoint_snapshot, load_checkpoint, open_checkpoint

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the tests' helpers are
from helpers.saved_files import joined, split


def make(seed, features=4):
    """A model, its optimizer after a step, a schedule and averages."""
    gp.seed(seed)
    model = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, 2))
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    average = optim.ExponentialMovingAverage(model, optimizer, 0.9)
    schedule = optim.CosineAnnealingLR(optimizer, 10)
    model(np.ones((1, features), np.float32)).sum().backward()
    optimizer.step()
    schedule.step()
    return {"model": model, "optimizer": optimizer, "schedule": schedule, "average": average}


def write(path, parts, note):
    callbacks = [("Mean", {"sums": np.arange(3.0), "rows": [1, 2]})]
    checkpoint_snapshot(**parts, metadata={"note": note}, callbacks=callbacks).write(path)


def values(parts):
    """Every number of the parts, as bytes and text that are equal where the numbers are."""
    optimizer, schedule = parts["optimizer"], parts["schedule"]
    averages = parts["average"].weights.data, parts["average"].statistics.data
    arrays = [optimizer.arena.data, *(optimizer.arena.slots.values()), *averages]
    plain = optimizer.steps.tolist(), [group["lr"] for group in optimizer.groups], schedule.state_dict()
    return [np.asarray(array).tobytes() for array in arrays], repr(plain)


# ---- alterations: functions of (random numbers, the file's bytes, another good file's bytes)


def block(rng, content, longest=64):
    """(begin, end) of a few bytes anywhere."""
    begin = rng.randrange(len(content))
    return begin, min(len(content), begin + rng.randint(1, longest))


def flip_a_bit(rng, content, other):
    at = rng.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def flip_a_bit_of_the_metadata(rng, content, other):
    at = rng.randrange(min(400, len(content)))
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def overwrite_bytes(rng, content, other):
    begin, end = block(rng, content)
    return content[:begin] + rng.randbytes(end - begin) + content[end:]


def zero_bytes(rng, content, other):
    begin, end = block(rng, content, 4096)
    return content[:begin] + bytes(end - begin) + content[end:]


def truncate(rng, content, other):
    return content[: rng.randrange(len(content))]


def append(rng, content, other):
    return content + rng.choice([bytes, rng.randbytes])(rng.randint(1, 64))


def insert_bytes(rng, content, other):
    at = rng.randrange(len(content))
    return content[:at] + rng.randbytes(rng.randint(1, 9)) + content[at:]


def remove_bytes(rng, content, other):
    begin, end = block(rng, content, 16)
    return content[:begin] + content[end:]


def exchange_blocks(rng, content, other):
    a, b = sorted([rng.randrange(len(content) - 32), rng.randrange(len(content) - 32)])
    n = min(32, b - a)
    return content[:a] + content[b : b + n] + content[a + n : b] + content[a : a + n] + content[b + n :]


def mix_two_files(rng, content, other):
    (header, data), (its_header, its_data) = split(content), split(other)
    at = rng.randrange(1, min(len(content), len(other)))
    return rng.choice([joined(header, its_data), joined(its_header, data), content[:at] + other[at:]])


def change_the_length(rng, content, other):
    length = rng.choice([0, 1, rng.randrange(len(content)), rng.getrandbits(31), 100_000_000, rng.getrandbits(64)])
    return struct.pack("<Q", length) + content[8:]


def edit_an_entry(rng, content, other):
    header, data = split(content)
    header = json.loads(header)
    entry = header[rng.choice(sorted(set(header) - {"__metadata__"}))]
    huge = rng.choice([2**31, 2**62, 2**64 - 1, 10**30, -1])
    kind = rng.randrange(4)
    if kind == 0:
        entry["shape"] = rng.choice([[huge], [huge, huge], [0, huge], [1] * rng.randint(3, 2000), entry["shape"][::-1]])
    elif kind == 1:
        entry["data_offsets"] = rng.choice([[0, huge], [huge, huge], entry["data_offsets"][::-1], [0, 0]])
    elif kind == 2:
        entry["dtype"] = rng.choice(["F64", "I32", "U8", "BF16", "F8_E4M3", "", "X"])
    else:
        header["more"] = {"dtype": "F32", "shape": [huge], "data_offsets": [0, huge]}
    return joined(json.dumps(header, separators=(",", ":")).encode(), data)


def duplicate_a_key(rng, content, other):
    header, data = split(content)
    entries = json.loads(header)
    name = rng.choice(sorted(entries))
    again = f",{json.dumps(name)}:{json.dumps(entries[name], separators=(',', ':'))}}}".encode()
    return joined(header.rstrip()[:-1] + again, data)


def edit_the_metadata(rng, content, other):
    """The digest is kept, at its place or at another, and never are all keys of gpunet's gone."""
    header, data = split(content)
    header = json.loads(header)
    metadata = header["__metadata__"]
    key = rng.choice(["format", "sha256", "json"])
    kind = rng.randrange(7)
    if kind == 0:
        del metadata[key]
    elif kind == 1:
        header["__metadata__"] = {(k + "x" if k == key else k): v for k, v in metadata.items()}
    elif kind == 2:
        formats = ["pt", "", "gpunet-checkpoint-1", "gpunet-weights-2", "gpunet-checkpoint-3", "gpunet-checkpoint-02"]
        metadata["format"] = rng.choice(formats)
    elif kind == 3:
        metadata["sha256"] = rng.choice([metadata["sha256"].upper(), "0" * 64, "", metadata["sha256"][:-1], "é" * 32])
    elif kind == 4:
        state = json.loads(metadata["json"])
        state["metadata"] = {"note": rng.random()}
        bomb = "[" * 20_000 + "]" * 20_000
        metadata["json"] = rng.choice([json.dumps(state), bomb, "{}", "", metadata["json"] + " "])
    elif kind == 5:
        metadata["crc32"] = str(rng.getrandbits(32))
        if rng.random() < 0.5:
            del metadata["sha256"]
    else:
        order = list(metadata.items())
        rng.shuffle(order)
        header["__metadata__"] = dict(order)
    separators = rng.choice([(",", ":"), (", ", ": "), (",", ": ")])
    return joined(json.dumps(header, separators=separators).encode(), data)


KINDS = (
    flip_a_bit, flip_a_bit_of_the_metadata, overwrite_bytes, zero_bytes, truncate, append, insert_bytes, remove_bytes,
    exchange_blocks, mix_two_files, change_the_length, edit_an_entry, duplicate_a_key, edit_the_metadata,
)  # fmt: skip


# ---- what happens to the files


@dataclass
class Campaign:
    """A good file, and what was found of altered ones."""

    folder: Path
    refused: int = 0
    unchanged: int = 0
    longest: float = 0.0
    faults: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.path = self.folder / "altered.safetensors"
        self.parts = make(1)
        self.before = values(self.parts)
        for seed, name in enumerate(("good", "other")):
            write(self.folder / name, make(seed + 2), f"the file {name}")
        self.good, self.other = ((self.folder / name).read_bytes() for name in ("good", "other"))

    def try_one(self, kind, rng):
        """Load a file that was altered in one way; it must be refused, and change nothing."""
        altered = kind(rng, self.good, self.other)
        if altered in (self.good, self.other):
            self.unchanged += 1
            return
        self.path.write_bytes(altered)
        begin = perf_counter()
        try:
            load_checkpoint(self.path, **self.parts)
        except gp.DamagedFileError as error:
            self.refused += 1
            if str(self.path) not in str(error) or "\n" in str(error):
                self.faults.append(f"{kind.__name__}: the message is {error}")
        except BaseException as error:
            self.faults.append(f"{kind.__name__}: {type(error).__name__}: {error}")
        else:
            self.faults.append(f"{kind.__name__}: loaded")
        self.longest = max(self.longest, perf_counter() - begin)
        if values(self.parts) != self.before:
            self.faults.append(f"{kind.__name__}: something was changed")
            self.before = values(self.parts)


def run(folder, files, seed):
    """Alter a small checkpoint `files` times."""
    campaign, rng = Campaign(folder), random.Random(seed)
    for n in range(files):
        campaign.try_one(KINDS[n % len(KINDS)], rng)
    return campaign


# ---- memory


def memory(name):
    """A number of /proc/self/status, in bytes: VmRSS is the memory of now, VmHWM the most since the last reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def peak(work):
    """How much more memory this process has had at once while `work` ran, with the pages of mapped files."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before = memory("VmRSS")
    work()
    return memory("VmHWM") - before


def alter_in_place(rng, path, size):
    """Alter a large file without reading it."""
    with open(path, "r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        kind = rng.randrange(6)
        if kind == 0:
            file.truncate(rng.randrange(size))
        elif kind == 1:
            file.seek(0, 2)
            file.write(bytes(1024))
        elif kind == 2:
            file.seek(0)
            file.write(struct.pack("<Q", rng.choice([rng.getrandbits(64), rng.randrange(size), 100_000_000, size - 8])))
        else:
            at = rng.randrange(8, 8 + length if kind < 5 else size)
            file.seek(at)
            was = file.read(8)
            file.seek(at)
            file.write(rng.choice([b"9" * len(was), rng.randbytes(len(was)), b"[" * len(was)]))


def measure_memory(folder, files, seed):
    """Print the size of a large checkpoint, and the most memory that altered ones and the good one took."""
    good, path, rng = folder / "large", folder / "large.safetensors", random.Random(seed)
    parts = make(0, 1000)
    write(good, parts, "large")
    open_checkpoint(good)
    size, worst = good.stat().st_size, 0

    def refused():
        try:
            open_checkpoint(path)
        except gp.DamagedFileError:
            return
        raise AssertionError("an altered file was opened")

    for _ in range(files):
        shutil.copyfile(good, path)
        alter_in_place(rng, path, size)
        worst = max(worst, peak(refused))
    opened = peak(lambda: open_checkpoint(good))
    loaded = peak(lambda: load_checkpoint(good, **parts))
    print(json.dumps({"size": size, "files": files, "altered": worst, "opened": opened, "loaded": loaded}))


def memory_in_a_child(folder, files, seed):
    command = [sys.executable, __file__, "--memory", folder, "--files", str(files), "--seed", str(seed)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        measure_memory(options.memory, options.files, options.seed)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        begin = perf_counter()
        found = run(Path(folder), options.files, options.seed)
        seconds = perf_counter() - begin
        large = memory_in_a_child(folder, min(500, options.files), options.seed)
    print("| altered files | refused | as they were | loaded or another error | longest | all |")
    print("|---|---|---|---|---|---|")
    print(
        f"| {options.files:,} | {found.refused:,} | {found.unchanged} | {len(found.faults)} "
        f"| {1000 * found.longest:.1f} ms | {seconds:.0f} s |\n"
    )
    print("| file | altered ones | most memory of one | of the good one, opened | of the good one, loaded |")
    print("|---|---|---|---|---|")
    shares = " | ".join(f"{large[name] / large['size']:.2f} files" for name in ("altered", "opened", "loaded"))
    print(f"| {large['size'] / 1e6:.1f} MB | {large['files']} | {shares} |")
    print("\n".join(sorted(set(found.faults))[:20]))
    return int(bool(found.faults) or max(large["altered"], large["opened"]) > 2 * large["size"])


if __name__ == "__main__":
    sys.exit(main())
