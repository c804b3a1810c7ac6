"""Imports torchvision where its wheel is for another build of PyTorch than the one that is there.

The wheel's own library does not load then, and its Python code registers fakes of operators that nobody has declared.
Networks use none of these operators, so declaring them is enough.
"""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

_declared = []
"""Libraries of PyTorch's, whose declarations end with them."""


def torchvision():
    """The package; the test is skipped where it is not installed."""
    torch = pytest.importorskip("torch")
    found = find_spec("torchvision")
    if found is None:
        pytest.skip("torchvision is not installed")
    if not _declared:
        registered = Path(found.origin).with_name("_meta_registrations.py").read_text(encoding="utf-8")
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in re.findall(r'register_fake\("torchvision::(\w+)"\)', registered):
            if not hasattr(torch.ops.torchvision, name):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
    return pytest.importorskip("torchvision")


def timm():
    """The package, which imports torchvision; the test is skipped where it is not installed."""
    torchvision()
    return pytest.importorskip("timm")
