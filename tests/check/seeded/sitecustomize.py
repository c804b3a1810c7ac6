"""Breaks what GPUNET_SEEDED_FAULT names, as in ``leak:contract``, in the process of that stage and in those that it starts."""

import importlib
import os
import sys
import time


def constant(source):
    right = source.read
    source.read = lambda file: right(file).replace(
        "GRID_STRIDE_LOOP(i, count) from_float(y[i], to_float(a[i]));",
        "GRID_STRIDE_LOOP(i, count) from_float(y[i], 1.01f * to_float(a[i]));",
    )


def barrier(source):
    right = source.read

    def read(file):
        text = right(file)
        return text.replace("__syncthreads();", ";") if file == "conv2d_weight_grad.cu" else text

    source.read = read


def syntax(source):
    right = source.read
    source.read = lambda file: right(file) + ("\n#error seeded\n" if file == "take.cu" else "")


def leak(arrays):
    arrays.EmulatedArrays.empty_pool = lambda self, pool: 0


def hang(stage):
    stage.Stage.check = lambda self, what, *args, **options: (self._note(what), time.sleep(1000))


def crash(stage):
    stage.Stage.check = lambda self, what, *args, **options: (self._note(what), os.abort())


def raises(stage):
    def check(self, what, *args, **options):
        raise RuntimeError("seeded")

    stage.Stage.check = check


def order(device):
    right = device.shuffle_stream
    device.shuffle_stream = lambda seed, epoch: right(seed, epoch + 1)


def headers(nvrtc):
    nvrtc.options = lambda: nvrtc.check_include_folder(nvrtc.Path("/usr/include"))


FAULTS = {
    "constant": ("gpunet.cuda.source", constant),
    "barrier": ("gpunet.cuda.source", barrier),
    "syntax": ("gpunet.cuda.source", syntax),
    "leak": ("gpunet.cuda.emulator.arrays", leak),
    "hang": ("gpunet.check.stage", hang),
    "crash": ("gpunet.check.stage", crash),
    "raises": ("gpunet.check.stage", raises),
    "order": ("gpunet.data.device", order),
    "headers": ("gpunet.cuda.nvrtc", headers),
}
name, _, where = os.environ.get("GPUNET_SEEDED_FAULT", "").partition(":")
arguments = " ".join(sys.orig_argv)
if f'"stage": "{where}"' in arguments or (where == "compile" and "multiprocessing" in arguments):
    module, change = FAULTS[name]
    change(importlib.import_module(module))
