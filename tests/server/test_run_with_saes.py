"""RunWithSAEs over a real socket against the bridge with hooks written from the formulas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.core.sae.reference import reference_decode, reference_encode
from tests.models import story
from tests.saes import ARCHITECTURES
from tests.serving import Running
from torch import Tensor

from saekit.codec import numpy_to_tensor, rows_to_csr, tensor_to_numpy
from saekit.v1 import input_pb2
from saekit.v1 import intervention_pb2 as ip
from saekit.v1 import sae_service_pb2 as pb
from saekit_core.sae import SAE

TEXT = story(8, 3)
ALL = pb.RunReturns(logits=pb.LOGITS_ROWS_ALL)
# x [pos, d] float64 -> the activations that leave the hook point.
Rule = Callable[[Tensor], Tensor]


def run(
    server: Running,
    interventions: ip.Interventions | None = None,
    returns: pb.RunReturns = ALL,
    texts: tuple[str, ...] = (TEXT,),
) -> pb.RunWithSAEsResponse:
    options = pb.RunOptions(interventions=interventions, returns=returns)
    inputs = [input_pb2.Input(text=text) for text in texts]
    return server.sae.RunWithSAEs(pb.RunWithSAEsRequest(inputs=inputs, options=options))


def logits_of(response: pb.RunWithSAEsResponse, index: int = 0) -> np.ndarray:
    return tensor_to_numpy(response.results[index].logits)


def ids_of(server: Running, text: str = TEXT) -> Tensor:
    return torch.from_numpy(server.server.parts.model.tokenizer.encode_text(text).ids)[None]


def reference(server: Running, rules: dict[str, Rule], text: str = TEXT) -> np.ndarray:
    """[pos, d_vocab]: the bridge's logits with `rules` at their hook points."""

    def hook(rule: Rule) -> Callable[..., Tensor]:
        def apply(h: Tensor, hook: object) -> Tensor:
            del hook
            return rule(h[0].double()).to(h.dtype)[None]

        return apply

    bridge = server.server.parts.model.bridge
    with torch.no_grad():
        logits = bridge.run_with_hooks(
            ids_of(server, text), fwd_hooks=[(name, hook(rule)) for name, rule in rules.items()]
        )
    return logits[0].numpy()


def loaded(server: Running, name: str) -> SAE:
    return server.server.parts.registry.get(name).sae


def edited(sae: SAE, *steps: tuple[int, Callable[[Tensor], Tensor]]) -> Rule:
    """h + D(a') - D(a) at every position but the BOS; a' by the steps in order."""

    def rule(h: Tensor) -> Tensor:
        a = reference_encode(sae, h)
        changed = a.clone()
        for index, step in steps:
            changed[:, index] = step(changed[:, index])
        bracket = reference_decode(sae, changed, h) - reference_decode(sae, a, h)
        bracket[0] = 0
        return h + bracket

    return rule


def replaced(sae: SAE) -> Rule:
    return lambda h: reference_decode(sae, reference_encode(sae, h), h)


def along(vector: np.ndarray, step: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    """A direction edit at every position but the BOS; step(t, |v|) is the new coordinate."""
    v = torch.from_numpy(vector).double()

    def rule(h: Tensor) -> Tensor:
        unit = v / v.norm()
        t = h @ unit
        delta = step(t, v.norm()) - t
        delta[0] = 0
        return h + delta[:, None] * unit

    return rule


def feature(sae: str, index: int) -> ip.FeatureRef:
    return ip.FeatureRef(sae=sae, index=index)


def close(got: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def active_feature(server: Running, name: str) -> int:
    """The feature of the largest activation outside of the BOS."""
    sae = loaded(server, name)
    bridge = server.server.parts.model.bridge
    with torch.no_grad():
        _, cache = bridge.run_with_cache(ids_of(server))
    acts = reference_encode(sae, cache[sae.cfg.hook_name][0].double())
    return int(acts[1:].max(dim=0).values.argmax())


SAES = [*ARCHITECTURES, "normed/layer_norm", "normed/rescaled"]
FEATURE_EDITS: dict[str, tuple[dict[str, object], Callable[[Tensor], Tensor]]] = {
    "add": ({"add": ip.Add(amount=2.5)}, lambda a: a + 2.5),
    "add negative": ({"add": ip.Add(amount=-1.5, unit=ip.UNIT_RAW)}, lambda a: a - 1.5),
    "set": ({"set": ip.Set(value=3)}, lambda a: a * 0 + 3),
    "ablate": ({"ablate": ip.Ablate()}, lambda a: a * 0),
    "scale": ({"scale": ip.Scale(factor=-2)}, lambda a: a * -2),
    "clip": ({"clip": ip.Clip(lo=0.2, hi=0.5)}, lambda a: a.clip(0.2, 0.5)),
    "clip above": ({"clip": ip.Clip(hi=0.4)}, lambda a: a.clip(max=0.4)),
}


@pytest.mark.parametrize("sae", SAES)
@pytest.mark.parametrize("edit", FEATURE_EDITS)
def test_feature_edit_follows_the_one_rule(server: Running, sae: str, edit: str) -> None:
    index = active_feature(server, sae)
    operation, formula = FEATURE_EDITS[edit]
    module = loaded(server, sae)
    got = run(server, ip.Interventions(edits=[ip.Edit(feature=feature(sae, index), **operation)]))
    expected = reference(server, {module.cfg.hook_name: edited(module, (index, formula))})
    close(logits_of(got), expected)
    assert np.abs(expected - reference(server, {})).max() > 1e-2, "the edit did nothing"


def test_unit_norm_adds_in_residual_norm_whatever_the_normalisation(server: Running) -> None:
    for sae in SAES:
        module = loaded(server, sae)
        row = module.decoder_rows(torch.tensor([4]))[0].detach().double()
        edit = ip.Edit(feature=feature(sae, 4), add=ip.Add(amount=1.7, unit=ip.UNIT_UNIT_NORM))

        def rule(h: Tensor, row: Tensor = row) -> Tensor:
            moved = h + 1.7 * row / row.norm()
            return torch.cat([h[:1], moved[1:]])

        got = run(server, ip.Interventions(edits=[edit]))
        close(logits_of(got), reference(server, {module.cfg.hook_name: rule}))


def test_max_activation_is_in_recorded_maxima(server: Running) -> None:
    unit = ip.Edit(feature=feature("topk", 4), add=ip.Add(amount=1.5, unit=ip.UNIT_MAX_ACTIVATION))
    raw = ip.Edit(feature=feature("topk", 4), add=ip.Add(amount=3.0))  # the maxima are 2
    first = run(server, ip.Interventions(edits=[unit]))
    np.testing.assert_array_equal(
        logits_of(first), logits_of(run(server, ip.Interventions(edits=[raw])))
    )


VECTOR = np.random.default_rng(5).normal(size=32).astype(np.float32)
DIRECTION_EDITS: dict[str, tuple[dict[str, object], Callable[[Tensor, Tensor], Tensor]]] = {
    "add": ({"add": ip.Add(amount=0.7)}, lambda t, norm: t + 0.7 * norm),
    "add unit": ({"add": ip.Add(amount=0.7, unit=ip.UNIT_UNIT_NORM)}, lambda t, _: t + 0.7),
    "remove": ({"project": ip.Project(coefficient=0)}, lambda t, _: t * 0),
    "reflect": ({"project": ip.Project(coefficient=-1)}, lambda t, _: -t),
    "cap": ({"cap": ip.Cap(lo=-0.3, hi=0.3)}, lambda t, _: t.clip(-0.3, 0.3)),
}


@pytest.mark.parametrize("edit", DIRECTION_EDITS)
def test_direction_edit_follows_its_formula(server: Running, edit: str) -> None:
    operation, formula = DIRECTION_EDITS[edit]
    hook = "blocks.1.hook_resid_pre"
    target = ip.Direction(hook_name=hook, vector=numpy_to_tensor(VECTOR))
    got = run(server, ip.Interventions(edits=[ip.Edit(direction=target, **operation)]))
    close(logits_of(got), reference(server, {hook: along(VECTOR, formula)}))


def test_edits_compose_in_their_order_and_directions_come_last(server: Running) -> None:
    name = "standard"
    module, index = loaded(server, name), active_feature(server, name)
    hook = module.cfg.hook_name
    target = ip.Direction(hook_name=hook, vector=numpy_to_tensor(VECTOR))
    edits = [
        ip.Edit(direction=target, project=ip.Project(coefficient=0)),
        ip.Edit(feature=feature(name, index), add=ip.Add(amount=2)),
        ip.Edit(feature=feature(name, index), scale=ip.Scale(factor=3)),
        ip.Edit(feature=feature(name, 5), set=ip.Set(value=1)),
    ]
    features = edited(
        module,
        (index, lambda a: a + 2),
        (index, lambda a: a * 3),
        (5, lambda a: a * 0 + 1),
    )
    remove = along(VECTOR, lambda t, _: t * 0)
    got = run(server, ip.Interventions(edits=edits))
    close(logits_of(got), reference(server, {hook: lambda h: remove(features(h))}))
    other_order = run(server, ip.Interventions(edits=[edits[0], edits[2], edits[1], edits[3]]))
    assert np.abs(logits_of(got) - logits_of(other_order)).max() > 1e-2


def test_brackets_of_two_saes_add_and_read_the_incoming_activations(server: Running) -> None:
    first, second = loaded(server, "standard"), loaded(server, "normed/rescaled")
    assert first.cfg.hook_name == second.cfg.hook_name
    indices = [active_feature(server, name) for name in ("standard", "normed/rescaled")]
    one = edited(first, (indices[0], lambda a: a * 0))
    two = edited(second, (indices[1], lambda a: a * 3))
    edits = [
        ip.Edit(feature=feature("standard", indices[0]), ablate=ip.Ablate()),
        ip.Edit(feature=feature("normed/rescaled", indices[1]), scale=ip.Scale(factor=3)),
    ]
    expected = reference(server, {first.cfg.hook_name: lambda h: one(h) + two(h) - h})
    close(logits_of(run(server, ip.Interventions(edits=edits))), expected)


def test_preserve_norm_rescales_what_was_changed(server: Running) -> None:
    module = loaded(server, "jumprelu")
    rule = edited(module, (7, lambda a: a + 6))
    edit = ip.Edit(feature=feature("jumprelu", 7), add=ip.Add(amount=6))

    def kept(h: Tensor) -> Tensor:
        new = rule(h)
        return new * h.norm(dim=-1, keepdim=True) / new.norm(dim=-1, keepdim=True)

    got = run(server, ip.Interventions(edits=[edit], preserve_norm=True))
    close(logits_of(got), reference(server, {module.cfg.hook_name: kept}))


@pytest.mark.parametrize("sae", [*SAES, "heads"])
def test_splice_without_error_term_replaces_with_it_changes_nothing(
    server: Running, sae: str
) -> None:
    module = loaded(server, sae)
    clean = logits_of(run(server))
    kept = run(server, ip.Interventions(splices=[ip.Splice(sae=sae, use_error_term=True)]))
    np.testing.assert_array_equal(logits_of(kept), clean)
    got = run(server, ip.Interventions(splices=[ip.Splice(sae=sae)]))

    def rule(h: Tensor) -> Tensor:
        return replaced(module)(h.flatten(1)).view(h.shape)

    close(logits_of(got), reference(server, {module.cfg.hook_name: rule}))


def test_positions_narrow_a_splice_and_an_edit(server: Running) -> None:
    module, index = loaded(server, "topk"), active_feature(server, "topk")
    last_two = input_pb2.PositionSelector(last_n=2)
    spliced = run(server, ip.Interventions(splices=[ip.Splice(sae="topk", positions=last_two)]))

    def end_only(h: Tensor) -> Tensor:
        return torch.cat([h[:-2], replaced(module)(h)[-2:]])

    close(logits_of(spliced), reference(server, {module.cfg.hook_name: end_only}))
    ranges = input_pb2.PositionRanges(ranges=[input_pb2.PositionRange(start=0, end=3)])
    edit = ip.Edit(
        feature=feature("topk", index),
        add=ip.Add(amount=2),
        positions=input_pb2.PositionSelector(ranges=ranges),
    )

    def beginning(h: Tensor) -> Tensor:
        a = reference_encode(module, h)
        changed = a.clone()
        changed[:3, index] += 2  # an explicit range covers the BOS
        return h + reference_decode(module, changed, h) - reference_decode(module, a, h)

    got = run(server, ip.Interventions(edits=[edit]))
    close(logits_of(got), reference(server, {module.cfg.hook_name: beginning}))


@pytest.mark.parametrize("lasting", [False, True])
def test_condition_applies_where_its_trigger_fires(server: Running, lasting: bool) -> None:
    trigger, target = loaded(server, "topk"), loaded(server, "jumprelu")
    index = active_feature(server, "topk")
    with torch.no_grad():
        _, cache = server.server.parts.model.bridge.run_with_cache(ids_of(server))
    acts = reference_encode(trigger, cache[trigger.cfg.hook_name][0].double())[:, index]
    threshold = float(acts[1:].max()) * 0.9
    fires = acts > threshold
    fires[0] = False
    if lasting:
        fires = fires.cumsum(0) > 0
    assert fires.any()
    assert not fires.all()
    edits = ip.EditList(edits=[ip.Edit(feature=feature("jumprelu", 9), add=ip.Add(amount=5))])
    action = {"apply_from_here": edits} if lasting else {"apply_here": edits}
    condition = ip.Condition(trigger=feature("topk", index), threshold=threshold, **action)
    rule = edited(target, (9, lambda a: a + 5))

    def where_fired(h: Tensor) -> Tensor:
        return torch.where(fires[:, None], rule(h), h)

    got = run(server, ip.Interventions(conditions=[condition]))
    close(logits_of(got), reference(server, {target.cfg.hook_name: where_fired}))


def test_returns_are_what_their_names_say(server: Running) -> None:
    module = loaded(server, "topk")
    hook = module.cfg.hook_name
    interventions = ip.Interventions(splices=[ip.Splice(sae="topk")])
    returns = pb.RunReturns(
        logits=pb.LOGITS_ROWS_LAST,
        top_k_logits=5,
        loss=True,
        token_logprobs=True,
        features=[pb.SAEQuery(sae="topk"), pb.SAEQuery(sae="topk", top_k=2)],
        activations=[hook, "blocks.2.hook_resid_pre"],
        compare=True,
    )
    (result,) = run(server, interventions, returns).results
    ids = ids_of(server)[0]
    logits = torch.from_numpy(reference(server, {hook: replaced(module)})).double()
    following = torch.log_softmax(logits, -1)[:-1].gather(1, ids[1:, None])[:, 0]
    close(tensor_to_numpy(result.token_logprobs), following.numpy())
    assert result.loss == pytest.approx(-float(following.mean()), rel=1e-4)
    best = logits[-1].topk(5)
    assert tensor_to_numpy(result.top_logits.ids)[0].tolist() == best.indices.tolist()
    close(tensor_to_numpy(result.top_logits.logits)[0], best.values.numpy())
    close(
        tensor_to_numpy(result.top_logits.logprobs)[0],
        torch.log_softmax(logits[-1], -1)[best.indices].numpy(),
    )
    with torch.no_grad():
        clean_logits, cache = server.server.parts.model.bridge.run_with_cache(ids[None])
    x = cache[hook][0].double()
    acts = rows_to_csr(result.features[0].sparse).toarray()
    close(acts, reference_encode(module, x).numpy())
    assert (rows_to_csr(result.features[1].sparse).toarray() > 0).sum(axis=1).max() == 2
    first, second = (tensor_to_numpy(a.activations) for a in result.activations)
    close(first, replaced(module)(x).numpy())
    assert np.abs(second - cache["blocks.2.hook_resid_pre"][0].numpy()).max() > 1e-3
    # The comparison, by hand from three runs of the bridge.
    ablated = torch.from_numpy(reference(server, {hook: torch.zeros_like})).double()
    clean = torch.log_softmax(clean_logits[0].double(), -1)

    def loss(table: Tensor) -> float:
        return -float(torch.log_softmax(table, -1)[:-1].gather(1, ids[1:, None]).mean())

    kl = (clean.exp() * (clean - torch.log_softmax(logits, -1))).sum(-1).mean()
    made = result.comparison
    assert made.kl == pytest.approx(float(kl), rel=1e-3)
    clean_loss = loss(clean_logits[0].double())
    assert made.clean_loss == pytest.approx(clean_loss, rel=1e-4)
    assert made.delta_loss == pytest.approx(loss(logits) - clean_loss, abs=1e-3)
    assert made.ablated_loss == pytest.approx(loss(ablated), rel=1e-4)
    score = (loss(ablated) - loss(logits)) / (loss(ablated) - clean_loss)
    assert made.ce_loss_score == pytest.approx(score, abs=1e-2 * (1 + abs(score)))


def test_runs_in_one_batch_equal_each_alone(server: Running) -> None:
    texts = tuple(story(n, n) for n in (1, 4, 9, 17, 30))
    edit = ip.Edit(feature=feature("gated", 4), set=ip.Set(value=2))
    interventions = ip.Interventions(edits=[edit], splices=[ip.Splice(sae="standard")])
    together = run(server, interventions, texts=texts)
    for i, text in enumerate(texts):
        close(logits_of(together, i), logits_of(run(server, interventions, texts=(text,))))


def test_one_token_predicts_nothing_and_says_so(server: Running) -> None:
    request = pb.RunWithSAEsRequest(
        inputs=[input_pb2.Input(tokens=input_pb2.Tokens(ids=[7]))],
        options=pb.RunOptions(returns=pb.RunReturns(loss=True, token_logprobs=True, compare=True)),
    )
    (result,) = server.sae.RunWithSAEs(request).results
    assert not result.HasField("loss")
    assert tensor_to_numpy(result.token_logprobs).shape == (0,)
    assert not result.comparison.HasField("clean_loss")
    assert result.comparison.kl == pytest.approx(0, abs=1e-6)
