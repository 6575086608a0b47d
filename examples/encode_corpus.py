"""Batched encode of a corpus: which features tell its texts apart, and which never fire.

Streams a file of texts, one a line, with a progress bar; a line that cannot be encoded is counted
and skipped. Writes the pooled features of all texts as one CSR matrix.

    python examples/encode_corpus.py stories.txt --sae blocks.2.hook_resid_pre --out features.npz
"""

import argparse
from pathlib import Path

import numpy as np

from saekit_client import Client, InputOptions, SAEQuery, stack


def encode_corpus(address: str, sae: str, file: Path, out: Path) -> None:
    """Encodes, pools by maximum, counts, saves."""
    texts = file.read_text(encoding="utf-8").splitlines()
    with Client(address) as client:
        batch = client.encode(
            texts,
            SAEQuery(sae, pooling="max"),
            options=InputOptions(over_length="truncate"),
            progress=True,
        )
        matrix = stack(batch.successes)  # [texts, d_sae]
        pin = batch.successes[0].encoding.pin
    print(f"{len(batch.successes)} texts encoded with {pin}, {len(batch.errors)} refused")
    for index, error in list(batch.errors.items())[:5]:
        print(f"  line {index + 1}: {error}")

    fires = np.bincount(matrix.indices, minlength=matrix.shape[1])  # texts per feature
    share = fires / matrix.shape[0]
    # Features of about half of the texts tell most of them apart: entropy of firing at all.
    p = np.clip(share, 1e-12, 1 - 1e-12)
    entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    print(f"{(fires == 0).sum()} of {matrix.shape[1]} features never fire")
    for feature in np.argsort(-entropy)[:10]:
        print(f"  #{feature}: in {share[feature]:.0%} of the texts")

    np.savez(
        out,
        sae=pin,
        data=matrix.data,
        indices=matrix.indices,
        indptr=matrix.indptr,
        shape=matrix.shape,
        lines=[r.index for r in batch.successes],
    )
    print(f"wrote {out}")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--address", default="localhost:50051")
    parser.add_argument("--sae", required=True)
    parser.add_argument("--out", type=Path, default=Path("features.npz"))
    arguments = parser.parse_args()
    encode_corpus(arguments.address, arguments.sae, arguments.file, arguments.out)


if __name__ == "__main__":
    main()
