"""A device without memory for a batch gets smaller ones; an input too large alone fails alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import torch
from tests.models import story
from tests.serving import Running
from torch import Tensor

from saekit.codec import rows_to_csr
from saekit.v1 import input_pb2
from saekit.v1 import sae_service_pb2 as pb
from saekit_core.sae import SAE

MOST_ROWS = 30


class Greedy(SAE):
    """An SAE for which the device has memory for 30 rows."""

    def prepare(self, x: Tensor) -> Any:
        if len(x) > MOST_ROWS:
            raise torch.OutOfMemoryError("out of memory")
        return super().prepare(x)


@pytest.fixture
def greedy(server: Running) -> Iterator[str]:
    sae = server.server.parts.registry.get("standard").sae
    sae.__class__ = Greedy
    yield "standard"
    sae.__class__ = SAE


def encode(server: Running, sae: str, texts: list[str]) -> pb.EncodeResponse:
    return server.sae.Encode(
        pb.EncodeRequest(
            inputs=[input_pb2.Input(text=text) for text in texts],
            options=pb.EncodeOptions(saes=[pb.SAEQuery(sae=sae)]),
        )
    )


def test_a_batch_too_large_for_the_device_is_answered_in_smaller_ones(
    server: Running, greedy: str
) -> None:
    retries = server.server.metrics.oom_retries
    before = retries._value.get()
    response = encode(server, greedy, [story(6, seed) for seed in range(12)])
    assert len(response.results) == 12
    assert all(rows_to_csr(r.encodings[0].sparse).nnz for r in response.results)
    assert retries._value.get() > before


def test_an_input_too_large_alone_is_exhausted_and_the_server_lives(
    server: Running, greedy: str
) -> None:
    with pytest.raises(grpc.RpcError) as error:
        encode(server, greedy, [story(40, 1)])
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(encode(server, greedy, [story(5, 2)]).results) == 1
    server.server.parts.engine.check_integrity()
