"""Alters other programs' files of weights in many random ways, and loads each of them into a model.

    python tests/reliability/foreign_files.py --reader safetensors --files 100000

Such files have no checksum, so an altered one may be loaded, with other numbers. What must not happen: a crash, a load that
takes long, another error than ValueError in one line that names the file, a model of which a part was changed, and more memory
than ten times the file and a base. The exit status is 1 if one of these was seen. Prints a row of a Markdown table.

The process that reads HDF5 reads many files, for starting Python takes much longer than reading; `--fresh` starts one for each
file, as users have it.
"""

import argparse
import contextlib
import ctypes
import os
import random
import select
import signal
import struct
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import altered_files as general
import foreign_alterations as alterations
import numpy as np
from safetensors.numpy import save

from gpunet import nn
from gpunet.interop import hdf5, hdf5_contents
from gpunet.interop import keras as keras_weights
from gpunet.interop import torch as torch_weights

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the tests' helpers are
from helpers.keras_files import keras_zip, settings, weights_h5

BASE = 32 << 20
"""Bytes that a load may take beside ten times the file: its libraries' buffers."""
SENTINEL = 7.5
"""What the model holds before each load."""
SECONDS = 10
"""After which a load counts as one that hangs."""


def network():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, eps=1e-3, momentum=0.01), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(),
        nn.Linear(16, 3),
    )  # fmt: skip


# ---- good files


def safetensors_file(rng):
    state = torch_weights.to_torch_state_dict(filled(network(), rng), numpy=True)
    return save(state, metadata={"format": "pt"})


def h5_file(rng):
    return weights_h5(keras_arrays(rng))


def keras_file(rng):
    norm = {"epsilon": 1e-3, "momentum": 0.99}
    layers = ("conv2d", {}), ("batch_normalization", norm), ("depthwise_conv2d", {}), ("flatten", {}), ("dense", {})
    return keras_zip(settings(*layers), h5_file(rng))


def filled(model, rng):
    model.load_state_dict({name: rng.normal(size=a.shape).astype("float32") for name, a in model.state_dict().items()})
    return model


def keras_arrays(rng):
    shapes = {
        "conv2d": [(3, 3, 2, 4), (4,)], "batch_normalization": [(4,)] * 4, "depthwise_conv2d": [(3, 3, 4, 1), (4,)],
        "dense": [(16, 3), (3,)],
    }  # fmt: skip
    return {f"layers/{name}": [rng.normal(size=s).astype("float32") for s in own] for name, own in shapes.items()}


# ---- what happens to the files


class Worker:
    """Does what `hdf5.run_apart` does in one forked process for many files, until it hangs, crashes or has read enough."""

    ended = crashed = 0
    memory = 0
    """The most that one of them had, in bytes."""
    ENOUGH = 500

    def __init__(self):
        self.child = None

    def start(self):
        its_in, self.into = os.pipe()
        self.out, its_out = os.pipe()
        self.child, self.read = os.fork(), 0
        if self.child == 0:
            os.close(self.into)
            os.close(self.out)
            while path := os.read(its_in, 4096):
                hdf5_contents.limit_memory(path.decode())
                text = hdf5_contents.report(path.decode()).encode()
                text = struct.pack("<Q", len(text)) + text
                while text:
                    text = text[os.write(its_out, text) :]
            os._exit(0)
        os.close(its_in)
        os.close(its_out)

    def stop(self):
        """Wait for the process, and return its status."""
        if self.child is None:
            return 0
        os.close(self.into)
        os.close(self.out)
        _, status, used = os.wait4(self.child, 0)
        Worker.memory, self.child = max(Worker.memory, 1024 * used.ru_maxrss), None
        return os.waitstatus_to_exitcode(status)

    def __call__(self, path):
        if self.child is None or self.read >= self.ENOUGH:
            self.stop()
            self.start()
        self.read += 1
        os.write(self.into, os.fspath(path).encode())
        out, wanted, end = b"", 8, perf_counter() + SECONDS / 5
        while len(out) < wanted:
            if not select.select([self.out], [], [], max(0, end - perf_counter()))[0]:
                os.kill(self.child, signal.SIGKILL)
                self.stop()
                Worker.ended += 1
                return None, b""
            piece = os.read(self.out, 1 << 16)
            if not piece:
                Worker.crashed += 1
                return self.stop() or 1, b""
            out += piece
            wanted = 8 + struct.unpack("<Q", out[:8])[0] if len(out) >= 8 else 8
        return 0, out[8:]


READERS = {
    "safetensors": (safetensors_file, alterations.OF_SAFETENSORS, torch_weights.load_state_dict, "w.safetensors"),
    "h5": (h5_file, alterations.OF_H5, keras_weights.load_weights, "w.weights.h5"),
    "keras": (keras_file, alterations.OF_KERAS, keras_weights.load_weights, "w.keras"),
}


@dataclass
class Campaign:
    """A good file of one reader's, and what was found of altered ones."""

    folder: Path
    reader: str
    refused: int = 0
    loaded: int = 0
    longest: float = 0.0
    memory: float = 0.0
    faults: list[str] = field(default_factory=list)

    def __post_init__(self):
        make, self.kinds, self.load, name = READERS[self.reader]
        self.path = self.folder / name
        self.model = network()
        self.good, self.other = (make(np.random.default_rng(seed)) for seed in range(2))
        self.reset()
        self.path.write_bytes(self.good)
        self.load(self.model, self.path)
        assert not self.held()

    def reset(self):
        for _, value in (*self.model.named_parameters(), *self.model.named_buffers()):
            value.data[...] = SENTINEL

    def held(self):
        """Names of entries that hold what they held before; of a load all or none may."""
        return [name for name, array in self.model.state_dict().items() if (array == SENTINEL).any()]

    def try_one(self, kind, rng):
        altered = kind(rng, self.good, self.other)
        self.path.write_bytes(altered)
        self.reset()
        begin, outcome = perf_counter(), "loaded"

        def work():
            nonlocal outcome
            try:
                self.load(self.model, self.path)
            except ValueError as error:
                outcome = "refused"
                if str(self.path) not in str(error) or "\n" in str(error):
                    self.faults.append(f"{kind.__name__}: the message is {str(error)[:300]!r}")
            except BaseException as error:
                outcome = "refused"
                self.faults.append(f"{kind.__name__}: {type(error).__name__}: {str(error)[:300]}")

        taken = general.peak(work) if MEASURED else work() or 0
        seconds = perf_counter() - begin
        self.refused, self.loaded = self.refused + (outcome == "refused"), self.loaded + (outcome == "loaded")
        self.longest = max(self.longest, seconds)
        self.memory = max(self.memory, taken)
        if taken > 10 * max(len(altered), len(self.good)) + BASE:
            self.faults.append(f"{kind.__name__}: took {taken} bytes for a file of {len(altered)}")
        if seconds > SECONDS + (0 if isinstance(hdf5.run_apart, Worker) else hdf5.SECONDS):  # which ends what hangs
            self.faults.append(f"{kind.__name__}: took {seconds:.0f} s")
        held, names = self.held(), list(self.model.state_dict())
        if held != (names if outcome == "refused" else []):
            self.faults.append(f"{kind.__name__}: {outcome}, but {', '.join(held)} stayed")


MEASURED = Path("/proc/self/clear_refs").exists()
"""Whether the system tells the most memory that was taken."""


@contextlib.contextmanager
def read_apart(fresh=False):
    """Inside, a `Worker` reads HDF5, and the reader's warnings of settings are silent."""
    import h5py  # noqa: F401 - so that the forked process has it

    before, warn = hdf5.run_apart, keras_weights.warn
    worker = Worker()
    hdf5.run_apart = before if fresh else worker
    keras_weights.warn = lambda message: None
    try:
        yield
    finally:
        worker.stop()
        hdf5.run_apart, keras_weights.warn = before, warn


def run(folder, reader, files, seed, fresh=False):
    """Alter a small file of a reader's `files` times."""
    campaign, rng = Campaign(Path(folder), reader), random.Random(seed)
    with read_apart(fresh):
        for n in range(files):
            campaign.try_one(campaign.kinds[n % len(campaign.kinds)], rng)
    return campaign


def measure_memory(folder, reader, files, seed):
    """Print the size of a large file, and the most memory that loading it and altered ones took in this process."""
    _, kinds, load, name = READERS[reader]
    path, model, rng = Path(folder) / name, nn.Linear(2000, 2000), random.Random(seed)
    kernel = np.random.default_rng(0).normal(size=(2000, 2000)).astype("float32")
    h5 = weights_h5({"layers/dense": [kernel, kernel[0]]})
    good = {"h5": h5, "keras": keras_zip(settings(("dense", {})), h5)}.get(reader) or save(
        {"weight": kernel, "bias": kernel[0]}
    )

    def attempt():
        with contextlib.suppress(ValueError):
            load(model, path)

    worst = {"good": 0, "altered": 0}
    for n in range(files + 2):
        altered = good if n < 2 else kinds[n % len(kinds)](rng, good, good)
        path.write_bytes(altered)
        del altered
        ctypes.CDLL(None).malloc_trim(0)  # else what was freed before would be taken again unseen
        taken = general.peak(attempt)
        if n:  # the first one also takes what is imported for it
            worst["good" if n == 1 else "altered"] = max(worst["good" if n == 1 else "altered"], taken)
    shares = " | ".join(f"{taken / len(good):.2f} files" for taken in worst.values())
    print(f"\n| {reader} | {len(good) / 1e6:.1f} MB | {files} | {shares} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reader", choices=list(READERS), required=True)
    parser.add_argument("--files", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="start Python for each file that h5py reads")
    parser.add_argument("--large", action="store_true", help="measure the memory that large files take instead")
    options = parser.parse_args()
    if options.large:
        with tempfile.TemporaryDirectory() as folder, read_apart():
            measure_memory(folder, options.reader, options.files, options.seed)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        begin = perf_counter()
        found = run(folder, options.reader, options.files, options.seed, options.fresh)
        seconds = perf_counter() - begin
    columns = (
        "reader", "altered files", "refused", "loaded", "faults", "h5py ended after 2 s", "h5py crashed", "longest",
        "most memory", "most of h5py's process", "seconds",
    )  # fmt: skip
    values = (
        options.reader, f"{options.files:,}", f"{found.refused:,}", f"{found.loaded:,}", len(found.faults), Worker.ended,
        Worker.crashed, f"{1000 * found.longest:.0f} ms", f"{found.memory / 1e6:.1f} MB", f"{Worker.memory / 1e6:.0f} MB",
        f"{seconds:.0f}",
    )  # fmt: skip
    for row in (columns, "-" * len(columns), values):
        print(f"| {' | '.join(map(str, row))} |")
    print("\n".join(sorted(set(found.faults))[:20]))
    return int(bool(found.faults))


if __name__ == "__main__":
    sys.exit(main())
