"""What tests of files share: a small run that can be saved, the halves of a file, and readers that refuse it."""

import struct

import numpy as np
import pytest

import gpunet as gp
from gpunet import nn, optim
from gpunet.interop import load_checkpoint, load_weights, read_metadata


def made(seed=0):
    """A model with averages, an optimizer that has made a step, and a schedule."""
    gp.seed(seed)
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    average = optim.ExponentialMovingAverage(model, optimizer, 0.9)
    schedule = optim.StepLR(optimizer, 2)
    model(np.ones((1, 3), np.float32)).sum().backward()
    optimizer.step()
    return {"model": model, "optimizer": optimizer, "schedule": schedule, "average": average}


def states(parts):
    """All numbers of the parts, as text that two of them share if they are equal."""
    return repr([part.state_dict() for part in parts.values()])


def split(content):
    """(header as bytes, data)."""
    (length,) = struct.unpack("<Q", content[:8])
    return content[8 : 8 + length], content[8 + length :]


def joined(header, data):
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data


def assert_refused(path, content, reason, error=gp.DamagedFileError):
    """Every reader refuses the bytes in one line that names the file, and changes nothing."""
    path.write_bytes(content)
    parts = made(1)
    before = states(parts)
    for load in (
        lambda: load_weights(path, parts["model"]),
        lambda: load_checkpoint(path, **parts),
        lambda: read_metadata(path),
    ):
        with pytest.raises(error, match=reason) as caught:
            load()
        assert "net.safetensors" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert type(caught.value) is error
    assert states(parts) == before
