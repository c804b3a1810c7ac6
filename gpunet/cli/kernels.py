"""``gpunet kernels``, which compiles every CUDA kernel, runs one on the CPU, or predicts times."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from gpunet.cli.arguments import Command


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--arch", action="append", metavar="sm_90", help="only this architecture; may be repeated")
    parser.add_argument(
        "--count-all", nargs="?", const="", metavar="NAME",
        help="run the cases of gpunet check on the CPU, and list the accesses that touch more sectors of global memory "
        "than they need, or have bank conflicts; of kernels whose names start with NAME",
    )  # fmt: skip
    parser.add_argument(
        "--coverage", type=Path, metavar="FILE", help="run these cases, and write which source lines ran, as lcov does"
    )
    group = parser.add_argument_group("running one kernel on the CPU")
    add = group.add_argument
    add("--run", nargs=2, dest="kernel", metavar=("FILE.cu", "KERNEL"), help='as in scale.cu "scale<float>"')
    add("--grid", default="1", metavar="X[xYxZ]", help="number of blocks; default 1")
    add("--block", default="256", metavar="X[xYxZ]", help="number of threads in a block; default 256")
    add(
        "--arg",
        action="append",
        default=[],
        metavar="VALUE",
        help="one for each parameter, in order: a number, none, a struct as JSON, FILE.npy, or an array as "
        "DTYPE:SHAPE:CONTENT, where CONTENT is random, zeros, ones, arange or empty, as in float32:64x3:random",
    )
    add("--shared", type=int, default=0, metavar="BYTES", help="dynamic shared memory")
    add("--checked", action="store_true", help="check every access: bounds, alignment, uninitialised reads, races")
    add("--count", action="store_true", help="count what each access costs: sectors, wavefronts, bank conflicts")
    add("--schedule", default="fifo", help="fifo, lifo or random:SEED; default fifo")
    add("--save", type=Path, metavar="FILE.npz", help="write every array after the run")
    add = parser.add_argument_group("predicting the times of a training step on a GPU").add_argument
    add("--predict", action="store_true", help="print tile, split, waves, predicted time and bound of each launch")
    add(
        "--turns", nargs="?", const="", metavar="NAME",
        help="print the cycles of one turn of the main loop, for each instance whose name starts with NAME: those of a "
        "block alone, and of all blocks that a multiprocessor holds",
    )  # fmt: skip
    add("--gpu", default="H200", help="H200 (default), or another one of the table that an unknown name prints")
    add(
        "--net", action="append", metavar="NET",
        help="a net that gpunet bench names, such as lenet; may be repeated. Default: lenet and cnn with 128 images, "
        "resnet9 with 512, and a dense layer",
    )  # fmt: skip
    add("--batch", type=int, help="images in a step; default: the first batch size that gpunet bench measures")
    add("--precision", default="float32", help="what the steps compute in, as for gpunet train; default float32")
    add("--markdown", action="store_true", help="print the summary as kernels/README.md holds it")


def kernels(options: Namespace) -> int:
    """Print the table of all kernels -> 1 if one fails; or do what the options say instead."""
    if options.predict or options.turns is not None:
        from gpunet.cli import prediction

        return prediction.print_predictions(options) if options.predict else prediction.print_turns(options)
    if options.kernel:
        from gpunet.emulator.command import run_kernel

        return run_kernel(options)
    if options.count_all is not None or options.coverage:
        from gpunet.check import survey

        status = survey.write_coverage(options.coverage) if options.coverage else 0
        return status if options.count_all is None else survey.print_costly(options.count_all)
    from gpunet.cuda import gate

    return gate.print_table(options.arch or gate.ARCHITECTURES)


KERNELS = Command(
    "kernels",
    "Compile every CUDA kernel, and show registers, shared memory, spills and matrix and copy instructions; or run "
    "one with --run, or all with --count-all or --coverage; or predict times with --predict or --turns. Needs no GPU.",
    _add_arguments,
    kernels,
)
