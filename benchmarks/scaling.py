"""A training run in several processes against one: ``python -m benchmarks scaling``.

- Strong: the same batch, shared by more processes. Weak: as many tokens for each of them.
- Steps alone, sharing rows (gradients are summed) or features (reconstructions are); and whole
  runs on the embedded model, whose activations are passed on.
- What weights, gradients and Adam's moments take in each process.

1, 2, 4 and 8 GPUs, as many as there are; on a CPU 1 and 2 processes of one thread each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final

import torch

from benchmarks.harness import Bar, Options, Outcome, Report

ARCHITECTURES: Final = ("standard", "batchtopk")
ON_GPU: Final = {"d_in": 2304, "d_sae": 65536, "rows": 4096, "steps": 20, "threads": 4}
ON_CPU: Final = {"d_in": 768, "d_sae": 24576, "rows": 512, "steps": 1, "threads": 1}


def measure(options: Options) -> Iterator[Report]:
    """A report per architecture."""
    there = torch.cuda.device_count() if options.device.startswith("cuda") else 2
    counts = [n for n in (1, 2, 4, 8) if n <= there]
    for architecture in ARCHITECTURES:
        found = {n: _measured(n, architecture, options) for n in counts}
        one = found[1]
        outcomes, bars, notes = {}, [], []
        for n, cases in found.items():
            for case, figures in cases.items():
                name = f"{n} × {case}"
                outcomes[name] = Outcome.of(figures["rates"])
                if n > 1:
                    base = Outcome.of(one[_base(case)]["rates"]).median
                    bars.append(Bar(f"{name}, against one process", outcomes[name].median / base))
                if figures["bytes"] and "weak" not in case:
                    notes.append(f"{name}: {figures['bytes'] / 1e6:,.0f} MB of the SAE in each")
        yield Report(
            row=f"scaling-{architecture}",
            question=f"{architecture} in several processes",
            unit="tokens/s",
            outcomes=outcomes,
            bars=tuple(bars),
            notes=tuple(notes),
        )


def _measured(count: int, architecture: str, options: Options) -> dict[str, Any]:
    sizes = ON_GPU if options.device.startswith("cuda") else ON_CPU
    rows = sizes["rows"]
    cases = {"steps": ("rows", rows), "runs": ("run", 1024)}
    if count > 1:
        cases["steps, weak"] = ("rows", rows * count)
        cases["steps, features shared"] = ("features", rows)
        cases["runs, weak"] = ("run", 1024 * count)
    asked = {
        **sizes,
        "device": options.device,
        "architecture": architecture,
        "runs": options.runs,
        "cases": cases,
    }
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    done = subprocess.run(
        [sys.executable, "-m", *torchrun, "-m", "benchmarks.scaling_worker", json.dumps(asked)],
        env={**os.environ, "OMP_NUM_THREADS": str(sizes["threads"])},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{count} processes: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _base(case: str) -> str:
    return case.partition(",")[0]
