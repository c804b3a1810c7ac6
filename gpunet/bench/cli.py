"""The command line of ``gpunet bench``: the kinds of measurement, and how one is run."""

from __future__ import annotations

from argparse import ArgumentParser

from gpunet.bench.commands import backends, conv, layers, loading, ops, ranks, scaling, step
from gpunet.distributed.commands import on_first_rank, parse_once

KINDS = {
    "step": (step, "whole training steps, and the memory that they take"),
    "inference": (step, "forward passes of whole nets without gradients"),
    "conv": (conv, "each convolution of the nets and its gradients"),
    "layers": (layers, "normalisation, upsampling and transposed convolution, forward and backward"),
    "ops": (ops, "pooling, normalisation, loss and updates, beside a copy of as many bytes"),
    "loading": (loading, "batches of JPEG images, decoded and scaled"),
    "scaling": (scaling, "training steps by the number and the size of their images, and plot them"),
    "ranks": (ranks, "training steps of several ranks, under mpirun, and what adding up their gradients takes"),
    "backends": (backends, "the same training steps on several backends, and plot them"),
}


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments and run one kind of measurement -> the exit status."""
    options = parse_once(make_parser(), arguments)
    status: int = options.run(options)
    return status


def make_parser() -> ArgumentParser:
    """The parser of every kind of measurement."""
    parser = ArgumentParser(
        prog="gpunet bench", description="Measure the speed of gpunet, alone or beside another framework."
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for name, (module, what) in KINDS.items():
        kind = kinds.add_parser(name, help=what, description=f"Time {what}.")
        module.add_arguments(kind)
        kind.set_defaults(run=module.run if module is ranks else on_first_rank(module.run))
    return parser
