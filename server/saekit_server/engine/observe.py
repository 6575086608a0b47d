"""What a finished batch tells the metrics about its SAEs."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from saekit.codec import CSR
from saekit_server.engine.work import EncodeActivationsWork, Encoding, ForwardResult, ForwardWork
from saekit_server.metrics import Metrics
from saekit_server.registry import LoadedSAE

Encoded = tuple[LoadedSAE, CSR]


def encodings_of(works: Sequence[object], answers: Sequence[object]) -> Iterator[Encoded]:
    """Every encoding of a batch, with its SAE; failed works have none."""
    for work, answer in zip(works, answers, strict=True):
        if isinstance(work, ForwardWork) and isinstance(answer, ForwardResult):
            for read, encoding in zip(work.reads, answer.encodings, strict=True):
                yield read.loaded, encoding.acts
        elif isinstance(work, EncodeActivationsWork) and isinstance(answer, Encoding):
            yield work.loaded, answer.acts


def observe_encodings(metrics: Metrics, encoded: Iterable[Encoded]) -> None:
    """Counts tokens, active features, and the features that the operator watches."""
    tokens: dict[str, int] = defaultdict(int)
    active: dict[str, int] = defaultdict(int)
    for loaded, acts in encoded:
        tokens[loaded.sae_id] += acts.shape[0]
        active[loaded.sae_id] += acts.nnz
        for feature in loaded.info.watch_features:
            values = acts.data[acts.indices == np.uint32(feature)]
            if len(values):
                labels = (loaded.sae_id, str(feature))
                metrics.feature_fires.labels(*labels).inc(len(values))
                histogram = metrics.feature_activation.labels(*labels)
                for value in values.tolist():
                    histogram.observe(value)
    for sae_id, count in tokens.items():
        metrics.sae_tokens.labels(sae_id).inc(count)
        if count:
            metrics.sae_l0.labels(sae_id).set(active[sae_id] / count)
