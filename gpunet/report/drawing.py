"""`draw`: a picture of a model, with a box for each layer and the way that tensors take through them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from gpunet.autograd import Parameter, Tensor
from gpunet.files import PathLike, write_whole
from gpunet.nn.module import Module
from gpunet.nn.origin import name_of
from gpunet.nn.tracing import Call, Operation, Trace, input_shapes, tensors_of, trace
from gpunet.report.summary import kind_of

SYMBOLS = {
    "add": "+", "subtract": "−", "negative": "−", "multiply": "×", "divide": "÷", "matmul": "@",
    "concatenate": "concat",
}  # fmt: skip
"""What stands for an operation outside any layer, where this is not its name."""
COLOURS = (
    (("Conv", "Locally"), "#d6e6f5"),
    (("Linear",), "#e3daf2"),
    (("Norm",), "#dcefdc"),
    (("Pool", "Upsample", "Pad2d"), "#fae3cf"),
    (("Dropout", "Noise", "Identity", "Flatten"), "#eeeeee"),
)
"""The background of a layer by words in the name of its class, the first that fits."""
OTHER = "#fbf3cc"
"""The background of the other layers, which are activations for the most part."""
CLUSTERS = "#f7f9fb", "#edf1f5"
"""The backgrounds of the frames around layers, by turns from the outside inwards."""
FORMATS = "svg", "png", "pdf"


@dataclass(frozen=True)
class Drawing:
    """A picture of a model; a notebook shows it."""

    title: str
    dot: str = field(repr=False)
    """The picture in the language of Graphviz."""

    def svg(self) -> str:
        """The picture as SVG.

        Raises:
            ImportError: the package graphviz is not installed.
            FileNotFoundError: the program dot, which the package calls, is not installed.
        """
        return self._drawn("svg").decode()

    def save(self, path: PathLike) -> None:
        """Write the picture: as SVG, PNG or PDF by the name's end, or in the language of Graphviz
        (.dot).

        Raises:
            ValueError: another end of the name.
            ImportError, FileNotFoundError: as for `svg`; a .dot file takes neither.
        """
        kind = Path(path).suffix.removeprefix(".").lower()
        if kind == "dot":
            write_whole(path, self.dot.encode())
        elif kind in FORMATS:
            write_whole(path, self._drawn(kind))
        else:
            takes = ", ".join(f".{name}" for name in (*FORMATS, "dot"))
            raise ValueError(f"draw: {os.fspath(path)} must end in one of {takes}")

    def _drawn(self, kind: str) -> bytes:
        try:
            import graphviz
        except ImportError as error:
            raise ImportError(f'draw: takes the package graphviz: pip install "gpunet[draw]" ({error})') from error
        try:
            drawn: bytes = graphviz.Source(self.dot).pipe(format=kind)
        except graphviz.ExecutableNotFound as error:
            needs = "the program dot of Graphviz, which is not on the PATH: install graphviz by your system's packages"
            raise FileNotFoundError(
                f"draw: takes {needs}, as by apt install graphviz or brew install graphviz"
            ) from error
        return drawn

    def _repr_html_(self) -> str:
        """What a notebook shows: the picture, or what is missing for it."""
        try:
            svg = self.svg()
        except (ImportError, FileNotFoundError) as error:
            return f"<p>{escape(str(error))}</p><pre>{escape(self.dot)}</pre>"
        return svg[svg.index("<svg") :]


def draw(model: Module, input_shape: Sequence[int] | Sequence[Sequence[int]]) -> Drawing:
    """Run `model` once in inference mode, and draw the way of its tensors through its layers.

    Each run of a layer is a box with the layer's class and name, the shape of its result without
    the batch axis, and the number of its parameters. Modules that hold other modules are frames
    around these. What a `forward` computes outside any layer, such as the sum of a residual block,
    is a box too; so is each operation of a model that holds no layers, as one of an ONNX file. The
    model stays as it is.

    Args:
        model: the model.
        input_shape: shape of one input without the batch axis, such as (28, 28, 1); or a list of
            such shapes for a model with several inputs.
    Returns:
        A `report.drawing.Drawing`: a notebook shows it; `svg()` is the picture as text, `save(path)`
        writes it, and `dot` is its source. Pictures take Graphviz.
    """
    picture = _Picture(trace(model, input_shapes("draw", input_shape), 1))
    return Drawing(picture.title, "\n".join(picture.lines()) + "\n")


@dataclass
class _Frame:
    """The boxes of a module that holds others, and the frames inside it."""

    call: Call
    parts: list[str | _Frame] = field(default_factory=list)
    """Boxes as lines, and the frames among them, in the order in which they ran."""


class _Picture:
    """The boxes of a trace, and the arrows between them."""

    def __init__(self, run: Trace):
        self._run = run
        self._frames: dict[int, _Frame] = {}
        self._layers: dict[int, int] = {}  # the number of the box of each layer's run, by the run's id
        self._sources: dict[int, int] = {}  # the number of the box that made a tensor, by the tensor's id
        self._arrows: dict[tuple[int, int], None] = {}
        self._counted: set[int] = set()  # ids of the parameters in the boxes
        self._count = 0
        self._root = self._frame(run.call)
        self._open = run.call if len(run.operations) > 1 else None
        """The model's own run, whose operations are drawn also where it holds no layers, as one of an ONNX file."""

    @property
    def title(self) -> str:
        """What the model is, and how many parameters it has."""
        module = self._run.call.module
        return f"{name_of(module)}: {sum(p.size for p in module.parameters()):,} parameters"

    def lines(self) -> Iterator[str]:
        """The lines of the picture."""
        for i, x in enumerate(self._run.inputs):
            name = "input" if len(self._run.inputs) == 1 else f"input {i}"
            self._sources[id(x)] = self._box(self._root, _rows(name, "", _extents(x), ""), fillcolor="white")
        for operation in self._run.operations:
            self._add(operation)
        outputs = tensors_of("draw", self._run.output)
        for name, y in outputs.items():
            named = "output" if len(outputs) == 1 else f"output {name}"
            box = self._box(self._root, _rows(named, "", _extents(y), ""), fillcolor="white")
            self._connect([y], box)
        yield "digraph model {"
        yield f"  label={_quoted(self.title)}; labelloc=t;"
        yield from STYLE
        yield from _inside(self._root, 1)
        straight = set(_rows_of_boxes(self._arrows))
        yield from (f"  n{start} -> n{end}{STRAIGHT * ((start, end) in straight)};" for start, end in self._arrows)
        yield "}"

    def _add(self, operation: Operation) -> None:
        """Add an operation to the box of its layer, or a box of its own, and the arrows to it."""
        call = operation.call
        if call.leaf and call is not self._open:
            if id(call) not in self._layers:
                frame = self._root if call.outer is None else self._frame(call.outer)
                self._layers[id(call)] = self._box(frame, self._layer(call), **_look(call.module))
            box = self._layers[id(call)]
        elif any(t is not None and id(t) in self._sources for t in operation.inputs):
            label = _rows(_title(operation), "", _extents(operation.result), "")
            box = self._box(self._frame(call), label, fillcolor="white", shape="ellipse", style="filled")
        else:
            return  # of constants alone
        self._connect(operation.inputs, box)
        self._sources[id(operation.result)] = box

    def _layer(self, call: Call) -> str:
        """What stands in the box of a layer's run."""
        own = [p for _, p in call.module.named_parts() if isinstance(p, Parameter)]
        count = sum(p.size for p in own)
        shared = any(id(p) in self._counted for p in own)
        self._counted.update(map(id, own))
        said = "" if not count else "shared parameters" if shared else f"{count:,} parameters"
        y = next(iter(tensors_of("draw", call.output).values()))
        return _rows(kind_of(call.module), call.name, _extents(y), said)

    def _frame(self, call: Call) -> _Frame:
        """The frame of a run, inside those of the runs around it."""
        if id(call) not in self._frames:
            self._frames[id(call)] = _Frame(call)
            if call.outer is not None:
                self._frame(call.outer).parts.append(self._frames[id(call)])
        return self._frames[id(call)]

    def _box(self, frame: _Frame, label: str, **attributes: str) -> int:
        """Add a box -> its number."""
        self._count += 1
        said = "".join(f", {key}={_quoted(value)}" for key, value in attributes.items())
        frame.parts.append(f"n{self._count} [label=<{label}>{said}];")
        return self._count

    def _connect(self, tensors: Iterable[Tensor | None], box: int) -> None:
        """Add arrows to a box from those that made the tensors."""
        sources = (self._sources.get(id(t)) for t in tensors)
        self._arrows.update({(source, box): None for source in sources if source not in (None, box)})


STYLE = (
    '  graph [fontname="Helvetica,Arial,sans-serif", fontsize=12, nodesep=0.25, ranksep=0.28];',
    '  node [fontname="Helvetica,Arial,sans-serif", fontsize=11, shape=box, style="rounded,filled", color="#8a94a0",'
    ' margin="0.1,0.07", height=0.3];',
    '  edge [color="#5a6570", arrowsize=0.6];',
)
"""How the picture looks, in the language of Graphviz."""
STRAIGHT = " [weight=8]"
"""Of the arrows of `_rows_of_boxes`, so that rows of layers are straight."""


def _rows_of_boxes(arrows: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Arrows that join boxes to rows, at most one from each box and one to each.

    Where several lead to a box, it is the one at the end of the longest way, and not a shortcut.
    """
    leading: dict[int, list[int]] = {}
    for start, end in arrows:
        leading.setdefault(end, []).append(start)
    lengths: dict[int, int] = {}
    used: set[int] = set()
    for end in sorted(leading):  # boxes are numbered in the order in which they ran
        start = max(leading[end], key=lambda box: lengths.get(box, 0))
        lengths[end] = lengths.get(start, 0) + 1
        if start not in used:
            used.add(start)
            yield start, end


def _inside(frame: _Frame, depth: int, path: str = "") -> Iterator[str]:
    """The lines of a frame's boxes, and of the frames inside it."""
    for i, part in enumerate(frame.parts):
        if isinstance(part, str):
            yield "  " * depth + part
            continue
        name = f"{part.call.name} {type(part.call.module).__name__}".strip()
        yield "  " * depth + f"subgraph {_quoted(f'cluster {path}{i}')} {{"
        yield "  " * (depth + 1) + f"label={_quoted(name)}; labelloc=t; labeljust=l; fontsize=10; style=rounded;"
        yield "  " * (depth + 1) + f'color="#c3ccd6"; bgcolor="{CLUSTERS[depth % 2]}"; fontcolor="#5a6570";'
        yield from _inside(part, depth + 1, f"{path}{i}.")
        yield "  " * depth + "}"


def _rows(kind: str, name: str, shape: str, said: str) -> str:
    """A label of Graphviz's, which resembles HTML: the kind in bold and the name, below it the rest."""
    grey = '<FONT COLOR="#5a6570" POINT-SIZE="10">{}</FONT>'
    first = f"<B>{escape(kind)}</B>" + (f"  {grey.format(escape(name))}" if name else "")
    below = grey.format(escape(" · ".join(part for part in (shape, said) if part)))
    return f"{first}<BR/>{below}"


def _title(operation: Operation) -> str:
    """What an operation outside any layer is called: by its sign where it has one."""
    chosen = operation.options.get("operation") or getattr(operation.options.get("activation"), "name", None)
    name = str(chosen or operation.name)
    return SYMBOLS.get(name, name.rpartition(".")[2])


def _extents(t: Tensor) -> str:
    """A shape without the batch axis, as "28×28×1"."""
    return "×".join(map(str, t.shape[1:])) or "one number"


def _look(module: Module) -> dict[str, str]:
    """Attributes of the box of a layer; its settings show where the mouse rests."""
    kind = type(module).__name__
    colour = next((colour for words, colour in COLOURS if any(word in kind for word in words)), OTHER)
    settings = module.extra_repr()
    return {"fillcolor": colour, "tooltip": f"{kind}({settings})"}


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
