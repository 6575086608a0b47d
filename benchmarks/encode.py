"""Encode: served to 16 callers, against the same work in process.

python -m benchmarks.encode

On the embedded model and its first SAE. Contenders: a notebook's loop (one text at a time, the
bridge's cache, `sae.encode`); the floor (length-sorted batches through the plain modules up to the
hook point, one sparse encode a batch); the server (16 callers, 8 texts a call, over a real socket).
"""

from __future__ import annotations

import random
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from benchmarks.harness import alternate, report
from benchmarks.serving import served
from saekit_client import Client
from saekit_core.assets import default_sae_root
from saekit_core.lm.boot import boot_model
from saekit_core.lm.model import LanguageModel
from saekit_core.sae import SAE, encode_sparse

CALLERS, PER_CALL, BATCH = 16, 8, 32
WORDS = re.findall(r"\w+", "The dog ran to a big red park and saw her little cat near some trees")


def texts(count: int = 256, seed: int = 0) -> list[str]:
    """Texts of log-normal lengths: most are short, some are long."""
    rng = random.Random(seed)
    lengths = [min(int(rng.lognormvariate(4.2, 0.8)), 400) for _ in range(count)]
    return [" ".join(rng.choices(WORDS, k=max(n, 2))) for n in lengths]


def main() -> None:
    """Measures and prints."""
    torch.set_grad_enabled(False)
    root = default_sae_root()
    folder = sorted(path.parent for path in root.rglob("cfg.json"))[0]
    name = folder.relative_to(root).as_posix()
    model, sae = boot_model(), SAE.load_from_disk(folder)
    rows = [model.tokenizer.encode_text(text, sae.cfg.prepend_bos).ids for text in texts()]
    tokens = sum(len(row) for row in rows)
    with served() as address, Client(address) as client, ThreadPoolExecutor(CALLERS) as pool:
        calls = [texts()[i : i + PER_CALL] for i in range(0, len(rows), PER_CALL)]

        def serve() -> float:
            list(pool.map(lambda call: client.encode(call, name, progress=False), calls))
            return tokens

        outcomes = alternate(
            {
                "in process, sorted batches": lambda: floor(model, sae, rows),
                "in process, one at a time": lambda: notebook(model, sae, rows),
                "served, 16 callers": serve,
            }
        )
    report("encode: embedded model", "tokens", outcomes, "in process, sorted batches")


def floor(model: LanguageModel, sae: SAE, rows: list[np.ndarray]) -> float:
    """The least that has to be done."""
    hook = model.hook_point(str(sae.cfg.hook_name))
    ordered = sorted(rows, key=len)
    for start in range(0, len(ordered), BATCH):
        batch = ordered[start : start + BATCH]
        ids = np.zeros((len(batch), len(batch[-1])), np.int64)
        for row, new in zip(ids, batch, strict=True):
            row[: len(new)] = new
        real = torch.from_numpy(np.arange(ids.shape[1]) < np.array([[len(r)] for r in batch]))

        def tap(h: torch.Tensor, real: torch.Tensor = real) -> None:
            encode_sparse(sae, h[real])

        model.forward(torch.from_numpy(ids), taps={hook: tap})
    return sum(len(row) for row in rows)


def notebook(model: LanguageModel, sae: SAE, rows: list[np.ndarray]) -> float:
    """What a notebook does."""
    for row in rows:
        _, cache = model.bridge.run_with_cache(torch.from_numpy(row)[None])
        sae.encode(cache[sae.cfg.hook_name])
    return sum(len(row) for row in rows)


if __name__ == "__main__":
    main()
