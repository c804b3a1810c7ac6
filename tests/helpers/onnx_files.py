"""Exported models, run by onnxruntime beside gpunet."""

import numpy as np

import gpunet as gp
from gpunet.interop.onnx import load

TOLERANCE = 1e-5
"""Of the largest output, between onnxruntime and gpunet."""


def with_random_state(model, seed=0):
    """The model with other numbers in every parameter and buffer, so that no weight of 0 or 1 hides a fault."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, value in model.state_dict().items():
        drawn = rng.normal(0, 0.3, value.shape) if value.ndim < 2 else value + rng.normal(0, 0.02, value.shape)
        state[name] = (np.abs(drawn) + 0.5 if name.endswith(("var", "tracked")) else drawn).astype(value.dtype)
    model.load_state_dict(state)
    return model.eval()


def as_first(array, layout="NCHW"):
    """Images in the file's order of axes; other arrays as they are."""
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 and layout == "NCHW" else array


def inputs_for(input_shape, batch, seed=1):
    """Normal numbers for one input, or for each of a list."""
    shapes = input_shape if isinstance(input_shape, list) else [input_shape]
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(batch, *shape)).astype(np.float32) for shape in shapes]


def session(source):
    """onnxruntime on a file, by its path or its bytes: on one thread, without messages."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        source if isinstance(source, bytes) else str(source), options, providers=["CPUExecutionProvider"]
    )


def ran(path, inputs, layout="NCHW"):
    """The outputs of a file for inputs in gpunet's order."""
    running = session(path)
    given = {slot.name: as_first(x, layout) for slot, x in zip(running.get_inputs(), inputs, strict=True)}
    return running.run(None, given)


def outputs(model, inputs):
    """gpunet's outputs, as a list of arrays."""
    with gp.no_grad():
        y = model(*inputs)
    found = y.values() if isinstance(y, dict) else y if isinstance(y, tuple | list) else [y]
    return [t.numpy() for t in found]


def error_of(path, model, input_shape, batch=5, layout="NCHW"):
    """The largest difference between onnxruntime's outputs and gpunet's, over the largest output.

    What gpunet itself loads from the file must compute the same, too."""
    inputs = inputs_for(input_shape, batch)
    expected = outputs(model, inputs)
    assert worst_of(outputs(load(path), inputs), expected) < TOLERANCE, "loaded again, it computes something else"
    return worst_of(ran(path, inputs, layout), [as_first(ours, layout) for ours in expected])


def worst_of(found, expected):
    """The largest difference over the largest expected number, of several arrays."""
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        difference = np.abs(one.astype(np.float64) - other).max(initial=0)
        worst = max(worst, difference / max(np.abs(other).max(initial=0), 1e-30))
    return worst
