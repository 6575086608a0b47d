"""Rows 2 and 3: served Encode of texts against SAELens, as documented and at its best."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.callers import callers, encode_requests
from benchmarks.encode import CALLERS, PER_CALL
from benchmarks.harness import Bar, Options, Report, alternate, ratio
from benchmarks.serving import served
from benchmarks.setting import Setting, gpt2_shaped, texts

FEW: Final = 64
PEER: Final = Path(__file__).with_name("sae_lens_encode.py")


def measure(options: Options) -> Iterator[Report]:
    """On the GPT-2-shaped model and its 24,576 features."""
    assert options.peer is not None  # checked with the arguments
    setting = gpt2_shaped()
    few = texts()[:FEW]
    requests = encode_requests(few, setting.sae_ids[:1], per_call=PER_CALL)
    with (
        served(*setting.flags) as address,
        callers(address, CALLERS) as clients,
        _peer(options.peer, setting, few) as ask,
    ):
        # As documented it takes minutes, of which warming up is nothing.
        clients.encode(requests)
        ask("best")
        outcomes = alternate(
            {
                "served": lambda: clients.encode(requests),
                "SAELens as documented": lambda: ask("documented"),
                "SAELens at its best": lambda: ask("best"),
            },
            runs=options.runs,
            warm_up=0,
        )
    for row, name, least in (
        ("02", "SAELens as documented", 5.0),
        ("03", "SAELens at its best", 1.15),
    ):
        yield Report(
            row=row,
            question=f"served Encode and {name}, {FEW} texts",
            unit="tokens/s",
            outcomes={n: o for n, o in outcomes.items() if n in ("served", name)},
            bars=(Bar("served ÷ SAELens", ratio(outcomes, "served", name), least=least),),
        )


@contextmanager
def _peer(python: Path, setting: Setting, few: Sequence[str]) -> Iterator[Any]:
    """sae-lens in a process of its own, with the same weights and the same token ids."""
    job = {
        "model": str(setting.model_dir),
        "sae": str(setting.sae_root / setting.sae_ids[0]),
        "rows": [row.tolist() for row in setting.rows(list(few))],
        "threads": torch.get_num_threads(),
    }
    process = subprocess.Popen(
        [str(python), str(PEER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def ask(what: Any) -> float:
        stdin.write(json.dumps(what) + "\n")
        stdin.flush()
        for line in stdout:
            if line.startswith("tokens "):
                return float(line.split()[1])
        raise RuntimeError("sae-lens has stopped; its error is above")

    try:
        ask(job)
        yield ask
    finally:
        stdin.close()
        process.wait(60)
