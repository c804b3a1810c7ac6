"""Names of a model's parts in PyTorch: the caller's, or those of torchvision and timm.

torchvision's and timm's names are known for networks of `gpunet.models` as these functions make
them; a network that was changed since then has its own names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from gpunet import nn
from gpunet.interop.torch_layouts import COUNT, joined
from gpunet.nn import Module
from gpunet.nn.origin import origin

Names = str | Mapping[str, str | None] | Callable[[str], str | None]
"""What `names` takes: a table's name, names of modules there and here, or a function of a name."""


class Table:
    """Names of modules or of their parts there, and what they are called here.

    The longest name counts that an entry's name begins with. Names that begin with none stay as
    they are; those that lead to None are left out.
    """

    def __init__(self, here: Mapping[str, str | None]):
        self.here = dict(here)
        self.there = {own: name for name, own in here.items() if own is not None}

    def to_own(self, name: str) -> str | None:
        """The name here of an entry there; None to leave it out."""
        return _replaced(name, self.here)

    def to_torch(self, name: str) -> str:
        """The name there of an entry here."""
        return str(_replaced(name, self.there))


def _replaced(name: str, table: Mapping[str, str | None]) -> str | None:
    """The name with its longest beginning that the table holds replaced."""
    pieces = name.split(".")
    for count in range(len(pieces), -1, -1):
        begin = ".".join(pieces[:count])
        if begin in table:
            found = table[begin]
            return None if found is None else joined(found, ".".join(pieces[count:]))
    return name


def renamed(
    operation: str, model: Module, there: Iterable[str], names: Names | None
) -> tuple[dict[str, str | None], Table]:
    """(the name here of each entry there, the table that gives names there of those here).

    Args:
        operation: begins errors.
        names: see `gpunet.interop.torch.load_state_dict`; None takes the table that fits best.
    """
    there = list(there)
    if names is None:
        own = {joined(name, part) for name, module in model.named_modules() for part, _ in module.named_parts()}
        choices = [Table({}), *map(Table, _tables(model).values())]
        table = max(choices, key=lambda choice: sum(choice.to_own(name) in own for name in there))
    elif callable(names):
        given = {name: names(name) for name in there}
        if strange := [name for name, own in given.items() if not isinstance(own, str | None)]:
            raise TypeError(f"{operation}: names gives {strange[0]} {given[strange[0]]!r} but takes a name or None")
        return given, Table({name: own for name, own in given.items() if own is not None})
    else:
        table = table_of(operation, model, names)
    return {name: table.to_own(name) for name in there}, table


def table_of(operation: str, model: Module, names: str | Mapping[str, str | None]) -> Table:
    """A table of the caller's, or the one of torchvision or timm for this model.

    Raises:
        ValueError: there is no such table for the model, or two names lead to one.
    """
    if isinstance(names, str):
        tables = _tables(model)
        if names not in tables:
            known = (
                f"its tables are {', '.join(tables)}"
                if tables
                else "there are tables for networks of gpunet.models alone"
            )
            raise ValueError(f"{operation}: names={names!r} is not known for this model: {known}")
        return Table(tables[names])
    kept = [own for own in names.values() if own is not None]
    if twice := sorted({own for own in kept if kept.count(own) > 1}):
        raise ValueError(f"{operation}: names leads twice to {', '.join(twice)}")
    return Table(names)


# ---- the tables


def _tables(model: Module) -> dict[str, dict[str, str]]:
    """The tables of a network of `gpunet.models`, by the library whose names they hold."""
    made = origin(model)
    variant = made.get("arguments", {}).get("variant", "paper")
    if made.get("name") in ("resnet18", "resnet34"):
        return dict.fromkeys(("torchvision", "timm"), _residual(model))
    if made.get("name") in ("vgg11", "vgg16"):
        return {"torchvision": _features(model, first=0)}
    if made.get("name") == "alexnet" and variant == "torchvision":
        return {"torchvision": _features(model, first=1)}
    if made.get("name") == "mobilenet" and variant == "timm":
        return {"timm": _separable(model)}
    return {}


def _residual(model: Module) -> dict[str, str]:
    """conv1, bn1, layer1.0.conv1, … fc of a network of residual blocks."""
    table, group, position = {"conv1": "0", "bn1": "1"}, 1, 0
    for name, layer in model.named_parts():
        if isinstance(layer, nn.Linear):
            table["fc"] = name
        if not hasattr(layer, "shortcut"):
            continue
        if layer.conv1.stride != (1, 1):  # the first block of each group but the first
            group, position = group + 1, 0
        block = f"layer{group}.{position}"
        table |= {f"{block}.conv{i}": f"{name}.conv{i}" for i in (1, 2)}
        table |= {f"{block}.bn{i}": f"{name}.norm{i}" for i in (1, 2)}
        if layer.shortcut is not None:
            table |= {f"{block}.downsample.{i}": f"{name}.shortcut.{i}" for i in (0, 1)}
        position += 1
    return table


def _features(model: Module, first: int) -> dict[str, str]:
    """features.0, … classifier.6 of plain convolutions and dense layers.

    Activations and pools are layers of their own there. A hidden dense layer, its ReLU and dropout
    are three, of which the dense layer is the first, or the second where dropout comes before it.
    """
    table: dict[str, str] = {}
    position, dense = 0, first
    last = next(name for name, layer in reversed(list(model.named_parts())) if isinstance(layer, nn.Linear))
    for name, layer in model.named_parts():
        if isinstance(layer, nn.Linear):
            table[f"classifier.{dense - first if name == last and first else dense}"] = name
            dense += 3
        elif isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.MaxPool2d):
            table[f"features.{position}"] = name
            position += 1 + (layer.activation is not None if not isinstance(layer, nn.MaxPool2d) else 0)
    return table


STAGES = (1, 2, 2, 6, 2)
"""How many of MobileNet's blocks stand in each stage of timm's network."""


def _separable(model: Module) -> dict[str, str]:
    """conv_stem, bn1, blocks.0.0.conv_dw, … classifier of a MobileNet."""
    layers = [name for name, layer in model.named_parts() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear)]
    blocks = [f"blocks.{stage}.{i}" for stage, count in enumerate(STAGES) for i in range(count)]
    theirs = ["conv_stem", "bn1"]
    theirs += [f"{block}.{part}" for block in blocks for part in ("conv_dw", "bn1", "conv_pw", "bn2")]
    return dict(zip([*theirs, "classifier"], layers, strict=True))


def is_count(name: str) -> bool:
    """Whether an entry counts the batches of a batch norm."""
    return name.rpartition(".")[2] == COUNT
