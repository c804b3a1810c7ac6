"""``gpunet bench …``."""

from __future__ import annotations

from argparse import ArgumentParser

from gpunet.bench import step


def main(arguments: list[str] | None = None) -> int:
    """Parse and run; returns the exit status."""
    parser = ArgumentParser(prog="gpunet bench", description="Measure gpunet, alone or against a rival.")
    kinds = parser.add_subparsers(dest="kind", required=True)
    parse_step = kinds.add_parser("step", help="whole training steps", description="Time whole training steps.")
    step.add_arguments(parse_step)
    return step.run(parser.parse_args(arguments))
