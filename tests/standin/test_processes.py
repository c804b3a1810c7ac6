"""Processes that a test starts see the stand-in if their environment says so."""

import os
import subprocess
import sys

import pytest

import standin
from standin.install import why_impossible

CODE = """
from gpunet.backends import get_backend
import numpy as np
backend = get_backend("auto")
x = backend.asarray(np.ones(3, np.float32))
print(backend.name, type(x).__module__, backend.to_numpy(backend.binary("add", x, x)))
"""


def output_of(*command, **environment):
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def seen():
    if why := why_impossible():
        pytest.skip(why)
    return standin.environment()


def test_a_child_process_computes_on_the_stand_in(seen):
    assert output_of("-c", CODE, **seen) == "cuda cupy [2. 2. 2.]\n"


def test_the_command_line_describes_it(seen):
    told = output_of("-m", "gpunet", "info", **seen)
    assert "auto is cuda" in told
    assert "cuda: device CUDA stand-in, compute capability 80" in told


def test_without_the_variable_nothing_is_installed(seen):
    told = output_of("-c", CODE, **{**seen, standin.VARIABLE: "0", "GPUNET_BACKEND": "numpy"})
    assert told.startswith("numpy numpy")
