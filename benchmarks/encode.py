"""Rows 1 and 13: served Encode of texts, against the floor, and in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from benchmarks.callers import Callers, callers, encode_requests
from benchmarks.floor import encode_floor
from benchmarks.harness import Bar, Options, Report, alternate, ratio
from benchmarks.serving import served
from benchmarks.setting import BLOCK, Setting, gpt2_shaped, texts
from saekit.codec import rows_to_csr

CALLERS: Final = 16
PER_CALL: Final = 8


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
    yield _bfloat16(setting, requests, floor, options)


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
