"""Streams of many items: each with its own result or status, of any size."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from tests.models import story
from tests.serving import Running, wait_until

from saekit.codec import FrameJoiner, numpy_to_tensor, rows_to_csr, tensor_to_numpy
from saekit.v1 import input_pb2, tensor_pb2
from saekit.v1 import sae_service_pb2 as pb
from saekit_server.errors import invalid
from saekit_server.handlers.streams import Frame, stream_items

Input = input_pb2.Input
D_MODEL, D_SAE, CONTEXT = 32, 96, 96
INVALID = grpc.StatusCode.INVALID_ARGUMENT.value[0]
MIB = 1 << 20


def encode_requests(inputs: Iterable[Input], **query: Any) -> Iterator[pb.EncodeStreamRequest]:
    queries = [pb.SAEQuery(**{"sae": "jumprelu", **query})]
    yield pb.EncodeStreamRequest(options=pb.EncodeOptions(saes=queries))
    for item in inputs:
        yield pb.EncodeStreamRequest(input=item)


class Joined:
    """The results and statuses of a stream, by id."""

    def __init__(self, frames: Iterable[Any]) -> None:
        self.results: dict[str, Any] = {}
        self.statuses: dict[str, Any] = {}
        self.frames: dict[str, list[Any]] = defaultdict(list)
        self.served_by = []
        joiners: dict[int, FrameJoiner] = {}
        ended: set[int] = set()
        for frame in frames:
            assert frame.ByteSize() <= MIB + 4096
            assert frame.seq not in ended, "a frame after the last of its item"
            self.frames[frame.id].append(frame)
            self.served_by.append(frame.HasField("served_by"))
            if frame.last:
                ended.add(frame.seq)
            match frame.WhichOneof("payload"):
                case "status":
                    self.statuses[frame.id] = frame.status
                case "header":
                    joiners[frame.seq] = FrameJoiner(frame.header)
                case "part":
                    joiners[frame.seq].add(frame.part)
            if frame.last and frame.seq in joiners:
                self.results[frame.id] = joiners[frame.seq].join()
        assert self.served_by == [i == 0 for i in range(len(self.served_by))]


def field_of(status: Any) -> str:
    bad = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad)
    return bad.field_violations[0].field


def test_2000_texts_of_which_20_are_bad_give_1980_results_and_20_statuses(
    llama_server: Running,
) -> None:
    kinds = {
        "text": Input(text=""),
        "content": Input(),
        "tokens": Input(tokens=input_pb2.Tokens(ids=[7] * (CONTEXT + 1))),
        "tokens.ids[0]": Input(tokens=input_pb2.Tokens(ids=[9999])),
        "activations.data": Input(activations=rows(2, fill=np.nan)),
    }
    bad = dict(zip(range(50, 2000, 100), list(kinds) * 4, strict=True))
    texts = [story(1 + i % 12, i % 40) for i in range(2000)]
    inputs = []
    for i, text in enumerate(texts):
        item = Input()
        item.CopyFrom(kinds[bad[i]] if i in bad else Input(text=text))
        item.id = f"doc-{i}"
        inputs.append(item)
    joined = Joined(llama_server.sae.EncodeStream(encode_requests(inputs)))
    assert len(joined.statuses) == 20
    assert {n: field_of(s) for n, s in joined.statuses.items()} == {
        f"doc-{i}": field for i, field in bad.items()
    }
    assert {status.code for status in joined.statuses.values()} == {INVALID}
    assert len(joined.results) == 1980
    by_index = {result.input_index: result for result in joined.results.values()}
    assert sorted(by_index) == [i for i in range(2000) if i not in bad]
    assert all(result.id == f"doc-{index}" for index, result in by_index.items())
    # Each is the answer to its own text.
    for i in (0, 1, 777, 1999):
        request = pb.EncodeRequest(
            inputs=[Input(text=texts[i])],
            options=pb.EncodeOptions(saes=[pb.SAEQuery(sae="jumprelu")]),
        )
        alone = llama_server.sae.Encode(request).results[0]
        assert by_index[i].tokens.ids == alone.tokens.ids
        same(by_index[i].encodings[0], alone.encodings[0])


def same(got: pb.SAEEncoding, expected: pb.SAEEncoding) -> None:
    np.testing.assert_allclose(
        rows_to_csr(got.sparse).toarray(),
        rows_to_csr(expected.sparse).toarray(),
        rtol=1e-4,
        atol=1e-4,
    )


def test_an_empty_id_and_one_that_is_outstanding_are_refused(llama_server: Running) -> None:
    device = llama_server.server.parts.engine
    release = threading.Event()
    holder = threading.Thread(target=device.run_on_device, args=(release.wait,))
    holder.start()
    names = ["a", "", "a", "b"]
    items = [Input(id=name, text="The cat.") for name in names]
    frames = llama_server.sae.EncodeStream(encode_requests(items))
    refused = [next(frames), next(frames)]  # while "a" still waits for the device
    release.set()
    holder.join()
    rest = list(frames)
    assert [(f.id, f.seq, f.status.code, field_of(f.status)) for f in refused] == [
        ("", 1, INVALID, "id"),
        ("a", 2, INVALID, "id"),
    ]
    assert sorted((f.id, f.seq) for f in rest) == [("a", 0), ("b", 3)]
    assert all(f.WhichOneof("payload") == "header" for f in rest)


def test_an_id_can_be_used_again_once_its_result_has_come(llama_server: Running) -> None:
    came = threading.Semaphore(1)

    def inputs() -> Iterator[Input]:
        for _ in range(5):
            assert came.acquire(timeout=10)
            yield Input(id="again", text="The cat.")

    seen = []
    for frame in llama_server.sae.EncodeStream(encode_requests(inputs())):
        seen.append((frame.seq, frame.WhichOneof("payload")))
        came.release()
    assert seen == [(i, "header") for i in range(5)]


def rows(n: int, seed: int = 0, fill: float = 0.0) -> tensor_pb2.Tensor:
    rng = np.random.default_rng(seed)
    return numpy_to_tensor(rng.standard_normal((n, D_MODEL), dtype=np.float32) + np.float32(fill))


def test_a_large_result_comes_in_parts_that_join_to_the_unary_one(llama_server: Running) -> None:
    item = Input(id="large", activations=rows(8000))
    joined = Joined(llama_server.sae.EncodeStream(encode_requests([item], dense=True)))
    parts = [f for f in joined.frames["large"] if f.WhichOneof("payload") == "part"]
    assert len(parts) == 3  # 8000 x 96 x 4 bytes
    assert [f.last for f in joined.frames["large"]] == [False, False, False, True]
    request = pb.EncodeRequest(
        inputs=[item],
        options=pb.EncodeOptions(saes=[pb.SAEQuery(sae="jumprelu", dense=True)]),
    )
    assert joined.results["large"] == llama_server.sae.Encode(request).results[0]


def test_a_unary_result_above_32_mib_is_refused_with_the_name_of_the_stream(
    llama_server: Running,
) -> None:
    inputs = [Input(activations=rows(23_000, seed)) for seed in range(4)]
    request = pb.EncodeRequest(
        inputs=inputs, options=pb.EncodeOptions(saes=[pb.SAEQuery(sae="jumprelu", dense=True)])
    )
    with pytest.raises(grpc.RpcError) as caught:
        llama_server.sae.Encode(request)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "EncodeStream" in str(caught.value.details())
    assert "33554432" in str(caught.value.details())


def test_decode_stream_answers_each_item_by_itself(llama_server: Running) -> None:
    rng = np.random.default_rng(0)
    dense = {str(n): rng.random((n, D_SAE), dtype=np.float32) for n in (1, 7, 20_000)}
    too_many = np.zeros((70_000, D_SAE), np.float32)
    items = [
        pb.DecodeItem(id=name, sae="jumprelu", dense=numpy_to_tensor(acts))
        for name, acts in dense.items()
    ]
    items += [
        pb.DecodeItem(id="unknown", sae="no", dense=numpy_to_tensor(dense["1"])),
        pb.DecodeItem(id="narrow", sae="jumprelu", dense=numpy_to_tensor(dense["1"][:, 1:])),
        pb.DecodeItem(id="large", sae="jumprelu", dense=numpy_to_tensor(too_many)),
    ]
    requests = [pb.DecodeStreamRequest(options=pb.DecodeOptions())]
    requests += [pb.DecodeStreamRequest(item=item) for item in items]
    joined = Joined(llama_server.sae.DecodeStream(iter(requests)))
    assert {n: s.code for n, s in joined.statuses.items()} == {
        "unknown": grpc.StatusCode.NOT_FOUND.value[0],
        "narrow": INVALID,
        "large": INVALID,
    }
    sae = llama_server.server.parts.registry.get("jumprelu").sae
    for name, acts in dense.items():
        expected = acts.astype(np.float64) @ sae.W_dec.double().numpy() + sae.b_dec.numpy()
        got = tensor_to_numpy(joined.results[name].activations)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    assert len(joined.frames["20000"]) == 4  # a header, and 2.4 MiB in parts


def test_run_stream_answers_each_input_by_itself(llama_server: Running) -> None:
    inputs = [Input(id=str(i), text=story(5, i)) for i in range(40)]
    inputs[7].text = ""
    inputs[30].Clear()  # no id either: in a request the ids are the caller's business
    request = pb.RunWithSAEsStreamRequest(
        inputs=inputs, options=pb.RunOptions(returns=pb.RunReturns(loss=True))
    )
    frames = list(llama_server.sae.RunWithSAEsStream(request))
    joined = Joined(frames)
    assert {f.seq for f in frames if f.HasField("status")} == {7, 30}
    assert {f.seq for f in frames} == set(range(40))
    alone = pb.RunWithSAEsRequest(inputs=[inputs[3]], options=request.options)
    expected = llama_server.sae.RunWithSAEs(alone).results[0].loss
    assert joined.results["3"].loss == pytest.approx(expected, rel=1e-4)


def test_a_large_run_result_comes_in_parts_that_join_to_the_unary_one(
    llama_server: Running,
) -> None:
    ids = [5 + i % 300 for i in range(CONTEXT)]
    options = pb.RunOptions(
        returns=pb.RunReturns(
            logits=pb.LOGITS_ROWS_ALL,
            activations=["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"] * 60,
        )
    )
    inputs = [Input(id="large", tokens=input_pb2.Tokens(ids=ids))]
    request = pb.RunWithSAEsStreamRequest(inputs=inputs, options=options)
    joined = Joined(llama_server.sae.RunWithSAEsStream(request))
    frames = joined.frames["large"]
    assert {f.WhichOneof("payload") for f in frames[1:]} == {"part"}
    unary = pb.RunWithSAEsRequest(inputs=inputs, options=options)
    got, expected = joined.results["large"], llama_server.sae.RunWithSAEs(unary).results[0]
    np.testing.assert_allclose(
        tensor_to_numpy(got.logits), tensor_to_numpy(expected.logits), rtol=1e-4, atol=1e-4
    )
    assert len(got.activations) == 120


def test_a_client_that_hangs_up_leaves_no_work_behind(llama_server: Running) -> None:
    engine = llama_server.server.parts.engine

    def endless() -> Iterator[Input]:
        for i in range(1_000_000):
            yield Input(id=str(i), text=story(20, i % 10))

    frames = llama_server.sae.EncodeStream(encode_requests(endless()))
    for _ in range(20):
        next(frames)
    release = threading.Event()
    holder = threading.Thread(target=engine.run_on_device, args=(release.wait,))
    holder.start()
    try:
        wait_until(lambda: engine.figures().queued_jobs > 100)
        frames.cancel()
        # What waited is gone before the device moves on, and nothing new comes.
        wait_until(lambda: engine.figures().queued_jobs == 0, 2.0)
        time.sleep(0.05)
        assert engine.figures().queued_jobs == 0
    finally:
        release.set()
        holder.join()
    wait_until(lambda: engine.idle)
    engine.check_integrity()


async def test_an_item_that_fails_in_an_unforeseen_way_ends_only_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def items() -> AsyncIterator[tuple[str, int]]:
        for i in range(5):
            yield str(i), i

    async def answer(item: int, _: int) -> list[pb.EncodeResult]:
        if item == 2:
            raise ZeroDivisionError("a secret")
        if item == 3:
            raise invalid("text", "is empty")
        return [pb.EncodeResult(id=str(item))]

    frames: list[Frame[pb.EncodeResult]] = [f async for f in stream_items(items(), answer)]
    codes = {f.seq: f.status.code for f in frames if f.status is not None}
    assert codes == {2: grpc.StatusCode.INTERNAL.value[0], 3: INVALID}
    assert sorted(f.seq for f in frames) == [0, 1, 2, 3, 4]
    assert not any("secret" in str(f.status) for f in frames)
    assert "a secret" in caplog.text
