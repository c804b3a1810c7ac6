"""ONNX's own tests of single operators, run by gpunet.

    python tests/helpers/onnx_nodes.py

prints the table of docs/start/onnx.md.
"""

import sys
import warnings
from collections import defaultdict
from dataclasses import dataclass, field

OPERATORS = tuple(
    """
    Conv ConvTranspose MaxPool AveragePool GlobalAveragePool GlobalMaxPool LpPool BatchNormalization InstanceNormalization
    GroupNormalization LayerNormalization Gemm MatMul Relu LeakyRelu PRelu Elu Selu Celu Gelu HardSigmoid HardSwish Mish Sigmoid
    Softsign Tanh Softmax LogSoftmax Softplus Flatten Reshape Transpose Concat Split Slice Gather Add Sub Mul Div Pow Sqrt Exp
    Log Abs Neg Min Max Mean Sum Pad Clip Dropout Identity Constant Shape Cast ReduceMean ReduceSum ReduceMax ArgMax Squeeze
    Unsqueeze Expand Resize Upsample DepthToSpace SpaceToDepth LRN Erf Where Equal Less Greater Reciprocal ConstantOfShape
    """.split()  # noqa: SIM905 - a list of 78 lines would be no clearer
)
"""Operators all of whose tests gpunet aims at."""
DTYPES = ("FLOAT", "DOUBLE", "INT32", "INT64", "BOOL")
WINDOWS = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool")


@dataclass
class Outcome:
    """What came of the tests of one operator."""

    passed: list[str] = field(default_factory=list)
    refused: dict[str, Exception] = field(default_factory=dict)
    """Errors by the names of tests."""
    other: list[str] = field(default_factory=list)
    """Tests of 1-D and 3-D windows, which gpunet does not aim at."""


def cases():
    """(operator, test) of each test with one of the operators alone and with no other dtypes."""
    from onnx import TensorProto
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():  # of ONNX's own code, which computes what is expected
        warnings.simplefilter("ignore")
        found = load_model_tests(kind="node")
    kinds = {getattr(TensorProto, name) for name in DTYPES}
    for case in found:
        graph = case.model.graph
        operators = {node.op_type for node in graph.node}
        types = {port.type.tensor_type.elem_type for port in (*graph.input, *graph.output)}
        if len(operators) == 1 and operators <= set(OPERATORS) and types <= kinds and case.data_sets:
            yield operators.pop(), case


def run(case):
    """Run one of ONNX's tests as its own runner does."""
    from onnx import TensorProto, numpy_helper
    from onnx.backend.test.runner import Runner

    from gpunet.interop.onnx import backend

    def plain(value):
        return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value

    prepared = backend.prepare(case.model, "CPU")
    for inputs, outputs in case.data_sets:
        results = prepared.run([plain(value) for value in inputs])
        Runner.assert_similar_outputs([plain(value) for value in outputs], results, case.rtol, case.atol)


def outcomes():
    """What came of all tests, by operator."""
    found = defaultdict(Outcome)
    for operator, case in cases():
        axes = max((len(port.type.tensor_type.shape.dim) for port in case.model.graph.input), default=0)
        try:
            run(case)
        except Exception as error:
            if operator in WINDOWS and axes != 4:
                found[operator].other.append(case.name)
            else:
                found[operator].refused[case.name] = error
        else:
            found[operator].passed.append(case.name)
    return {name: found[name] for name in OPERATORS}


def table(found):
    """Lines of Markdown."""
    import onnx

    passed, total = (sum(count(o) for o in found.values()) for count in (lambda o: len(o.passed), counted))
    yield f"With onnx {onnx.__version__}: {passed} of {total} tests pass ({100 * passed / total:.1f}%)."
    yield ""
    yield "| operator | passed | tests |"
    yield "|---|---|---|"
    for name, outcome in sorted(found.items()):
        yield f"| {name} | {len(outcome.passed)} | {counted(outcome)} |"


def counted(outcome):
    return len(outcome.passed) + len(outcome.refused)


if __name__ == "__main__":
    results = outcomes()
    print("\n".join(table(results)))
    print("\n".join(f"{case}: {error}" for o in results.values() for case, error in o.refused.items()), file=sys.stderr)
