"""Alters ONNX files in many random ways, and counts what comes of them.

    python tests/reliability/altered_onnx.py --files 100000

An ONNX file has no digest, so an altered one may be a good one. It must either be refused, by an
error that names the file, or become a model, which then must run or raise an error that says why
not. Prints rows of a Markdown table; the exit status is 1 if anything else happened.
"""

import argparse
import json
import multiprocessing
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import altered_files
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the tests' helpers are
from helpers.onnx_graphs import cnn, model, node, numbers, saved

from gpunet import no_grad
from gpunet.interop.onnx import load

BYTES = tuple(
    getattr(altered_files, name)
    for name in (
        "flip_a_bit", "overwrite_bytes", "zero_bytes", "truncate", "append", "insert_bytes", "remove_bytes", "exchange_blocks",
    )
)  # fmt: skip
HUGE = (2**31, 2**40, 2**62, 2**63 - 1, -1, -(2**63), 0)


def shapes(rng):
    """Operators whose results have the extents that the file says."""
    nodes = [
        node("Resize", "x,,scales", "a", mode="linear"),
        node("Pad", "a,pads", "b"),
        node("Expand", "b,shape", "c"),
        node("Tile", "c,repeats", "d"),
        node("ConstantOfShape", "small", "e"),
        node("Split", "d", "f,g", axis=1),
        node("Slice", "f,starts,ends", "h"),
        node("Concat", "h,g", "i", axis=1),
        node("ReduceSum", "e", "j", keepdims=0),
        node("Add", "i,j", "y"),
    ]
    constants = {
        "scales": np.array([1, 1, 1.5, 1.5], np.float32), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 0]),
        "shape": np.array([1, 4, 1, 1]), "repeats": np.array([1, 1, 1, 1]), "small": np.array([2, 3]),
        "starts": np.array([0, 0]), "ends": np.array([9, 2]),
    }  # fmt: skip
    return model(nodes, {"x": ["n", 4, 6, 6]}, {"y": ["n", "c", "h", "w"]}, constants)


# ---- alterations of a ModelProto: functions of (random numbers, the model)


def change_a_shape(rng, made):
    tensor = rng.choice(made.graph.initializer)
    i = rng.randrange(len(tensor.dims) + 1)
    if i == len(tensor.dims):
        tensor.dims.extend([rng.choice(HUGE)] * rng.choice([1, 2, 70]))
    else:
        tensor.dims[i] = rng.choice([*HUGE, rng.randrange(9)])


def change_a_dtype(rng, made):
    rng.choice(made.graph.initializer).data_type = rng.randrange(30)


def change_data(rng, made):
    tensor = rng.choice(made.graph.initializer)
    kind = rng.randrange(3)
    if kind == 0:
        tensor.raw_data = rng.randbytes(len(tensor.raw_data))
    elif kind == 1:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
    else:
        tensor.ClearField("raw_data")
        tensor.int64_data.extend(rng.getrandbits(62) for _ in range(rng.randrange(9)))


def send_data_elsewhere(rng, made):
    tensor = rng.choice(made.graph.initializer)
    tensor.data_location = 1
    entry = tensor.external_data.add()
    entry.key = "location"
    entry.value = rng.choice(
        ["/etc/hostname", "../secret", "a/../../secret", "data", "", ".", "x\0y", "C:\\data", "data\n"]
    )
    more = tensor.external_data.add()
    more.key, more.value = rng.choice(["offset", "length"]), rng.choice(["-1", "9" * 20, "x", "", "1"])


def rename_a_value(rng, made):
    one, other = rng.choice(made.graph.node), rng.choice(made.graph.node)
    names = [*one.input, *one.output, "", "nothing", "a\nb"]
    target = rng.choice([other.input, other.output])
    if len(target):
        target[rng.randrange(len(target))] = rng.choice(names)
    else:
        target.append(rng.choice(names))


def change_an_operator(rng, made):
    from gpunet.interop.onnx.loading.operators import OPERATORS

    one = rng.choice(made.graph.node)
    if rng.random() < 0.8:
        one.op_type = rng.choice(sorted(OPERATORS))
    else:
        one.op_type, one.domain = rng.choice(["Loop", "", "Attention", "ä\n"]), rng.choice(["", "ai.onnx.ml", "x"])


def change_attributes(rng, made):
    from onnx import helper

    with_some = [n for n in made.graph.node if n.attribute]
    one = rng.choice(with_some)
    attribute = rng.choice(one.attribute)
    kind = rng.randrange(5)
    if kind == 0 and attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice([*HUGE, 1, 2, 3])
    elif kind == 1:
        attribute.i, attribute.f = rng.choice(HUGE), rng.choice([0.0, 1e38, float("nan"), -1.0])
    elif kind == 2:
        attribute.type = rng.randrange(15)
    elif kind == 3:
        attribute.name = rng.choice(["axis", "to", "group", "strange", attribute.name])
    else:
        one.attribute.append(
            helper.make_attribute(rng.choice(["axis", "auto_pad", "mode"]), rng.choice([7, "SAME_LOWER", [1] * 9]))
        )


def move_nodes(rng, made):
    nodes = list(made.graph.node)
    kind = rng.randrange(3)
    if kind == 0:
        rng.shuffle(nodes)
    elif kind == 1:
        del nodes[rng.randrange(len(nodes))]
    else:
        nodes.insert(rng.randrange(len(nodes)), rng.choice(nodes))
    del made.graph.node[:]
    made.graph.node.extend(nodes)


def change_what_is_declared(rng, made):
    kind = rng.randrange(4)
    port = rng.choice([*made.graph.input, *made.graph.output])
    if kind == 0:
        made.opset_import[0].version = rng.choice([0, 1, 8, 9, 11, 13, 28, 29, -1, 2**40])
    elif kind == 1:
        dims = port.type.tensor_type.shape.dim
        rng.choice(dims).dim_value = rng.choice(HUGE)
    elif kind == 2:
        port.type.tensor_type.elem_type = rng.randrange(24)
    else:
        port.name = rng.choice(["", "x", "y", "w"])


def change_constants(rng, made):
    """The numbers that say how large results are."""
    tensor = rng.choice([t for t in made.graph.initializer if t.data_type == 7 or t.name == "scales"])
    count = len(tensor.raw_data) // (8 if tensor.data_type == 7 else 4)
    if tensor.data_type == 7:
        small = rng.choice(HUGE) if rng.random() < 0.5 else rng.randrange(-3, 9)
        tensor.raw_data = np.array([rng.choice([small, 1]) for _ in range(count)], np.int64).tobytes()
    else:
        tensor.raw_data = np.array(
            [rng.choice([1, 0, -1, 1e9, 1e38, np.nan]) for _ in range(count)], np.float32
        ).tobytes()


PROTOS = (
    change_a_shape, change_a_dtype, change_data, send_data_elsewhere, rename_a_value, change_an_operator, change_attributes,
    move_nodes, change_what_is_declared, change_constants,
)  # fmt: skip


# ---- what happens to the files


@dataclass
class Campaign:
    """Two good files, and what was found of altered ones."""

    folder: Path
    refused: int = 0
    ran: int = 0
    failed: int = 0
    longest: float = 0.0
    """Seconds of the slowest reading."""
    longest_run: float = 0.0
    faults: list[str] = field(default_factory=list)

    def __post_init__(self):
        rng = np.random.default_rng(0)
        self.path, self.good = self.folder / "altered.onnx", [cnn(rng), shapes(rng)]
        self.bytes = [made.SerializeToString() for made in self.good]
        self.inputs = [numbers(rng, 1, 3, 9, 8), numbers(rng, 1, 4, 6, 6)]
        (self.folder.parent / "secret").write_bytes(bytes(4096))

    def altered(self, n, rng):
        """(name of the alteration, bytes) of altered file number n."""
        kinds = (*BYTES, *PROTOS)
        kind, which = kinds[n % len(kinds)], rng.randrange(2)
        if kind in BYTES:
            return kind.__name__, kind(rng, self.bytes[which], self.bytes[1 - which]), which
        made = type(self.good[which])()
        made.CopyFrom(self.good[which])
        for _ in range(rng.choice([1, 1, 2, 3])):
            kind(rng, made)
        return kind.__name__, made.SerializeToString(), which

    def try_one(self, n, rng):
        """Load an altered file, and run what is loaded."""
        name, content, which = self.altered(n, rng)
        self.path.write_bytes(content)
        begin = perf_counter()
        try:
            made = load(self.path, layout="file")
        except (ValueError, TypeError) as error:
            self.refused += 1
            if str(self.path) not in str(error) or "\n" in str(error):
                self.faults.append(f"{name}: the message is {error}")
            made = None
        except BaseException as error:
            self.faults.append(f"{name}: loading raised {type(error).__name__}: {error}")
            made = None
        read = perf_counter()
        self.longest = max(self.longest, read - begin)
        if made is not None:
            self.run(name, made, self.inputs[which])
            self.longest_run = max(self.longest_run, perf_counter() - read)

    def run(self, name, made, x):
        """Run a model that was loaded."""
        try:
            with no_grad(), np.errstate(all="ignore"):
                made(x)
            self.ran += 1
        except (ValueError, TypeError, IndexError, MemoryError):
            self.failed += 1
        except BaseException as error:
            self.faults.append(f"{name}: running raised {type(error).__name__}: {error}")


def run(folder, files, seed):
    """Alter the files `files` times in all."""
    (folder / "inside").mkdir()
    campaign, rng = Campaign(folder / "inside"), random.Random(seed)
    for n in range(files):
        campaign.try_one(n, rng)
    return campaign


# ---- memory


def large_files(folder, files, seed):
    """A larger good file, and altered ones."""
    rng, nprng = random.Random(seed), np.random.default_rng(0)
    weights = {f"w{i}": numbers(nprng, 250, 250) for i in range(16)}
    nodes = [node("MatMul", f"{'x' if i == 0 else f'v{i}'},w{i}", f"v{i + 1}") for i in range(16)]
    good = model(nodes, {"x": ["n", 250]}, {"v16": ["n", 250]}, weights)
    content = good.SerializeToString()
    (folder / "good.onnx").write_bytes(content)
    kinds = (change_a_shape, change_a_dtype, change_data, rename_a_value, move_nodes, *BYTES)
    for n in range(files):
        made, kind = type(good)(), kinds[n % len(kinds)]
        made.CopyFrom(good)
        if kind in BYTES:
            (folder / f"{n}.onnx").write_bytes(kind(rng, content, content))
        else:
            kind(rng, made)
            saved(made, folder / f"{n}.onnx")


def tried(path):
    """Load a file that may be refused."""
    try:
        load(path)
    except (ValueError, TypeError):
        return


def measure_memory(folder):
    """Print the size of the good file of a folder, and the most memory that loading it and the altered ones took."""
    tried(folder / "0.onnx")  # what is imported at the first use is not counted
    with multiprocessing.get_context("fork").Pool(
        1, maxtasksperchild=1
    ) as pool:  # none finds memory that another has freed
        loaded, *altered = pool.map(_peak_of_loading, [folder / "good.onnx", *folder.glob("[0-9]*.onnx")], chunksize=1)
    print(json.dumps({"size": (folder / "good.onnx").stat().st_size, "altered": max(altered), "loaded": loaded}))


def _peak_of_loading(path):
    return altered_files.peak(lambda: tried(path))


def memory_in_a_child(folder, files, seed):
    """The numbers of `measure_memory`, from a process that has not held the files' contents before."""
    large_files(folder, files, seed)
    command = [sys.executable, __file__, "--memory", folder]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        measure_memory(options.memory)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        begin = perf_counter()
        found = run(Path(folder), options.files, options.seed)
        seconds = perf_counter() - begin
        large = memory_in_a_child(Path(folder), min(60, options.files), options.seed)
    print("| altered files | refused | ran | an operation was refused | other | longest reading | longest run | all |")
    print("|---|---|---|---|---|---|---|---|")
    print(
        f"| {options.files:,} | {found.refused:,} | {found.ran:,} | {found.failed:,} | {len(found.faults)} "
        f"| {1000 * found.longest:.0f} ms | {1000 * found.longest_run:.0f} ms | {seconds:.0f} s |\n"
    )
    print("| file | altered ones | most memory of one | of the good one |")
    print("|---|---|---|---|")
    shares = " | ".join(f"{large[name] / large['size']:.2f} files" for name in ("altered", "loaded"))
    print(f"| {large['size'] / 1e6:.1f} MB | {min(60, options.files)} | {shares} |")
    print("\n".join(sorted(set(found.faults))[:20]))
    return int(bool(found.faults) or max(large["altered"], large["loaded"]) > 10 * large["size"])


if __name__ == "__main__":
    sys.exit(main())
