"""Rows 1, 2, 3 and 13: served Encode of texts, against the floor, SAELens and bfloat16."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks.callers import Callers, callers, encode_requests
from benchmarks.floor import encode_floor
from benchmarks.harness import Bar, Options, Report, alternate, ratio
from benchmarks.serving import served
from benchmarks.setting import BLOCK, Setting, gpt2_shaped, texts
from saekit.codec import rows_to_csr

CALLERS: Final = 16
PER_CALL: Final = 8
FEW: Final = 64
PEER: Final = Path(__file__).with_name("sae_lens_encode.py")


def measure(options: Options) -> Iterator[Report]:
    """On the GPT-2-shaped model and its 24,576 features."""
    setting = gpt2_shaped()
    rows = setting.rows(texts())
    requests = encode_requests(texts(), setting.sae_ids[:1], per_call=PER_CALL)
    # The model is the floor's alone here; what it was trained to say does not matter.
    hf = setting.model.hf
    block = hf.get_submodule(BLOCK)

    def floor() -> float:
        return encode_floor(hf, block, setting.saes[0], rows)

    with served(*setting.flags) as address, callers(address, CALLERS) as clients:

        def serve() -> float:
            return clients.encode(requests)

        outcomes = alternate({"floor in process": floor, "served": serve}, runs=options.runs)
        share = ratio(outcomes, "served", "floor in process")
        yield Report(
            row="01",
            question=f"served Encode ({CALLERS} callers, {PER_CALL} texts a call) and the floor",
            unit="tokens/s",
            outcomes=outcomes,
            bars=(Bar("served ÷ floor", share, least=0.9),),
        )
        if options.peer is not None:
            yield from _against_sae_lens(setting, clients, options)
    yield _bfloat16(setting, requests, floor, options)


def _against_sae_lens(setting: Setting, clients: Callers, options: Options) -> Iterator[Report]:
    few = texts()[:FEW]
    requests = encode_requests(few, setting.sae_ids[:1], per_call=PER_CALL)
    assert options.peer is not None
    with _peer(options.peer, setting, few) as ask:
        outcomes = alternate(
            {
                "served": lambda: clients.encode(requests),
                "SAELens as documented": lambda: ask("documented"),
                "SAELens at its best": lambda: ask("best"),
            },
            runs=options.runs,
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


def _bfloat16(setting: Setting, requests: Sequence[Any], floor: Any, options: Options) -> Report:
    with (
        served(*setting.flags, "--dtype", "bfloat16", "--sae-dtype", "bfloat16") as address,
        callers(address, CALLERS) as clients,
    ):
        outcomes = alternate(
            {
                "floor in process, float32": floor,
                "served, bfloat16": lambda: clients.encode(requests),
            },
            runs=options.runs,
        )
        low = _features(clients, requests[:4])
    with served(*setting.flags) as address, callers(address, CALLERS) as clients:
        high = _features(clients, requests[:4])
    both = sum(len(np.intersect1d(a, b)) for a, b in zip(low, high, strict=True))
    either = sum(len(np.union1d(a, b)) for a, b in zip(low, high, strict=True))
    return Report(
        row="13",
        question="served Encode in bfloat16 and the floor in float32",
        unit="tokens/s",
        outcomes=outcomes,
        bars=(
            Bar(
                "served ÷ float32 floor",
                ratio(outcomes, "served, bfloat16", "floor in process, float32"),
                least=1.4,
            ),
        ),
        notes=(f"active features that agree with float32: {both / either:.1%} of either's",),
        extra={"agreement": both / either},
    )


def _features(clients: Callers, requests: Sequence[Any]) -> list[np.ndarray[Any, Any]]:
    """Active entries of every input, as numbers of row and feature."""
    found = []
    for response in clients.each(lambda stub, i: stub.Encode(requests[i]), len(requests)):
        for result in response.results:
            csr = rows_to_csr(result.encodings[0].sparse)
            found.append(csr.row_of_each() * csr.shape[1] + csr.indices)
    return found


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
