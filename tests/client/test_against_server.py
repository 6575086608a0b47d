"""Every method of both clients against a real server."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest
from tests.models import story

from saekit_client import (
    GREEDY,
    AsyncClient,
    Chat,
    Client,
    DecodeItem,
    FailedPreconditionError,
    Input,
    InputOptions,
    InvalidArgumentError,
    NotFoundError,
    RunReturns,
    SAEQuery,
    Splice,
    SteerFinish,
    SteerStart,
    SteerToken,
    Watch,
    ablate,
    add,
    cap,
    direction,
    last,
    project,
    scale,
    set_to,
    stack,
    stop_when,
    vector,
)
from saekit_client.interventions import ApplyFromHere, Condition, FeatureRef

TEXT = "The cat sat on a mat and saw a red bird."
HOOK = "blocks.1.hook_resid_pre"


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


def test_the_clients_have_the_same_methods_and_parameters() -> None:
    def methods(cls: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in inspect.getmembers(cls, inspect.isfunction)
            if not name.startswith("_") and name not in ("connect", "close")
        }

    assert methods(Client) == methods(AsyncClient)


def test_encode_gives_tokens_features_and_what_answered(client: Client) -> None:
    result = client.encode(TEXT, "topk", options=InputOptions(token_text=True))
    assert result.tokens is not None
    assert result.tokens.has_bos
    assert result.tokens.pieces is not None
    assert "".join(result.tokens.pieces[1:]) == TEXT
    assert result.features.shape == (len(result.tokens), 96)
    assert result.encoding.sae_id == "topk"
    assert result.encoding.pin == f"topk@{result.encoding.sae_revision}"
    assert result.served_by.model_dtype == "float32"
    start, end = result.tokens.byte_offsets[1]  # type: ignore[index]
    assert TEXT.encode()[start:end].decode() == result.tokens.pieces[1]


def test_every_kind_of_input_that_says_the_same_gives_the_same(client: Client) -> None:
    tokens = client.tokenize(TEXT)
    hidden = client.run_with_saes(TEXT, returns=RunReturns(activations=[HOOK])).activations[HOOK]
    expected = client.encode(TEXT, "topk").features.toarray()
    for same in (
        tokens.ids,
        [int(i) for i in tokens.ids],
        hidden,
        hidden.astype(np.float64),
        Input(TEXT, id="named"),
    ):
        got = client.encode(same, "topk")
        np.testing.assert_allclose(got.features.toarray(), expected, rtol=1e-4, atol=1e-5)


def test_chats_are_told_from_texts(client: Client) -> None:
    messages = [{"role": "user", "content": "the cat"}, {"role": "model", "content": "sat"}]
    result = client.encode(messages, "topk")
    assert result.tokens is not None
    assert result.tokens.message_index is not None
    assert set(result.tokens.message_index.tolist()) <= {-1, 0, 1}
    longer = client.encode(Chat(messages, add_generation_prompt=True), "topk")
    assert len(longer.tokens or ()) > len(result.tokens)


def test_queries_select_pool_and_place(client: Client) -> None:
    everything = client.encode(TEXT, "topk")
    features = np.unique(everything.features.indices)[:3]
    result = client.encode(
        TEXT,
        [
            SAEQuery("topk", top_k=2),
            SAEQuery("topk", features=features, dense=True),
            SAEQuery("topk", pooling="max"),
            SAEQuery("topk", positions=last(2), value_dtype="float16"),
        ],
    )
    top, dense, pooled, end = result.encodings
    assert np.diff(top.csr.indptr).max() == 2
    full = everything.features.toarray()
    np.testing.assert_array_equal(dense.activations, full[:, features])
    np.testing.assert_array_equal(pooled.toarray()[0], full[1:].max(axis=0))
    assert end.positions is not None
    assert end.positions.tolist() == [len(full) - 2, len(full) - 1]
    assert end.csr.data.dtype == np.float16
    with pytest.raises(ValueError, match="4 SAEs were asked for"):
        _ = result.features


@pytest.mark.parametrize("sae", ["topk", "normed", "heads"])
def test_decode_undoes_encode_as_far_as_the_sae_can(client: Client, sae: str) -> None:
    hook = client.get_sae(sae).info.hook_name
    spliced = client.run_with_saes(
        TEXT, splices=[sae], returns=RunReturns(activations=[hook])
    ).activations[hook]
    encoding = client.encode(TEXT, SAEQuery(sae, return_state=True)).encoding
    decoded = client.decode(encoding)
    assert decoded.sae_revision == encoding.sae_revision
    np.testing.assert_allclose(decoded.activations, spliced, rtol=1e-3, atol=1e-4)
    dense = DecodeItem(encoding.toarray(), sae, encoding.state, id="dense")
    again = client.decode([encoding, dense])
    assert [r.id for r in again] == ["", "dense"]
    np.testing.assert_allclose(again[1].activations, decoded.activations, rtol=1e-4, atol=1e-5)


def test_many_texts_with_bad_ones_among_them(client: Client) -> None:
    texts = [story(3 + n % 9, seed=n) for n in range(200)]
    bad = set(range(0, 200, 20))
    inputs = [Input("" if n in bad else text, id=f"t{n}") for n, text in enumerate(texts)]
    batch = client.encode(inputs, SAEQuery("topk", pooling="max"))
    assert set(batch.errors) == bad
    assert all(isinstance(error, InvalidArgumentError) for error in batch.errors.values())
    assert [r.id for r in batch.successes] == [f"t{n}" for n in range(200) if n not in bad]
    table = stack(batch.successes)
    assert table.shape == (190, 96)
    alone = client.encode(texts[7], SAEQuery("topk", pooling="max"))
    np.testing.assert_allclose(
        batch[7].features.toarray(), alone.features.toarray(), rtol=1e-4, atol=1e-5
    )


def test_windows_of_a_long_text_keep_their_places(client: Client) -> None:
    limit = client.get_model().limits.max_input_tokens
    long = story(2 * limit)
    with pytest.raises(InvalidArgumentError):
        client.encode(long, "topk")
    options = InputOptions(over_length="windows")
    [item] = client.encode_stream([long], "topk", options=options)
    assert [r.window_index for r in item.results] == list(range(len(item.results)))
    assert len(item.results) > 1
    assert item.results[1].window_start > 0
    cut = client.encode(long, "topk", options=InputOptions(over_length="truncate"))
    assert cut.truncated


def test_runs_return_what_was_asked_for(client: Client) -> None:
    result = client.run_with_saes(
        TEXT,
        splices=["topk"],
        returns=RunReturns(
            logits="all",
            loss=True,
            token_logprobs=True,
            features=["topk", SAEQuery("normed", top_k=1)],
            activations=[HOOK],
            compare=True,
        ),
    )
    n, model = len(result.tokens), client.get_model()
    assert result.logits is not None
    assert result.logits.shape == (n, model.d_vocab)
    assert result.token_logprobs is not None
    assert result.loss == pytest.approx(-result.token_logprobs.mean(), rel=1e-5)
    assert [e.sae_id for e in result.features] == ["topk", "normed"]
    assert result.activations[HOOK].shape == (n, model.d_model)
    assert result.comparison is not None
    assert result.comparison.delta_loss == pytest.approx(
        result.loss - (result.comparison.clean_loss or 0), abs=1e-5
    )
    assert {s.sae_id for s in result.saes} == {"topk", "normed"}


def test_every_edit_reaches_the_model(client: Client) -> None:
    """Each changes the run; and those that say the same change it alike."""
    feature = int(client.encode(TEXT, "topk").features.indices[-1])
    along = direction("topk", feature)
    row = client.decode(DecodeItem(np.eye(96, dtype=np.float32)[feature : feature + 1], "topk"))
    zero = client.decode(DecodeItem(np.zeros((1, 96), np.float32), "topk"))
    w = (row.activations - zero.activations)[0]

    def loss(*edits: object) -> float:
        found = client.run_with_saes(TEXT, edits=edits).loss  # type: ignore[arg-type]
        assert found is not None
        return found

    clean = loss()
    edits = [
        add("topk", feature, 5.0),
        set_to("topk", feature, 9.0),
        scale("topk", feature, 6.0),
        add("topk", feature, 2.0, unit="max_activation"),
        add("topk", feature, 3.0, unit="unit_norm"),
        project(along, -1.0),
        cap(along, hi=-3.0),
        add("topk", feature, 5.0, positions=last(3)),
    ]
    assert all(abs(loss(edit) - clean) > 1e-6 for edit in edits)
    assert loss(ablate("topk", feature)) == pytest.approx(loss(scale("topk", feature, 0.0)))
    assert loss(add("topk", feature, 5.0)) == pytest.approx(
        loss(add("topk", feature, 2.5, unit="max_activation")), abs=1e-5
    )
    from saekit_client import add_direction

    assert loss(add("topk", feature, 4.0)) == pytest.approx(
        loss(add_direction(vector(HOOK, w), 4.0)), abs=1e-4
    )


def test_a_splice_with_its_error_term_changes_nothing(client: Client) -> None:
    clean = client.run_with_saes(TEXT).loss
    assert client.run_with_saes(TEXT, splices=[Splice("topk", True)]).loss == pytest.approx(clean)
    assert client.run_with_saes(TEXT, splices=["topk"]).loss != pytest.approx(clean)


def test_many_runs_are_streamed_in_windows(client: Client) -> None:
    texts = [story(4 + n % 5, seed=n) for n in range(20)]
    texts[13] = ""
    items = list(client.run_with_saes_stream(texts, splices=["topk"], window=8, ordered=True))
    assert [i.index for i in items] == list(range(20))
    assert [i.index for i in items if i.error] == [13]
    batch = client.run_with_saes(texts, splices=["topk"])
    assert batch[3].loss == pytest.approx(items[3].result.loss, rel=1e-4)


def test_steer_streams_typed_events(client: Client) -> None:
    events = list(
        client.steer(
            "The cat",
            edits=[add("topk", 3, 4.0, unit="max_activation")],
            sampling=GREEDY,
            max_new_tokens=6,
            ignore_eos=True,
            baseline=True,
            top_logprobs=2,
            watch=[Watch("topk", [3, 5])],
        )
    )
    assert isinstance(events[0], SteerStart)
    tokens = [e for e in events if isinstance(e, SteerToken)]
    assert len(tokens) == 12
    assert all(len(t.top_logprobs) == 2 and t.watched.shape == (2,) for t in tokens)
    ends = [e for e in events if isinstance(e, SteerFinish)]
    assert [(e.reason, e.generated_tokens) for e in ends] == [("length", 6)] * 2
    assert {e.baseline for e in ends} == {True, False}


def test_generations_are_whole_and_seeded(client: Client) -> None:
    def write(seed: int) -> list[str]:
        from saekit_client import Sampling

        stream = client.steer("The", sampling=Sampling(seed=seed), n=2, max_new_tokens=8)
        return [g.text for g in stream.generations()]

    assert write(1) == write(1)
    assert write(1) != write(2)
    assert len(set(write(1))) == 2
    [generation] = client.steer(
        "The", watch=[Watch("topk", [3])], max_new_tokens=5, ignore_eos=True
    ).generations()
    assert generation.watched.shape == (6, 1)
    assert len(generation.token_ids) == 5


def test_conditions_stop_and_edit(client: Client) -> None:
    watched = client.steer(
        "The cat",
        sampling=GREEDY,
        max_new_tokens=8,
        ignore_eos=True,
        watch=[Watch("topk", range(96))],
    ).generations()[0]
    feature = int(watched.watched[1].argmax())
    threshold = float(watched.watched[1, feature]) / 2
    stopped = client.steer(
        "The cat",
        sampling=GREEDY,
        max_new_tokens=8,
        conditions=[stop_when(FeatureRef("topk", feature), threshold)],
    ).generations()[0]
    assert stopped.finish.reason == "condition"
    pin = f"topk@{client.get_sae('topk').info.revision}"
    assert stopped.finish.trigger == FeatureRef(pin, feature)
    assert stopped.token_ids.tolist() == watched.token_ids[:1].tolist()
    condition = Condition(
        FeatureRef("topk", feature), threshold, ApplyFromHere((set_to("topk", feature, 40.0),))
    )
    assert client.run_with_saes(TEXT, conditions=[condition]).loss is not None


def test_closing_a_generation_frees_its_slot_for_the_next(client: Client) -> None:
    for _ in range(40):  # more than the server has slots
        with client.steer("The", max_new_tokens=60, ignore_eos=True) as events:
            next(events)
    assert client.health() == "serving"


def test_the_registry(client: Client) -> None:
    saes = client.list_saes()
    assert [s.sae_id for s in saes] == ["heads", "normed", "topk"]
    assert [s.sae_id for s in client.list_saes(hook_name=HOOK)] == ["topk"]
    details = client.get_sae("topk")
    assert details.info.architecture == "topk"
    assert details.config["d_sae"] == 96
    assert details.info.neuronpedia_id == "tiny/1-res-tst"
    assert details.info.neuronpedia_url == "https://neuronpedia.org/tiny/1-res-tst"
    assert [s.neuronpedia_url != "" for s in saes] == [False, False, True]
    watch = client.watch_saes()
    kinds = [next(watch).kind for _ in range(4)]
    assert kinds == ["present", "present", "present", "synced"]
    loaded = client.load_sae("topk", sae_id="again", pin=True)
    event = next(watch)
    assert (event.kind, event.sae and event.sae.sae_id) == ("loaded", "again")
    assert loaded.sae.revision == details.info.revision
    assert [s.sae_id for s in client.unload_sae("again")] == ["again"]
    assert next(watch).kind == "unloaded"
    watch.close()  # type: ignore[attr-defined]
    with pytest.raises(NotFoundError):
        client.get_sae("again")
    with pytest.raises(FailedPreconditionError):
        client.encode(TEXT, "topk@000000000000")


def test_what_is_known_of_features(client: Client) -> None:
    found = client.get_features("topk", [3, 4], logit_lens=2, neighbours=3, examples=1)
    dragon, other = found.features
    assert (dragon.label, other.label) == ("dragons", "")
    assert dragon.max_activation == 2.0
    assert dragon.density == pytest.approx(0.1)
    assert len(dragon.top_tokens) == len(dragon.bottom_tokens) == 2
    assert len(dragon.neighbours) == 3
    assert dragon.examples[0].tokens == ("a", " dragon")
    assert dragon.neuronpedia_url == "https://neuronpedia.org/tiny/1-res-tst/3"
    assert client.get_features("heads", 3).features[0].neuronpedia_url == ""
    assert [f.index for f in client.get_features("topk", search="DRAGON").features] == [3, 5]


def test_the_model_and_its_tokens(client: Client) -> None:
    model = client.get_model(hook_points=True)
    assert model.n_layers == 3
    assert HOOK in {h.name for h in model.hook_points}
    tokens = client.tokenize([TEXT, [5, 6, 7]])
    assert tokens[0].has_bos
    assert tokens[1].ids.tolist() == [5, 6, 7]
    assert not client.tokenize(TEXT, prepend_bos=False).has_bos
    assert client.health() == "serving"


def test_another_model_than_expected_is_refused(address: str) -> None:
    with (
        Client(address, model="gpt2") as client,
        pytest.raises(
            InvalidArgumentError, match=r"options\.model: this server serves tiny-llama, not gpt2"
        ),
    ):
        client.encode(TEXT, "topk")


async def test_the_asynchronous_client_gives_the_same(address: str, client: Client) -> None:
    async def texts() -> AsyncIterator[str]:
        for n in range(30):
            yield story(5, seed=n)
            await asyncio.sleep(0)

    async with AsyncClient(address) as aio:
        result, run, model = await asyncio.gather(
            aio.encode(TEXT, "topk"),
            aio.run_with_saes(TEXT, splices=["topk"]),
            aio.get_model(),
        )
        expected = client.encode(TEXT, "topk").features.toarray()
        np.testing.assert_allclose(result.features.toarray(), expected, rtol=1e-4, atol=1e-5)
        assert run.loss == pytest.approx(client.run_with_saes(TEXT, splices=["topk"]).loss)
        assert model == client.get_model()
        items = [i async for i in aio.encode_stream(texts(), "topk", ordered=True)]
        assert [i.index for i in items] == list(range(30))
        batch = await aio.encode([TEXT, "", TEXT], "topk")
        assert list(batch.errors) == [1]
        assert (await aio.decode(batch[0].encoding)).activations.shape[0] == len(expected)
        decoded = await aio.decode([batch[0].encoding, batch[2].encoding])
        assert len(decoded) == 2
        runs = await aio.run_with_saes([TEXT, TEXT])
        assert runs[0].loss == pytest.approx(runs[1].loss)
        async with aio.steer("The cat", sampling=GREEDY, max_new_tokens=5) as events:
            [text] = await events.generations()
        with client.steer("The cat", sampling=GREEDY, max_new_tokens=5) as plain:
            assert [g.text for g in plain.generations()] == [text.text]
        assert [s.sae_id for s in await aio.list_saes()] == ["heads", "normed", "topk"]
        assert (await aio.get_sae("topk")).info.d_sae == 96
        assert (await aio.tokenize(TEXT)).has_bos
        assert (await aio.get_features("topk", 3)).features[0].label == "dragons"
        assert await aio.health() == "serving"
        watch = aio.watch_saes()
        assert (await anext(watch)).kind == "present"
        await watch.aclose()  # type: ignore[attr-defined]
        loaded = await aio.load_sae("topk", sae_id="aio")
        assert [s.sae_id for s in await aio.unload_sae(loaded.sae.sae_id)] == ["aio"]
