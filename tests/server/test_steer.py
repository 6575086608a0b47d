"""Steer over a real socket: every stream gets what it would get alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest
import torch
from tests.models import story
from tests.serving import Running

from saekit.codec import numpy_to_tensor, rows_to_csr
from saekit.v1 import input_pb2
from saekit.v1 import intervention_pb2 as ip
from saekit.v1 import sae_service_pb2 as pb

NEW_TOKENS = 14
GREEDY = pb.Sampling(temperature=0)
# The promise of equal text ends where two logits lie this close.
TIE = 1e-4


@dataclass
class Choice:
    """What came of one choice."""

    tokens: list[pb.SteerToken] = field(default_factory=list)
    finish: pb.SteerFinish | None = None

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]

    @property
    def text(self) -> str:
        assert self.finish is not None
        return "".join(token.text for token in self.tokens) + self.finish.text

    @property
    def reason(self) -> pb.FinishReason:
        assert self.finish is not None
        return self.finish.reason

    def watched(self) -> np.ndarray:
        """[generated + 1, n]: at the last token of the input, then at every generated token."""
        assert self.finish is not None
        return np.array([*(list(t.watched) for t in self.tokens), list(self.finish.watched)])


def steer(server: Running, **request: object) -> dict[tuple[int, bool], Choice]:
    request.setdefault("input", input_pb2.Input(text=story(6, 1)))
    request.setdefault("max_new_tokens", NEW_TOKENS)
    request.setdefault("sampling", GREEDY)
    choices: dict[tuple[int, bool], Choice] = {}
    events = server.sae.Steer(pb.SteerRequest(**request), timeout=60)
    assert next(events).HasField("start")
    for event in events:
        choice = choices.setdefault((event.choice, event.baseline), Choice())
        if event.HasField("token"):
            choice.tokens.append(event.token)
        else:
            choice.finish = event.finish
    return choices


def one(server: Running, **request: object) -> Choice:
    (choice,) = steer(server, **request).values()
    return choice


def feature(sae: str = "jumprelu", index: int = 3) -> ip.FeatureRef:
    return ip.FeatureRef(sae=sae, index=index)


def direction(hook_name: str, seed: int = 0) -> ip.Direction:
    vector = np.random.default_rng(seed).normal(size=32).astype(np.float32)
    return ip.Direction(hook_name=hook_name, vector=numpy_to_tensor(vector))


def sixteen_edits() -> list[ip.Interventions]:
    """One of each kind, on every architecture, at several hook points."""
    early, late = "blocks.0.hook_resid_post", "blocks.2.hook_resid_pre"
    single = [
        ip.Edit(feature=feature(), add=ip.Add(amount=4)),
        ip.Edit(feature=feature("standard", 7), add=ip.Add(amount=3, unit=ip.UNIT_UNIT_NORM)),
        ip.Edit(feature=feature("gated", 5), add=ip.Add(amount=2, unit=ip.UNIT_MAX_ACTIVATION)),
        ip.Edit(feature=feature("topk", 5), set=ip.Set(value=5)),
        ip.Edit(feature=feature("standard", 1), ablate=ip.Ablate()),
        ip.Edit(feature=feature("normed/layer_norm", 2), add=ip.Add(amount=3)),
        ip.Edit(feature=feature("jumprelu", 13), scale=ip.Scale(factor=-2)),
        ip.Edit(feature=feature("standard", 9), clip=ip.Clip(lo=1, hi=2)),
        ip.Edit(direction=direction(early), add=ip.Add(amount=0.8)),
        ip.Edit(direction=direction(late, 1), project=ip.Project(coefficient=-1)),
        ip.Edit(direction=direction(late, 2), cap=ip.Cap(lo=-0.2, hi=0.2)),
        ip.Edit(direction=ip.Direction(feature=feature("topk", 8)), add=ip.Add(amount=3)),
    ]
    edits = [ip.Interventions(edits=[edit]) for edit in single]
    edits.append(ip.Interventions(edits=single[:3], preserve_norm=True))
    edits.append(ip.Interventions(splices=[ip.Splice(sae="topk")]))
    edits.append(
        ip.Interventions(
            conditions=[
                ip.Condition(
                    trigger=feature("topk", 4),
                    threshold=0.1,
                    apply_from_here=ip.EditList(edits=[single[0]]),
                )
            ]
        )
    )
    edits.append(ip.Interventions())
    return edits


def same_but_for_ties(got: Choice, expected: Choice) -> bool:
    """Whether ids agree up to a step where the two likeliest lie within a tie; True if all do."""
    for mine, other in zip(got.tokens, expected.tokens, strict=False):
        if mine.id != other.id:
            best, second = other.top_logprobs[:2]
            assert best.logprob - second.logprob < TIE, (got.ids, expected.ids)
            return False
    assert len(got.ids) == len(expected.ids)
    return True


def decode_rows(server: Running) -> tuple[float, float]:
    """Decode steps, and rows in them, so far."""
    (metric,) = server.server.metrics.batch_rows.collect()
    found = {
        s.name.rsplit("_", 1)[1]: s.value
        for s in metric.samples
        if s.labels["kind"] == "decode" and not s.name.endswith("_bucket")
    }
    return found.get("count", 0), found.get("sum", 0)


def test_16_different_edits_in_one_batch_equal_each_alone(server: Running) -> None:
    requests = [
        {
            "interventions": interventions,
            "input": input_pb2.Input(text=story(3 + i, i)),
            "top_logprobs": 2,
        }
        for i, interventions in enumerate(sixteen_edits())
    ]
    alone = [one(server, **request) for request in requests]
    before = decode_rows(server)
    barrier = threading.Barrier(16)

    def together(request: dict[str, object]) -> Choice:
        barrier.wait()
        return one(server, **request)

    with ThreadPoolExecutor(16) as pool:
        batched = list(pool.map(together, requests))
    steps, rows = (b - a for a, b in zip(before, decode_rows(server), strict=True))
    assert rows / steps > 4, "the streams did not share decode steps"
    whole = [same_but_for_ties(b, a) for b, a in zip(batched, alone, strict=True)]
    assert sum(whole) >= 15
    unedited = {tuple(one(server, input=r["input"]).ids) for r in requests}
    assert len(unedited & {tuple(choice.ids) for choice in alone}) <= 4, "edits changed nothing"


def test_without_edits_the_text_is_transformers_own(server: Running) -> None:
    model = server.server.parts.model
    for n in (1, 4, 9):
        got = one(server, input=input_pb2.Input(text=story(n, n)), ignore_eos=True)
        ids = torch.from_numpy(model.tokenizer.encode_text(story(n, n)).ids)[None]
        out = model.hf.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert got.ids == out[0, ids.shape[1] :].tolist()
        assert got.text == model.tokenizer.decode(got.ids)
        assert got.reason == pb.FINISH_REASON_LENGTH


def test_sampled_text_does_not_depend_on_what_else_runs(server: Running) -> None:
    request = {
        "sampling": pb.Sampling(temperature=0.9, top_p=0.95, seed=7),
        "n": 3,
        "ignore_eos": True,
        "interventions": sixteen_edits()[0],
        "baseline": True,
    }
    alone = steer(server, **request)
    assert len({tuple(choice.ids) for choice in alone.values()}) == 6
    stop = threading.Event()

    def others(seed: int) -> None:
        while not stop.is_set():
            one(server, sampling=pb.Sampling(seed=seed), input=input_pb2.Input(text=story(seed)))

    with ThreadPoolExecutor(6) as pool:
        busy = [pool.submit(others, seed) for seed in range(3, 9)]
        crowded = steer(server, **request)
        stop.set()
        for future in busy:
            future.result()
    assert {k: v.ids for k, v in crowded.items()} == {k: v.ids for k, v in alone.items()}
    unsteered = steer(server, sampling=request["sampling"], n=3, ignore_eos=True)
    for choice in range(3):
        assert alone[choice, True].ids == unsteered[choice, False].ids


def test_stop_condition_ends_at_the_token_where_its_trigger_fired(server: Running) -> None:
    watch = [pb.Watch(sae="standard", features=range(96))]
    free = one(server, watch=watch, ignore_eos=True)
    series = free.watched()[1:]
    # A feature whose first high activation comes in the middle of the text.
    peaks = series.argmax(axis=0)
    index = next(f for f in np.argsort(-series.max(axis=0)) if 3 <= peaks[f] <= NEW_TOKENS - 3)
    at = int(peaks[index])
    before = series[:at, index].max()
    threshold = float((before + series[at, index]) / 2)
    stopped = one(
        server,
        ignore_eos=True,
        watch=watch,
        interventions=ip.Interventions(
            conditions=[
                ip.Condition(
                    trigger=feature("standard", int(index)), threshold=threshold, stop=ip.Stop()
                )
            ]
        ),
    )
    assert stopped.reason == pb.FINISH_REASON_CONDITION
    assert stopped.ids == free.ids[: at + 1]
    assert stopped.finish is not None
    assert stopped.finish.trigger.index == index
    assert stopped.finish.trigger.sae.startswith("standard@")
    seen = stopped.watched()[1:, index]
    assert seen[-1] > threshold
    assert (seen[:-1] <= threshold).all()


def test_watched_activations_are_those_of_encode(server: Running) -> None:
    watch = [pb.Watch(sae="jumprelu", features=[3, 40]), pb.Watch(sae="topk", features=[8])]
    text = story(5, 2)
    got = one(server, input=input_pb2.Input(text=text), watch=watch, ignore_eos=True)
    prompt = server.server.parts.model.tokenizer.encode_text(text).ids.tolist()
    options = pb.EncodeOptions(
        saes=[
            pb.SAEQuery(sae="jumprelu", features=pb.FeatureList(indices=[3, 40])),
            pb.SAEQuery(sae="topk", features=pb.FeatureList(indices=[8])),
        ]
    )
    tokens = input_pb2.Tokens(ids=[*prompt, *got.ids])
    request = pb.EncodeRequest(inputs=[input_pb2.Input(tokens=tokens)], options=options)
    first, second = server.sae.Encode(request).results[0].encodings
    expected = np.column_stack(
        [
            rows_to_csr(first.sparse).toarray()[:, [3, 40]],
            rows_to_csr(second.sparse).toarray()[:, 8],
        ]
    )
    np.testing.assert_allclose(got.watched(), expected[len(prompt) - 1 :], rtol=1e-4, atol=1e-5)


def test_logprobs_are_those_of_a_full_forward(server: Running) -> None:
    got = one(server, top_logprobs=3, ignore_eos=True)
    model = server.server.parts.model
    prompt = model.tokenizer.encode_text(story(6, 1)).ids.tolist()
    with torch.no_grad():
        logits = model.hf(torch.tensor([[*prompt, *got.ids]])).logits[0]
    logprobs = torch.log_softmax(logits, dim=-1)[len(prompt) - 1 : -1]
    for token, row in zip(got.tokens, logprobs, strict=True):
        assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-3)
        assert [t.logprob for t in token.top_logprobs] == pytest.approx(
            row.topk(3).values.tolist(), abs=1e-3
        )


def test_stop_strings_end_the_text_before_them(server: Running) -> None:
    free = one(server, ignore_eos=True)
    middle = len(free.text) // 2
    stop = free.text[middle : middle + 3]
    got = one(server, ignore_eos=True, stop=["never in there", stop])
    assert got.reason == pb.FINISH_REASON_STOP_STRING
    assert got.finish is not None
    assert got.finish.stop_string == stop
    assert got.text == free.text[: free.text.index(stop)]


def test_40_streams_on_20_slots_all_finish_and_slots_come_back(server: Running) -> None:
    with ThreadPoolExecutor(40) as pool:
        texts = [input_pb2.Input(text=story(1 + i % 7, i)) for i in range(40)]
        got = list(pool.map(lambda text: one(server, input=text, max_new_tokens=6), texts))
    assert all(choice.finish is not None for choice in got)
    assert server.server.parts.engine.figures().slots_used == 0


def test_hanging_up_frees_the_slots_and_leaves_other_streams_alone(server: Running) -> None:
    alone = one(server, ignore_eos=True, max_new_tokens=40)
    call = server.sae.Steer(
        pb.SteerRequest(
            input=input_pb2.Input(text=story(3)), max_new_tokens=80, n=8, ignore_eos=True
        )
    )
    next(call)
    next(call)
    engine = server.server.parts.engine
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(one, server, ignore_eos=True, max_new_tokens=40)
        call.cancel()
        with pytest.raises(grpc.RpcError):
            list(call)
        assert other.result().ids == alone.ids
    wait_until(lambda: engine.figures().slots_used == 0)


def wait_until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    waiter = threading.Event()
    for _ in range(int(seconds * 100)):
        if true():
            return
        waiter.wait(0.01)
    raise AssertionError(f"not within {seconds} s")


def test_chat_and_truncation_keep_the_end_and_the_bos(server: Running) -> None:
    chat = input_pb2.Chat(messages=[input_pb2.ChatMessage(role="user", content="the cat")])
    assert one(server, input=input_pb2.Input(chat=chat)).finish is not None
    long = input_pb2.Input(text=story(150, 1))
    with pytest.raises(grpc.RpcError, match="above the limit"):
        one(server, input=long)
    request = pb.SteerRequest(
        input=long, over_length=input_pb2.OVER_LENGTH_TRUNCATE, max_new_tokens=5, sampling=GREEDY
    )
    start = next(server.sae.Steer(request)).start
    whole = server.server.parts.model.tokenizer.encode_text(story(150, 1)).ids.tolist()
    limit = server.server.parts.limits.max_slot_tokens - 5
    assert start.truncated
    assert list(start.tokens.ids) == [whole[0], *whole[-limit + 1 :]]
