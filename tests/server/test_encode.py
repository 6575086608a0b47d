"""Encode through the server against the bridge and formulas in float64."""

from __future__ import annotations

import copy
import dataclasses
import random
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import torch
from prometheus_client import Histogram
from tests.core.sae.reference import reference_decode, reference_encode
from tests.models import story
from tests.saes import ARCHITECTURES
from tests.serving import Running

from saekit.codec import numpy_to_tensor, rows_to_csr, tensor_to_numpy
from saekit.v1 import input_pb2, registry_service_pb2, tensor_pb2
from saekit.v1 import sae_service_pb2 as pb
from saekit_core.sae import SAE
from saekit_server.engine.forward import ForwardBatch
from saekit_server.engine.work import ForwardWork, Read, RunSpec

NORMED = ("normed/layer_norm", "normed/rescaled")
MARGIN = 1e-5


def encode(server: Running, texts: list[str], *saes: str, **query: object) -> pb.EncodeResponse:
    options = pb.EncodeOptions(saes=[pb.SAEQuery(sae=sae, **query) for sae in saes])
    inputs = [input_pb2.Input(text=text) for text in texts]
    return server.sae.Encode(pb.EncodeRequest(inputs=inputs, options=options))


def loaded(server: Running, name: str) -> SAE:
    return server.server.parts.registry.get(name).sae


def hook_activations(server: Running, sae: SAE, ids: list[int]) -> torch.Tensor:
    """[pos, d_in] float64, as the bridge's own cache has them."""
    model = server.server.parts.model
    with torch.no_grad():
        _, cache = model.bridge.run_with_cache(torch.tensor([list(ids)]))
    return cache[sae.cfg.hook_name][0].flatten(1).double()


def undecided(sae: SAE, x: torch.Tensor) -> np.ndarray:
    """[pos, d_sae]: where a feature lies so near its threshold that rounding decides."""
    exact = copy.deepcopy(sae).double()
    with torch.no_grad():
        x_tilde, _ = exact.prepare(x)
        p = exact.pre_activations(x_tilde)
        border: torch.Tensor = torch.zeros(())
        if sae.cfg.architecture == "gated":
            border = -exact.b_gate
        elif sae.cfg.architecture == "jumprelu":
            border = exact.threshold
        elif sae.cfg.architecture == "topk":
            border = p.topk(sae.cfg.k, dim=-1).values[:, -1:]
        return ((p - border).abs() < MARGIN * (1 + p.abs())).numpy()


class Reference:
    """What the bridge and the formulas say, each text run once and alone."""

    def __init__(self, server: Running) -> None:
        self._server = server
        self._known: dict[tuple[tuple[int, ...], str], tuple[np.ndarray, np.ndarray]] = {}
        self.values = self.flips = 0

    def check(self, result: pb.EncodeResult) -> None:
        """Compares every encoding; features at their threshold are exempt and counted."""
        for encoding in result.encodings:
            expected, exempt = self._of(tuple(result.tokens.ids), encoding.sae_id)
            got = rows_to_csr(encoding.sparse).toarray()
            assert got.shape == expected.shape
            wrong = ~np.isclose(got, expected, rtol=1e-4, atol=1e-5) & ~exempt
            assert not wrong.any(), f"{encoding.sae_id}: {got[wrong]} for {expected[wrong]}"
            self.values += got.size
            self.flips += int((((got > 0) != (expected > 0)) & exempt).sum())

    def check_flips(self) -> None:
        """Exempt values that really differ must be as rare as rounding makes them."""
        assert self.flips <= max(1, 1e-6 * self.values), f"{self.flips} of {self.values} flipped"

    def _of(self, ids: tuple[int, ...], name: str) -> tuple[np.ndarray, np.ndarray]:
        if (ids, name) not in self._known:
            sae = loaded(self._server, name)
            x = hook_activations(self._server, sae, list(ids))
            expected = reference_encode(sae, x).numpy()
            self._known[ids, name] = expected, undecided(sae, x)
        return self._known[ids, name]


@pytest.mark.parametrize("sae", [*ARCHITECTURES, *NORMED, "heads"])
def test_encode_equals_the_bridge_and_the_formula(server: Running, sae: str) -> None:
    reference = Reference(server)
    response = encode(server, [story(n, n) for n in (1, 5, 20, 40)], sae)
    for result in response.results:
        (encoding,) = result.encodings
        assert list(encoding.positions) == []  # a row for every token
        assert rows_to_csr(encoding.sparse).nnz > 0
        reference.check(result)
    reference.check_flips()


def test_encode_in_500_batches_of_32_equals_the_reference(server: Running) -> None:
    rng = random.Random(0)
    texts = [story(rng.randint(1, 40), seed) for seed in range(48)]
    reference = Reference(server)
    for _ in range(250):  # for each of the two model types
        name = rng.choice([*ARCHITECTURES, *NORMED])
        for result in encode(server, rng.choices(texts, k=32), name).results:
            reference.check(result)
    reference.check_flips()


def test_32_callers_of_different_saes_share_batches_and_get_their_own(server: Running) -> None:
    rng = random.Random(1)
    texts = [story(rng.randint(1, 40), seed) for seed in range(24)]
    reference = Reference(server)
    rows = server.server.metrics.batch_rows.labels("forward")
    names = [*ARCHITECTURES, *NORMED]
    calls = [(rng.choice(texts), rng.sample(names, 2)) for _ in range(256)]
    before = batches_and_rows(rows)
    with ThreadPoolExecutor(32) as pool:
        for response in pool.map(lambda call: encode(server, [call[0]], *call[1]), calls):
            reference.check(response.results[0])
    reference.check_flips()
    batches, n_rows = (b - a for a, b in zip(before, batches_and_rows(rows), strict=True))
    assert n_rows == len(calls)
    assert batches < len(calls) / 2, "callers did not share batches"


def batches_and_rows(histogram: Histogram) -> tuple[float, float]:
    samples = {s.name: s.value for m in histogram.collect() for s in m.samples}
    return samples["saekit_batch_rows_count"], samples["saekit_batch_rows_sum"]


def close(got: np.ndarray, expected: np.ndarray) -> None:
    """Equal up to what another row count does to rounding."""
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_top_k_named_dense_and_pooled_agree_with_everything(server: Running) -> None:
    text = story(12, 3)
    full = rows_to_csr(encode(server, [text], "jumprelu").results[0].encodings[0].sparse)
    dense = full.toarray()

    def one(**query: object) -> pb.SAEEncoding:
        return encode(server, [text], "jumprelu", **query).results[0].encodings[0]

    close(tensor_to_numpy(one(dense=True).dense), dense)
    top = rows_to_csr(one(top_k=3).sparse).toarray()
    assert ((top > 0).sum(axis=1) == np.minimum((dense > 0).sum(axis=1), 3)).all()
    close(np.where(top > 0, dense, 0), top)
    features = [9, 2, 40]
    named = one(features=pb.FeatureList(indices=features), dense=True)
    close(tensor_to_numpy(named.dense), dense[:, features])
    pooled = rows_to_csr(one(pooling=pb.POOLING_MAX).sparse).toarray()
    close(pooled[0], dense[1:].max(axis=0))  # the BOS is left out
    last = one(positions=input_pb2.PositionSelector(last_n=2))
    assert list(last.positions) == [len(dense) - 2, len(dense) - 1]
    close(rows_to_csr(last.sparse).toarray(), dense[-2:])


def test_bfloat16_and_float16_values_are_the_rounded_ones(server: Running) -> None:
    text = story(12, 3)
    exact = rows_to_csr(encode(server, [text], "standard").results[0].encodings[0].sparse)
    for code, bound in ((tensor_pb2.DATA_TYPE_F16, 2**-11), (tensor_pb2.DATA_TYPE_BF16, 2**-8)):
        got = encode(server, [text], "standard", value_dtype=code).results[0].encodings[0].sparse
        np.testing.assert_allclose(rows_to_csr(got).data, exact.data, rtol=bound)


def test_windows_cover_the_input_and_repeat_its_bos(server: Running) -> None:
    text = story(150, 5)
    with pytest.raises(grpc.RpcError, match="above the limit"):
        encode(server, [text], "topk")
    request = pb.EncodeRequest(
        inputs=[input_pb2.Input(text=text)],
        options=pb.EncodeOptions(
            saes=[pb.SAEQuery(sae="topk")], over_length=input_pb2.OVER_LENGTH_WINDOWS
        ),
    )
    results = server.sae.Encode(request).results
    whole = server.registry.Tokenize(
        registry_service_pb2.TokenizeRequest(inputs=[input_pb2.Input(text=text)])
    ).results[0]
    assert [r.window_index for r in results] == list(range(len(results)))
    assert len(results) > 1
    joined = list(results[0].tokens.ids)
    for window in results[1:]:
        assert window.window_start == len(joined)
        assert window.tokens.ids[0] == whole.ids[0]
        joined += window.tokens.ids[1:]
    assert joined == list(whole.ids)


@pytest.mark.parametrize("sae", [*ARCHITECTURES, *NORMED, "heads"])
def test_activations_of_the_client_encode_and_decode_as_the_formula(
    server: Running, sae: str
) -> None:
    module = loaded(server, sae)
    x = torch.randn(9, 32, generator=torch.Generator().manual_seed(4))
    request = pb.EncodeRequest(
        inputs=[input_pb2.Input(activations=numpy_to_tensor(x.numpy()))],
        options=pb.EncodeOptions(saes=[pb.SAEQuery(sae=sae, return_state=True)]),
    )
    (encoding,) = server.sae.Encode(request).results[0].encodings
    acts = rows_to_csr(encoding.sparse).toarray()
    exempt = undecided(module, x.double())
    expected = reference_encode(module, x.double()).numpy()
    assert (np.isclose(acts, expected, rtol=1e-4, atol=1e-5) | exempt).all()
    item = pb.DecodeItem(sae=sae, sparse=encoding.sparse, state=encoding.state)
    (decoded,) = server.sae.Decode(pb.DecodeRequest(items=[item])).results
    np.testing.assert_allclose(
        tensor_to_numpy(decoded.activations),
        reference_decode(module, torch.from_numpy(acts).double(), x.double()).numpy(),
        rtol=1e-4,
        atol=1e-5,
    )


def test_who_reads_the_same_tokens_reads_one_row(server: Running) -> None:
    model, registry = server.server.parts.model, server.server.parts.registry
    texts = [model.tokenizer.encode_text(text) for text in ("the cat", "the dog ran", "the cat")]
    saes = [registry.get(name) for name in ("standard", "jumprelu", "jumprelu")]
    works = [
        ForwardWork(tokenized, (Read(sae, np.arange(len(tokenized.ids))),))
        for tokenized, sae in zip(texts, saes, strict=True)
    ]
    batch = ForwardBatch(model, works)
    assert batch.rows == 2
    with torch.no_grad():
        together = batch.run()
        alone = [ForwardBatch(model, [work]).run()[0] for work in works]
    for one, other in zip(together, alone, strict=True):
        got, expected = one.encodings[0].acts, other.encodings[0].acts
        assert got.indices.tolist() == expected.indices.tolist()
        np.testing.assert_allclose(got.data, expected.data, rtol=1e-5, atol=1e-6)
    both = ForwardBatch(model, [works[0], dataclasses.replace(works[0], run=RunSpec(loss=True))])
    assert both.rows == 2  # a run may be edited; it keeps its own
