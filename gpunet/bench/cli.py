"""``gpunet bench …``."""

from __future__ import annotations

from argparse import ArgumentParser

from gpunet.bench.commands import backends, conv, layers, ops, step

KINDS = {
    "step": (step, "whole training steps"),
    "conv": (conv, "each convolution of the nets and its gradients"),
    "layers": (layers, "normalisation, upsampling and transposed convolution, forward and backward"),
    "ops": (ops, "pooling, normalisation, loss and updates against a copy of as many bytes"),
    "backends": (backends, "the same training steps on several backends, with a plot"),
}


def main(arguments: list[str] | None = None) -> int:
    """Parse and run; returns the exit status."""
    parser = ArgumentParser(prog="gpunet bench", description="Measure gpunet, alone or against a rival.")
    kinds = parser.add_subparsers(dest="kind", required=True)
    for name, (module, what) in KINDS.items():
        kind = kinds.add_parser(name, help=what, description=f"Time {what}.")
        module.add_arguments(kind)
        kind.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    status: int = options.run(options)
    return status
