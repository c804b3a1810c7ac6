"""``gpunet bench step``: whole training steps, against a rival in turns."""

from __future__ import annotations

import json
import os
import platform
from argparse import ArgumentParser, Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.bench.worker import Worker

NETS = ("lenet", "cnn")


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``gpunet bench step``."""
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), help="nets to train (default: all)")
    parser.add_argument("--batch", type=int, default=128, help="images a step (default: %(default)s)")
    parser.add_argument("--backend", default="numpy", help="gpunet's backend (default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="CPU threads (default: all, %(default)s)"
    )
    parser.add_argument("--against", choices=("torch",), help="a rival, in a process of its own, measured in turns")
    parser.add_argument("--rounds", type=int, default=12, help="turns of each contender (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="steps a turn (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="write the measurements as JSON, and a table beside it as .md")


def run(options: Namespace) -> int:
    """Measure, print a table, write the files."""
    for name in ("batch", "threads", "rounds", "steps"):
        if getattr(options, name) < 1:
            raise ValueError(f"bench: --{name} is {getattr(options, name)} but must be at least 1")
    names = ["gpunet", *([options.against] if options.against else [])]
    rows: list[dict[str, Any]] = []
    about: dict[str, Any] = {}
    for net in options.nets:
        row, about = _measure(net, names, options)
        rows.append(row)
        print(_line(row, options.against), flush=True)
    record = {
        "benchmark": "step",
        "command": _command(options),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"platform": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()},
        "contenders": about,
        "rows": rows,
    }
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(record, indent=1) + "\n")
        options.output.with_suffix(".md").write_text(table(record))
        print(f"written to {options.output} and {options.output.with_suffix('.md')}")
    return 0


def _measure(net: str, names: list[str], options: Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    workers = [Worker(name, net, options.batch, options.backend, options.threads) for name in names]
    losses = np.array([w.losses for w in workers])
    difference = float(np.abs(losses / losses[0] - 1).max())
    if difference > 1e-3:
        raise RuntimeError(
            f"bench: the contenders' losses differ by {difference:.1e}, so they do not do the same work: {losses}"
        )
    times: dict[str, list[float]] = {name: [] for name in names}
    for worker in workers:
        worker.run(options.steps)  # warm
    ratios = []
    for turn in range(options.rounds):
        order = workers if turn % 2 == 0 else workers[::-1]
        medians = {}
        for worker in order:
            seconds = worker.run(options.steps)
            times[worker.name] += seconds
            medians[worker.name] = float(np.median(seconds))
        ratios.append(medians[names[-1]] / medians["gpunet"])
    for worker in workers:
        worker.close()
    row: dict[str, Any] = {
        "net": net,
        "batch": options.batch,
        "threads": options.threads,
        "loss_difference": difference,
    }
    for name in names:
        row[name] = {f"{key}_ms": round(1e3 * float(np.percentile(times[name], q)), 3) for key, q in _PERCENTILES}
    if len(names) > 1:  # a turn's two medians are neighbours in time: their ratio feels little of the machine's moods
        row["ratio"] = {key: round(float(np.percentile(ratios, q)), 3) for key, q in _PERCENTILES}
    return row, {w.name: w.about for w in workers}


_PERCENTILES = (("p10", 10), ("median", 50), ("p90", 90))


def _line(row: dict[str, Any], rival: str | None) -> str:
    head = f"{row['net']:8} batch {row['batch']}: gpunet {_spread(row['gpunet'])}"
    if rival is None:
        return head
    return f"{head}, {rival} {_spread(row[rival])}; {rival}'s time / gpunet's: {_ratio(row['ratio'])}"


def _ratio(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} (p10 {ratio['p10']:.2f}, p90 {ratio['p90']:.2f})"


def _spread(times: dict[str, float]) -> str:
    return f"{times['median_ms']:.2f} ms (p10 {times['p10_ms']:.2f}, p90 {times['p90_ms']:.2f})"


def table(record: dict[str, Any]) -> str:
    """The Markdown table of a record."""
    rivals = [name for name in record["contenders"] if name != "gpunet"]
    head = ["net", "batch", "threads", "gpunet, ms", *(f"{r}, ms" for r in rivals), *(f"{r} / gpunet" for r in rivals)]
    lines = [
        f"# Training steps, {record['when'][:10]}",
        "",
        f"`{record['command']}`. Medians; a ratio above 1 means that gpunet is ahead.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for row in record["rows"]:
        cells = [row["net"], str(row["batch"]), str(row["threads"]), f"{row['gpunet']['median_ms']:.2f}"]
        cells += [f"{row[r]['median_ms']:.2f}" for r in rivals]
        cells += [_ratio(row["ratio"]) for _ in rivals]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        *(
            f"- {name}: {', '.join(f'{k} {v}' for k, v in about.items())}"
            for name, about in record["contenders"].items()
        ),
    ]
    return "\n".join(lines) + "\n"


def _command(options: Namespace) -> str:
    rival = f" --against {options.against}" if options.against else ""
    core = os.environ.get("OPENBLAS_CORETYPE")  # changes what is measured
    setting = f"OPENBLAS_CORETYPE={core} " if core else ""
    return (
        f"{setting}gpunet bench step --nets {' '.join(options.nets)} --batch {options.batch} "
        f"--backend {options.backend} --threads {options.threads}{rival} --rounds {options.rounds} "
        f"--steps {options.steps}"
    )
