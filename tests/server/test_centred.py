"""SAEs trained on centred weights, on a server that runs raw ones.

The reference is TransformerLens' compatibility mode, which processes the weights, with the plain
formulas of the SAE in hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from tests.core.sae.reference import reference_encode
from tests.models import build_gpt2, story
from tests.processed import OLD_DEFAULTS, processed_bridge
from tests.saes import random_sae, write_sae
from tests.server.test_encode import encode, undecided
from tests.server.test_run_with_saes import (
    Rule,
    close,
    edited,
    feature,
    ids_of,
    loaded,
    logits_of,
    replaced,
    run,
)
from tests.server.test_run_with_saes import reference as raw_reference
from tests.server.test_steer import TIE, one
from tests.serving import Running, serving
from torch import Tensor

from saekit.codec import numpy_to_tensor, rows_to_csr, tensor_to_numpy
from saekit.v1 import input_pb2, registry_service_pb2
from saekit.v1 import intervention_pb2 as ip
from saekit.v1 import sae_service_pb2 as pb
from saekit_core.sae import SAE
from saekit_server.config import ServeConfig
from saekit_server.registry.canary import read_canary

D_MODEL = 32
CENTRED = {"center_writing_weights": True}
TEXTS = [story(n, n) for n in (1, 5, 20, 40)]
TEXT = story(8, 3)
RESID = "blocks.1.hook_resid_pre"
# What was trained on centred activations, by name: hook point, architecture, normalisation.
SAES = {
    "standard": (RESID, "standard", "none"),
    "gated": ("blocks.1.hook_mlp_out", "gated", "none"),
    "jumprelu": ("blocks.2.hook_resid_pre", "jumprelu", "none"),
    "topk": ("blocks.0.hook_resid_post", "topk", "none"),
    "rescaled": ("blocks.1.hook_resid_mid", "standard", "constant_norm_rescale"),
    "layer_norm": ("blocks.1.hook_attn_out", "jumprelu", "layer_norm"),
    "embed": ("hook_embed", "jumprelu", "constant_norm_rescale"),
    "pos_embed": ("hook_pos_embed", "jumprelu", "constant_norm_rescale"),
    "old": ("blocks.1.hook_resid_post", "jumprelu", "none"),
}


def sae_of(hook: str, architecture: str, kwargs: dict[str, object], **settings: Any) -> SAE:
    metadata = {"hook_name": hook, "prepend_bos": True, "model_from_pretrained_kwargs": kwargs}
    metadata |= settings.pop("metadata", {})
    return random_sae(hook, D_MODEL, architecture, metadata=metadata, **settings)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A GPT-2-type model with SAEs of both kinds."""
    root = tmp_path_factory.mktemp("centred")
    saes = root / "saes"
    for seed, (name, (hook, architecture, normalization)) in enumerate(SAES.items()):
        kwargs = dict.fromkeys(OLD_DEFAULTS, True) if name == "old" else CENTRED
        sae = sae_of(hook, architecture, kwargs, seed=seed, normalization=normalization)
        write_sae(saes / name, sae, max_activation=2.0)
    write_sae(saes / "raw", sae_of(RESID, "standard", {}, seed=0))  # the weights of `standard`
    heads = sae_of("blocks.1.attn.hook_z", "standard", CENTRED, reshape_activations="hook_z")
    write_sae(saes / "heads", heads)
    transcoder = sae_of(
        "blocks.1.ln2.hook_normalized",
        "transcoder",
        CENTRED,
        metadata={"hook_name_out": "blocks.1.hook_mlp_out"},
        d_out=D_MODEL,
        apply_b_dec_to_input=False,
    )
    write_sae(saes / "transcoder", transcoder)
    config = ServeConfig(
        model=str(build_gpt2(root / "tiny-gpt2")),
        device="cpu",
        sae_dir=saes,
        listen="127.0.0.1:0",
        http=None,
        slots=4,
        threads=1,
        drain_s=0.0,
    )
    with serving(config) as running:
        assert running.server.parts.model.bridge is not None  # made while nothing runs
        yield running


@pytest.fixture(scope="module")
def compat(server: Running) -> Any:
    """The bridge in compatibility mode, processing all that HookedTransformer did."""
    return processed_bridge(server.server.parts.model, *OLD_DEFAULTS)


def centred_cache(compat: Any, ids: Sequence[int]) -> dict[str, Tensor]:
    with torch.no_grad():
        _, cache = compat.run_with_cache(torch.tensor([list(ids)]))
    return {name: h[0].double() for name, h in cache.items() if isinstance(h, Tensor)}


def reference(compat: Any, ids: Tensor, rules: dict[str, Rule]) -> Tensor:
    """Log-probabilities [pos, d_vocab] in compatibility mode, with rules at its hook points."""

    def hook(rule: Rule) -> Callable[..., Tensor]:
        def apply(h: Tensor, hook: object) -> Tensor:
            del hook
            return rule(h[0].double()).to(h.dtype)[None]

        return apply

    with torch.no_grad():
        logits: Tensor = compat.run_with_hooks(
            ids, fwd_hooks=[(name, hook(rule)) for name, rule in rules.items()]
        )
    return logits[0].log_softmax(-1)


def log_probs(response: pb.RunWithSAEsResponse) -> np.ndarray:
    return torch.tensor(logits_of(response)).log_softmax(-1).numpy()


def same(got: pb.RunWithSAEsResponse, expected: Tensor) -> None:
    np.testing.assert_allclose(log_probs(got), expected.numpy(), atol=2e-4)


def less_mean(h: np.ndarray) -> np.ndarray:
    return h - h.mean(-1, keepdims=True)


def active(sae: SAE, x: Tensor, n: int = 1) -> list[int]:
    """The n features of the largest activations outside of the BOS."""
    best: list[int] = reference_encode(sae, x)[1:].max(dim=0).values.topk(n).indices.tolist()
    return best


@pytest.mark.parametrize("name", [*SAES, "heads"])
def test_encode_equals_compatibility_mode_and_the_formula(
    server: Running, compat: Any, name: str
) -> None:
    sae = loaded(server, name)
    values = flips = 0
    for result in encode(server, TEXTS, name).results:
        x = centred_cache(compat, result.tokens.ids)[sae.cfg.hook_name]
        if name == "heads":  # its value biases are folded; what centring alone shows is raw
            bridge = server.server.parts.model.bridge
            with torch.no_grad():
                _, cache = bridge.run_with_cache(torch.tensor([list(result.tokens.ids)]))
            x = cache[sae.cfg.hook_name][0].flatten(1).double()
        expected, exempt = reference_encode(sae, x).numpy(), undecided(sae, x)
        got = rows_to_csr(result.encodings[0].sparse).toarray()
        assert (got > 0).any()
        wrong = ~np.isclose(got, expected, rtol=1e-4, atol=1e-5) & ~exempt
        assert not wrong.any(), f"{got[wrong]} for {expected[wrong]}"
        values += got.size
        flips += int((((got > 0) != (expected > 0)) & exempt).sum())
    assert flips <= max(1, 1e-6 * values)


def test_one_call_encodes_for_both_kinds_at_one_hook_point(server: Running, compat: Any) -> None:
    sae = loaded(server, "standard")
    bridge = server.server.parts.model.bridge
    differ = 0
    for result in encode(server, TEXTS, "raw", "standard").results:
        raw, centred = (rows_to_csr(e.sparse).toarray() for e in result.encodings)
        x = centred_cache(compat, result.tokens.ids)[RESID]
        with torch.no_grad():
            _, cache = bridge.run_with_cache(torch.tensor([list(result.tokens.ids)]))
        close(raw, reference_encode(sae, cache[RESID][0].double()).numpy())
        close(centred, reference_encode(sae, x).numpy())
        differ += int(np.abs(raw - centred).max() > 1e-2)
    assert differ == len(TEXTS)


@pytest.mark.parametrize("name", ["standard", "rescaled", "topk"])
def test_a_client_may_send_activations_raw_or_centred(server: Running, name: str) -> None:
    hook = loaded(server, name).cfg.hook_name
    (item,) = run(server, returns=pb.RunReturns(activations=[hook])).results[0].activations
    raw = tensor_to_numpy(item.activations)
    assert np.abs(raw.mean(-1)).max() > 0.05
    (text,) = encode(server, [TEXT], name).results
    expected = rows_to_csr(text.encodings[0].sparse).toarray()
    for x in (raw, less_mean(raw)):
        request = pb.EncodeRequest(
            inputs=[input_pb2.Input(activations=numpy_to_tensor(x))],
            options=pb.EncodeOptions(saes=[pb.SAEQuery(sae=name)]),
        )
        (encoding,) = server.sae.Encode(request).results[0].encodings
        close(rows_to_csr(encoding.sparse).toarray(), expected)


@pytest.mark.parametrize("name", SAES)
@pytest.mark.parametrize("use_error_term", [True, False])
def test_splices_and_edits_give_the_log_probabilities_of_compatibility_mode(
    server: Running, compat: Any, name: str, use_error_term: bool
) -> None:
    sae, ids = loaded(server, name), ids_of(server, TEXT)
    hook = sae.cfg.hook_name
    (index,) = active(sae, centred_cache(compat, ids[0].tolist())[hook])
    edits = [
        ip.Edit(feature=feature(name, index), scale=ip.Scale(factor=-2)),
        ip.Edit(feature=feature(name, 5), add=ip.Add(amount=3)),
    ]
    splice = ip.Splice(sae=name, use_error_term=use_error_term)
    change = edited(sae, (index, lambda a: a * -2), (5, lambda a: a + 3))

    def rule(h: Tensor) -> Tensor:
        return change(h) if use_error_term else replaced(sae)(h) + change(h) - h

    clean = reference(compat, ids, {})
    alone = run(server, ip.Interventions(splices=[splice]))
    same(alone, clean if use_error_term else reference(compat, ids, {hook: replaced(sae)}))
    expected = reference(compat, ids, {hook: rule})
    assert (expected - clean).abs().max() > 1e-2, "the edits did nothing"
    same(run(server, ip.Interventions(splices=[splice], edits=edits)), expected)


def test_activations_of_a_splice_keep_their_mean_and_later_ones_equal_up_to_it(
    server: Running, compat: Any
) -> None:
    sae, ids = loaded(server, "standard"), ids_of(server, TEXT)
    later = "blocks.2.hook_resid_pre"
    returns = pb.RunReturns(activations=[RESID, later])

    def shown(**interventions: object) -> list[np.ndarray]:
        response = run(server, ip.Interventions(**interventions), returns)
        return [tensor_to_numpy(a.activations) for a in response.results[0].activations]

    clean, _ = shown()
    spliced, behind = shown(splices=[ip.Splice(sae="standard")])
    x = centred_cache(compat, ids[0].tolist())[RESID]
    y = replaced(sae)(x).numpy()
    close(spliced, y + clean.mean(-1, keepdims=True))
    seen: list[Tensor] = []
    reference(compat, ids, {RESID: replaced(sae), later: lambda h: seen.append(h) or h})
    close(less_mean(behind), less_mean(seen[0].numpy()))
    kept, _ = shown(splices=[ip.Splice(sae="standard", use_error_term=True)])
    np.testing.assert_array_equal(kept, clean)


def test_both_kinds_edit_one_hook_point_in_one_call(server: Running, compat: Any) -> None:
    raw, centred = loaded(server, "raw"), loaded(server, "standard")
    (index,) = active(centred, centred_cache(compat, ids_of(server, TEXT)[0].tolist())[RESID])
    edits = [
        ip.Edit(feature=feature("raw", index), scale=ip.Scale(factor=3)),
        ip.Edit(feature=feature("standard", index), scale=ip.Scale(factor=-2)),
    ]
    first, second = (
        edited(raw, (index, lambda a: a * 3)),
        edited(centred, (index, lambda a: a * -2)),
    )

    def rule(h: Tensor) -> Tensor:
        x = h - h.mean(-1, keepdim=True)
        return first(h) + second(x) - x

    got = run(server, ip.Interventions(edits=edits))
    close(logits_of(got), raw_reference(server, {RESID: rule}))


def test_a_transcoder_may_read_raw_and_write_centred(server: Running, compat: Any) -> None:
    sae, ids = loaded(server, "transcoder"), ids_of(server, TEXT)
    seen: list[Tensor] = []

    def output(_: Tensor) -> Tensor:
        w = {name: tensor.double() for name, tensor in sae.weights().items()}
        return (seen[-1] @ w["W_enc"] + w["b_enc"]).relu() @ w["W_dec"] + w["b_dec"]

    rules = {sae.cfg.hook_name: lambda h: seen.append(h) or h, "blocks.1.hook_mlp_out": output}
    returns = pb.RunReturns(logits=pb.LOGITS_ROWS_ALL, activations=["blocks.1.hook_mlp_out"])
    clean = run(server, returns=returns).results[0].activations[0].activations
    got = run(server, ip.Interventions(splices=[ip.Splice(sae="transcoder")]), returns)
    same(got, reference(compat, ids, rules))
    written = tensor_to_numpy(got.results[0].activations[0].activations)
    mean = tensor_to_numpy(clean).mean(-1, keepdims=True)
    close(written, output(seen[-1]).detach().numpy() + mean)


def test_zero_ablation_and_losses_are_those_of_compatibility_mode(
    server: Running, compat: Any
) -> None:
    sae, ids = loaded(server, "standard"), ids_of(server, TEXT)
    splice = ip.Interventions(splices=[ip.Splice(sae="standard")])
    made = run(server, splice, pb.RunReturns(compare=True)).results[0].comparison

    def loss(rules: dict[str, Rule]) -> float:
        return -float(reference(compat, ids, rules)[:-1].gather(1, ids[0, 1:, None]).mean())

    clean, spliced, zero = (
        loss(rules) for rules in ({}, {RESID: replaced(sae)}, {RESID: torch.zeros_like})
    )
    assert made.clean_loss == pytest.approx(clean, rel=1e-4)
    assert made.delta_loss == pytest.approx(spliced - clean, abs=1e-3)
    assert made.ablated_loss == pytest.approx(zero, rel=1e-4)


@pytest.mark.parametrize("name", ["standard", "gated", "topk", "rescaled", "old"])
def test_steered_text_is_that_of_compatibility_mode(
    server: Running, compat: Any, name: str
) -> None:
    sae, text = loaded(server, name), story(6, 1)
    ids = ids_of(server, text)
    features = active(sae, centred_cache(compat, ids[0].tolist())[sae.cfg.hook_name], 4)
    edits = [ip.Edit(feature=feature(name, i), scale=ip.Scale(factor=-4)) for i in features]
    rule = edited(sae, *((i, lambda a: a * -4) for i in features))
    got = one(
        server,
        input=input_pb2.Input(text=text),
        interventions=ip.Interventions(edits=edits),
        ignore_eos=True,
    )
    assert len(got.ids) > 10
    assert got.ids != one(server, input=input_pb2.Input(text=text), ignore_eos=True).ids
    for token in got.ids:
        last = reference(compat, ids, {sae.cfg.hook_name: rule})[-1]
        best, second = last.topk(2).values
        if best - second < TIE:
            break
        assert token == int(last.argmax())
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)


def test_watched_features_are_those_of_compatibility_mode(server: Running, compat: Any) -> None:
    sae, text = loaded(server, "jumprelu"), story(6, 1)
    ids = ids_of(server, text)[0].tolist()
    (index,) = active(sae, centred_cache(compat, ids)[sae.cfg.hook_name])
    got = one(
        server,
        input=input_pb2.Input(text=text),
        watch=[pb.Watch(sae="jumprelu", features=[index])],
        ignore_eos=True,
    )
    x = centred_cache(compat, [*ids, *got.ids])[sae.cfg.hook_name]
    expected = reference_encode(sae, x)[len(ids) - 1 :, index].numpy()
    close(got.watched()[:, 0], expected)


def test_a_constant_is_not_the_saes_to_reconstruct(server: Running) -> None:
    """The canary's explained variance of an SAE that is perfect on centred activations is 1."""
    sae = sae_of(RESID, "standard", CENTRED, d_sae=2 * D_MODEL)
    both = torch.cat([torch.eye(D_MODEL), -torch.eye(D_MODEL)])
    with torch.no_grad():
        sae.W_enc.copy_(both.mT)
        sae.W_dec.copy_(both)
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    parts = server.server.parts
    write_sae(parts.registry.sae_root / "perfect", sae)
    bound = parts.registry.load("perfect").loaded.bound
    try:
        reading = parts.engine.run_on_device(lambda: read_canary(parts.model, bound))
    finally:
        parts.registry.unload("perfect")
    assert reading.explained_variance == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("kwargs", "hook", "expected"),
    [
        ({"fold_ln": True}, "blocks.1.ln1.hook_out", "fold_ln"),
        ({"center_unembed": True}, "unembed.hook_out", "center_unembed"),
        ({"fold_value_biases": True}, "blocks.1.attn.hook_z", "fold_value_biases"),
        (dict.fromkeys(OLD_DEFAULTS, True), "blocks.1.attn.hook_z", "fold_value_biases"),
        (
            {"refactor_factored_attn_matrices": True},
            "blocks.1.attn.hook_v",
            "refactor_factored_attn_matrices",
        ),
        (CENTRED, "blocks.1.attn.hook_hidden_states", "center_writing_weights"),
        ({"center_writing_weights": "yes"}, RESID, "center_writing_weights"),
        ({"first_n_layers": 1}, RESID, "first_n_layers"),
        ({"load_in_8bit": True}, RESID, "load_in_8bit"),
        ({"checkpoint_index": 0}, RESID, "checkpoint_index"),
    ],
)
def test_what_raw_weights_cannot_show_is_refused_by_name(
    server: Running, kwargs: dict[str, object], hook: str, expected: str
) -> None:
    registry = server.server.parts.registry
    d_in = server.server.parts.model.hook_point(hook).d
    metadata = {"hook_name": hook, "model_from_pretrained_kwargs": kwargs}
    write_sae(registry.sae_root / "refused", random_sae(hook, d_in, metadata=metadata))
    with pytest.raises(grpc.RpcError) as caught:
        server.registry.LoadSAE(registry_service_pb2.LoadSAERequest(source="refused"))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert expected in caught.value.details()
    if kwargs[expected] is True and expected != "load_in_8bit":
        assert hook in caught.value.details()
