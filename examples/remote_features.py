"""Remote feature extraction: a service that asks a saekit server instead of holding the model.

An asyncio service (a moderation queue, a search index, ...) scores texts by features that matter to
it. It pins the SAE's revision, so that a feature never changes its meaning under it, and keeps one
client for its whole life.

    python examples/remote_features.py "The dog ran home." "It was raining." \\
        --sae blocks.2.hook_resid_pre --features 12 34
"""

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saekit_client import AsyncClient, SAEKitError, SAEQuery


@dataclass(frozen=True)
class FeatureScorer:
    """Scores texts by the largest activation of some features."""

    client: AsyncClient
    sae: str
    features: Sequence[int]

    @classmethod
    async def pinned(
        cls, client: AsyncClient, sae: str, features: Sequence[int]
    ) -> "FeatureScorer":
        """A scorer that accepts no other revision than the one loaded now."""
        details = await client.get_sae(sae)
        return cls(client, f"{details.info.sae_id}@{details.info.revision}", features)

    async def score(self, text: str) -> dict[int, float]:
        """Largest activation of each feature over the text."""
        query = SAEQuery(self.sae, features=self.features, dense=True, pooling="max")
        result = await self.client.encode(text, query, timeout=5.0)
        row = np.asarray(result.encoding.activations)[0]
        return dict(zip(self.features, row.tolist(), strict=True))


async def serve(address: str, sae: str, features: Sequence[int], texts: Sequence[str]) -> None:
    """Answers all texts at once; the server batches what arrives together."""
    async with AsyncClient(address) as client:
        scorer = await FeatureScorer.pinned(client, sae, features)
        print(f"features of {scorer.sae}")
        scores = await asyncio.gather(*map(scorer.score, texts), return_exceptions=True)
    for text, score in zip(texts, scores, strict=True):
        if isinstance(score, SAEKitError):
            print(f"{text!r}: refused ({score})")
        elif isinstance(score, BaseException):
            raise score
        else:
            print(f"{text!r}: " + ", ".join(f"#{f} {a:.2f}" for f, a in score.items()))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--address", default="localhost:50051")
    parser.add_argument("--sae", required=True)
    parser.add_argument("--features", type=int, nargs="+", required=True)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.address, arguments.sae, arguments.features, arguments.texts))


if __name__ == "__main__":
    main()
