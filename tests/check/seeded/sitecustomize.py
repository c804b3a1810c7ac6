"""Breaks what GPUNET_SEEDED_FAULT names, as in ``leak:contract``, in the process of that stage and in those that it starts.

More names may follow, with spaces between them.

It stands in the place of the stand-in's file of this name, which puts CuPy on its device where GPUNET_TEST_STANDIN asks for it.
"""

import importlib
import os
import sys
import time
from itertools import islice
from pathlib import Path
from runpy import run_path


def replaced(source, wanted, right, wrong):
    """Let one file be read with a line changed, in every place where it stands."""
    read = source.read

    def changed(file):
        text = read(file)
        if file != wanted:
            return text
        assert right in text, f"{file} has no such line, so that nothing would be seeded: {right}"
        return text.replace(right, wrong)

    source.read = changed


def constant(source):
    load = "load(v, a + i);\n        store(y + i, v);"  # of a cast, which changes nothing in between
    replaced(source, "elementwise.cu", load, load.replace("load(v, a + i);", "load(v, a + i), v[0] *= 1.01f;"))


def barrier(source):
    wait = "void wait() { __syncthreads(); }"  # behind each turn of the main loop
    replaced(source, "conv2d_weight_grad.cu", wait, "void wait() {}")


def syntax(source):
    right = source.read
    source.read = lambda file: right(file) + ("\n#error seeded\n" if file == "take.cu" else "")


def leak(arrays):
    arrays.EmulatedArrays.empty_pool = lambda self, pool: 0


def hang(stage):
    stage.Stage.check = lambda self, what, *args, **options: (self.note_running(what), time.sleep(1000))


def crash(stage):
    stage.Stage.check = lambda self, what, *args, **options: (self.note_running(what), os.abort())


def raises(stage):
    def check(self, what, *args, **options):
        raise RuntimeError("seeded")

    stage.Stage.check = check


def order(device):
    right = device.shuffle_stream
    device.shuffle_stream = lambda seed, epoch: right(seed, epoch + 1)


def no_digits(recipes):
    """No fault: scikit-learn is not there."""

    def load_dataset(name, **options):
        raise ImportError("no scikit-learn")

    recipes.load_dataset = load_dataset


def headers(nvrtc):
    nvrtc.options = lambda: nvrtc.check_include_folder(nvrtc.Path("/usr/include"))


def small(speed):
    """No fault: as much work as a device can do that is emulated."""
    speed.COPIED, speed.SIDE, speed.TIMES, speed.ROUNDS, speed.WARM_UP = 2**16, 64, 2, "1", 0.01
    step = ("step", "--nets", "lenet", "--batch", "2", "--threads", "1", "--repeats", "1")
    speed.BENCHES = ((step, ()), (("ops", "--ops", "sgd", "--parameters", "1000", "--threads", "1"), ()), (step, ()))


def few(determinism):
    """No fault, likewise."""
    determinism.RUNS, determinism.BATCH = 3, 4


def sampled(compiled):
    """No fault: the last of a kernel's instances with tiles stands for all of them."""
    every = compiled.instantiations()
    is_tiled = importlib.import_module("gpunet.cuda.instantiations").is_tiled
    last = {e.partition("<")[0]: e for expressions in every.values() for e in expressions if is_tiled(e)}.values()
    compiled.instantiations = lambda: {
        file: tuple(e for e in expressions if e in last or not is_tiled(e)) for file, expressions in every.items()
    }


def a_sixth(cases):
    """No fault: a sixth of the cases stands for all, which tests/emulator/test_every_instance.py runs."""
    some_of(cases, lambda every: islice(every, 0, None, 6))


def casts(cases):
    """No fault, likewise: those of casts."""
    some_of(cases, lambda every: (case for case in every if case.key.startswith("cast")))


def some_of(cases, choose):
    every = cases.all_cases
    cases.all_cases = lambda: choose(every())
    importlib.import_module("gpunet.check.stages.agreement").instantiations = dict  # so that none is missed


def fails(speed):
    """The first bench cannot do what is asked, and the second goes on."""
    small(speed)
    speed.BENCHES = ((("step", "--nets", "nonsense"), ()), *speed.BENCHES[:1])


FAULTS = {
    "constant": ("gpunet.nvrtc.source", constant),
    "barrier": ("gpunet.nvrtc.source", barrier),
    "syntax": ("gpunet.nvrtc.source", syntax),
    "leak": ("gpunet.emulator.arrays", leak),
    "hang": ("gpunet.check.stage", hang),
    "crash": ("gpunet.check.stage", crash),
    "raises": ("gpunet.check.stage", raises),
    "order": ("gpunet.data.device", order),
    "headers": ("gpunet.nvrtc.compiler", headers),
    "no_digits": ("gpunet.train.recipes", no_digits),
    "few": ("gpunet.check.stages.determinism", few),
    "a_sixth": ("gpunet.check.cases", a_sixth),
    "casts": ("gpunet.check.cases", casts),
    "sampled": ("gpunet.check.stages.compile", sampled),
    "small": ("gpunet.check.stages.speed", small),
    "fails": ("gpunet.check.stages.speed", fails),
}
run_path(str(Path(__file__).parents[2] / "standin" / "site" / "sitecustomize.py"))
arguments = " ".join(sys.orig_argv)
for fault in os.environ.get("GPUNET_SEEDED_FAULT", "").split():
    name, _, where = fault.partition(":")
    if f'"stage": "{where}"' in arguments or (where == "compile" and "multiprocessing" in arguments):
        module, change = FAULTS[name]
        change(importlib.import_module(module))
