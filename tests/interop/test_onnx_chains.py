"""Random chains of operators compute what onnxruntime does, in whatever order the axes of their values lie."""

import numpy as np
import pytest
from helpers.onnx_graphs import model, node, numbers, run_by_onnxruntime, saved

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
from gpunet.interop.onnx import load


class Chain:
    """Nodes one after another, each of which takes the result of the one before and perhaps earlier ones."""

    def __init__(self, rng):
        self.rng, self.nodes, self.weights = rng, [], {}
        self.shape, self.names = (2, 4, 6, 5), ["x"]
        self.shapes = {"x": self.shape}

    def constant(self, array):
        name = f"c{len(self.weights)}"
        self.weights[name] = array
        return name

    def add(self, operator, shape, *more, inputs=(), **attributes):
        name = f"v{len(self.nodes)}"
        inputs = [*inputs] or [self.names[-1], *(m if isinstance(m, str) else self.constant(m) for m in more)]
        self.nodes.append(node(operator, ",".join(inputs), name, **attributes))
        self.names.append(name)
        self.shape = self.shapes[name] = tuple(map(int, shape))

    def earlier(self):
        """A value with the shape of the last one."""
        same = [name for name in self.names if self.shapes[name] == self.shape]
        return same[self.rng.integers(len(same))]


def conv(c):
    n, channels, h, w = c.shape
    c.add("Conv", (n, 6, h, w), numbers(c.rng, 6, channels, 3, 3), numbers(c.rng, 6), pads=[1, 1, 1, 1])


def activation(c):
    c.add(["Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "HardSigmoid", "Abs", "Neg"][c.rng.integers(8)], c.shape)


def by_channel(c):
    slopes = numbers(c.rng, c.shape[1], 1, 1)
    c.add(["PRelu", "Mul", "Add", "Sub", "Max"][c.rng.integers(5)], c.shape, slopes)


def by_place(c):
    _, _, h, w = c.shape
    c.add("Add", c.shape, [numbers(c.rng, h, w), numbers(c.rng, w), numbers(c.rng, 1, 1, h, 1)][c.rng.integers(3)])


def with_an_earlier_one(c):
    c.add(["Add", "Mul", "Sub", "Min"][c.rng.integers(4)], c.shape, c.earlier())


def where(c):
    other, last = c.earlier(), c.names[-1]
    c.add("Greater", c.shape, c.constant(numbers(c.rng, c.shape[1], 1, 1)))
    c.add("Where", c.shape, inputs=[c.names.pop(), last, other])


def pool(c):
    n, channels, h, w = c.shape
    kind = ["MaxPool", "AveragePool"][c.rng.integers(2)]
    c.add(kind, (n, channels, h, w), kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])


def concatenate(c):
    axis, other = int(c.rng.integers(4)) - 4, c.earlier()
    shape = list(c.shape)
    shape[axis] *= 2
    c.add("Concat", shape, other, axis=axis)


def split(c):
    axis = int(c.rng.integers(4))
    if c.shape[axis] < 2:
        return
    before = c.shape
    sizes = [1, before[axis] - 1]
    name = f"v{len(c.nodes)}"
    c.nodes.append(node("Split", f"{c.names[-1]},{c.constant(np.array(sizes))}", f"{name}rest,{name}", axis=axis))
    c.names.append(name)
    c.shape = c.shapes[name] = (*before[:axis], sizes[1], *before[axis + 1 :])


def cut(c):
    axis = int(c.rng.integers(4))
    kept = -(-c.shape[axis] // 2)
    shape = (*c.shape[:axis], kept, *c.shape[axis + 1 :])
    ends = np.array([-100 if (back := c.rng.integers(2)) else 100])
    c.add("Slice", shape, np.array([-1 if back else 0]), ends, np.array([axis]), np.array([-2 if back else 2]))


def transpose(c):
    axes = c.rng.permutation(4).tolist()
    c.add("Transpose", [c.shape[a] for a in axes], perm=axes)


def shuffle(c):
    n, channels, h, w = c.shape
    if channels % 2:
        return
    c.add("Reshape", (n, 2, channels // 2, h, w), np.array([0, 2, -1, h, w]))
    c.add("Transpose", (n, channels // 2, 2, h, w), perm=[0, 2, 1, 3, 4])
    c.add("Reshape", (n, channels, h, w), np.array([n, channels, h, w]))


def squeeze_and_excite(c):
    n, channels, h, w = c.shape
    before = c.names[-1]
    c.add("ReduceMean", (n, channels), axes=[2, 3], keepdims=0)
    c.add("Softmax", (n, channels), axis=1)
    c.add("Unsqueeze", (n, channels, 1, 1), np.array([2, 3]))
    c.add("Mul", (n, channels, h, w), inputs=[before, c.names[-1]])


def softmax(c):
    c.add(["Softmax", "LogSoftmax"][c.rng.integers(2)], c.shape, axis=int(c.rng.integers(4)) - 4)


def reduce(c):
    axis = int(c.rng.integers(4))
    shape = (*c.shape[:axis], 1, *c.shape[axis + 1 :])
    kind = ["ReduceMean", "ReduceMax"][c.rng.integers(2)]
    before = c.names[-1]
    c.add(kind, shape, axes=[axis], keepdims=1)
    c.add("Sub", c.shapes[before], inputs=[before, c.names[-1]])


def pad(c):
    mode = ["constant", "edge", "reflect"][c.rng.integers(3)]
    pads = np.zeros(8, np.int64)
    for place in c.rng.choice([2, 3, 6, 7] if mode == "reflect" else range(8), 2, replace=False):
        pads[place] = 1
    if mode == "reflect" and min(c.shape[2:]) < 3:
        return
    shape = [n + b + a for n, b, a in zip(c.shape, pads[:4], pads[4:], strict=True)]
    c.add("Pad", shape, pads, np.float32(0.5), mode=mode)


def instance_norm(c):
    ones = np.ones(c.shape[1], np.float32)
    c.add("InstanceNormalization", c.shape, ones, ones * 0.5, epsilon=1e-2)


def resize(c):
    n, channels, h, w = c.shape
    mode = ["nearest", "linear"][c.rng.integers(2)]
    scales, roi = np.array([1, 1, 2, 1.5], np.float32), np.zeros(0, np.float32)
    options = {"nearest_mode": "floor"} if mode == "nearest" else {}
    c.add("Resize", (n, channels, 2 * h, int(1.5 * w)), roi, scales, mode=mode, **options)


def gather(c):
    axis = int(c.rng.integers(4))
    shape = (*c.shape[:axis], 3, *c.shape[axis + 1 :])
    c.add("Gather", shape, c.rng.integers(-c.shape[axis], c.shape[axis], 3), axis=axis)


STEPS = (
    conv, activation, by_channel, by_place, with_an_earlier_one, where, pool, concatenate, split, cut, transpose, shuffle,
    squeeze_and_excite, softmax, reduce, pad, instance_norm, resize, gather,
)  # fmt: skip


@pytest.mark.parametrize("seed", range(80))
def test_a_random_chain_computes_what_onnxruntime_does(tmp_path, seed):
    rng = np.random.default_rng(seed)
    chain = Chain(rng)
    for _ in range(7):
        if np.prod(chain.shape) < 20_000:
            STEPS[rng.integers(len(STEPS))](chain)
    last = chain.names[-1]
    outputs = {last: list(chain.shape)} | {
        name: list(chain.shapes[name]) for name in rng.choice(chain.names[1:], 1) if name != last
    }
    made = model(chain.nodes, {"x": [2, 4, 6, 5]}, outputs, chain.weights)
    x = numbers(rng, 2, 4, 6, 5)
    theirs = run_by_onnxruntime(made, x)
    ours = load(saved(made, tmp_path / "chain.onnx"), layout="file")(x)
    ours = ours if isinstance(ours, tuple) else (ours,)
    for y, z in zip(ours, theirs, strict=True):
        assert y.shape == z.shape
        np.testing.assert_allclose(
            y.numpy().astype(float), z.astype(float), rtol=1e-4, atol=1e-5 * max(1, np.abs(z).max())
        )
