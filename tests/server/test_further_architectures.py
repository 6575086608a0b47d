"""Transcoders, matching pursuit, temporal and signed top-k SAEs through the whole server."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
import torch
from tests.core.sae.reference import reference_decode, reference_encode
from tests.models import story
from tests.saes import FURTHER
from tests.server.test_encode import encode, loaded
from tests.server.test_run_with_saes import close, ids_of, logits_of, reference, run
from tests.serving import Running
from torch import Tensor

from saekit.codec import numpy_to_tensor, rows_to_csr, tensor_to_numpy
from saekit.v1 import input_pb2
from saekit.v1 import intervention_pb2 as ip
from saekit.v1 import sae_service_pb2 as pb
from saekit_core.sae import SAE

TEXTS = [story(n, n) for n in (1, 5, 20, 40)]
TRANSCODERS = [name for name in FURTHER if "transcoder" in name]
AT_ONE_HOOK = [name for name in FURTHER if name not in TRANSCODERS]
SKIPS = [name for name in TRANSCODERS if "skip" in name]


def name_of(architecture: str) -> str:
    return f"further/{architecture}"


def activations(server: Running, ids: list[int], hook_name: str) -> Tensor:
    """[pos, d] float64, from the bridge."""
    with torch.no_grad():
        _, cache = server.server.parts.model.bridge.run_with_cache(torch.tensor([ids]))
    return cache[hook_name][0].flatten(1).double()


def decode(server: Running, encoding: pb.SAEEncoding, **state: object) -> np.ndarray:
    item = pb.DecodeItem(sae=encoding.sae_id, sparse=encoding.sparse, **state)
    response = server.sae.Decode(pb.DecodeRequest(items=[item]))
    return tensor_to_numpy(response.results[0].activations)


@pytest.mark.parametrize("architecture", FURTHER)
def test_encode_and_decode_equal_the_bridge_and_the_formula(
    server: Running, architecture: str
) -> None:
    sae = loaded(server, name_of(architecture))
    for text in TEXTS:
        (result,) = encode(server, [text], name_of(architecture), return_state=True).results
        x = activations(server, list(result.tokens.ids), str(sae.cfg.hook_name))
        expected = reference_encode(sae, x)
        got = rows_to_csr(result.encodings[0].sparse).toarray()
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=1e-4)
        assert np.count_nonzero(got)
        y = reference_decode(sae, torch.from_numpy(got).double(), x)
        state = result.encodings[0].state
        np.testing.assert_allclose(
            decode(server, result.encodings[0], state=state), y.numpy(), rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("architecture", FURTHER)
def test_a_batch_of_ragged_rows_gives_each_what_it_gets_alone(
    server: Running, architecture: str
) -> None:
    together = encode(server, TEXTS, name_of(architecture)).results
    for text, result in zip(TEXTS, together, strict=True):
        (alone,) = encode(server, [text], name_of(architecture)).results
        np.testing.assert_allclose(
            rows_to_csr(result.encodings[0].sparse).toarray(),
            rows_to_csr(alone.encodings[0].sparse).toarray(),
            rtol=1e-4,
            atol=1e-4,
        )


def test_a_temporal_sae_sees_the_whole_context_of_the_positions_asked_for(server: Running) -> None:
    positions = input_pb2.PositionSelector(
        ranges=input_pb2.PositionRanges(ranges=[input_pb2.PositionRange(start=3, end=6)])
    )
    whole = encode(server, [TEXTS[2]], "further/temporal").results[0].encodings[0]
    part = encode(server, [TEXTS[2]], "further/temporal", positions=positions)
    (encoding,) = part.results[0].encodings
    assert list(encoding.positions) == [3, 4, 5]
    np.testing.assert_allclose(
        rows_to_csr(encoding.sparse).toarray(),
        rows_to_csr(whole.sparse).toarray()[3:6],
        rtol=1e-5,
        atol=1e-6,
    )


def test_top_k_of_signed_features_is_by_magnitude(server: Running) -> None:
    full = encode(server, [TEXTS[2]], "further/abstopk").results[0].encodings[0].sparse
    few = encode(server, [TEXTS[2]], "further/abstopk", top_k=3).results[0].encodings[0].sparse
    everything, kept = rows_to_csr(full).toarray(), rows_to_csr(few).toarray()
    assert (everything < 0).any()
    for all_of_row, row in zip(everything, kept, strict=True):
        largest = np.sort(np.abs(all_of_row))[-3:]
        np.testing.assert_array_equal(np.sort(np.abs(row[row != 0])), largest)


@pytest.mark.parametrize("architecture", ["temporal", *SKIPS])
def test_without_its_optional_state_decode_is_that_of_the_features_alone(
    server: Running, architecture: str
) -> None:
    sae = loaded(server, name_of(architecture))
    (result,) = encode(server, [TEXTS[1]], name_of(architecture), return_state=True).results
    (encoding,) = result.encodings
    with_state = decode(server, encoding, state=encoding.state)
    without = decode(server, encoding)
    acts = rows_to_csr(encoding.sparse).toarray()
    np.testing.assert_allclose(
        without, acts @ sae.W_dec.numpy() + sae.b_dec.numpy(), rtol=1e-4, atol=1e-4
    )
    assert not np.allclose(with_state, without, atol=1e-2)


def edited(sae: SAE, feature: int, h: Tensor) -> Tensor:
    """D(a') - D(a) for a doubled feature, zero at the BOS."""
    a = reference_encode(sae, h)
    changed = a.clone()
    changed[:, feature] *= 2
    bracket = reference_decode(sae, changed, h) - reference_decode(sae, a, h)
    bracket[0] = 0
    return bracket


def doubled(sae: str, index: int) -> ip.Edit:
    return ip.Edit(feature=ip.FeatureRef(sae=sae, index=index), scale=ip.Scale(factor=2))


def busiest(server: Running, name: str, text: str) -> int:
    (result,) = encode(server, [text], name).results
    return int(np.abs(rows_to_csr(result.encodings[0].sparse).toarray()[1:]).sum(0).argmax())


@pytest.mark.parametrize("architecture", AT_ONE_HOOK)
@pytest.mark.parametrize("use_error_term", [True, False])
def test_splices_and_edits_follow_the_rule(
    server: Running, architecture: str, use_error_term: bool
) -> None:
    name = name_of(architecture)
    sae = loaded(server, name)
    feature = busiest(server, name, TEXTS[2])

    def rule(h: Tensor) -> Tensor:
        spliced = h if use_error_term else reference_decode(sae, reference_encode(sae, h), h)
        return spliced + edited(sae, feature, h)

    response = run(
        server,
        ip.Interventions(
            splices=[ip.Splice(sae=name, use_error_term=use_error_term)],
            edits=[doubled(name, feature)],
        ),
        texts=(TEXTS[2], TEXTS[0]),  # the second is shorter, so it is padded
    )
    close(logits_of(response), reference(server, {str(sae.cfg.hook_name): rule}, TEXTS[2]))
    clean = reference(server, {}, TEXTS[2])
    assert not np.allclose(logits_of(response), clean, atol=1e-3)


@pytest.mark.parametrize("architecture", TRANSCODERS)
@pytest.mark.parametrize("use_error_term", [True, False])
def test_a_transcoder_reads_at_one_hook_point_and_writes_at_another(
    server: Running, architecture: str, use_error_term: bool
) -> None:
    name = name_of(architecture)
    sae = loaded(server, name)
    feature = busiest(server, name, TEXTS[2])
    metadata = sae.cfg.metadata
    x = activations(server, ids_of(server, TEXTS[2])[0].tolist(), str(metadata.hook_name))

    def rule(h: Tensor) -> Tensor:
        spliced = h if use_error_term else reference_decode(sae, reference_encode(sae, x), x)
        return spliced + edited(sae, feature, x)

    response = run(
        server,
        ip.Interventions(
            splices=[ip.Splice(sae=name, use_error_term=use_error_term)],
            edits=[doubled(name, feature)],
        ),
        texts=(TEXTS[2],),
    )
    close(logits_of(response), reference(server, {str(metadata.hook_name_out): rule}, TEXTS[2]))


def refused(call: object, *args: object) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call(*args)  # type: ignore[operator]
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return caught.value


def test_a_temporal_sae_takes_no_flat_activations(server: Running) -> None:
    x = numpy_to_tensor(np.zeros((3, 32), np.float32))
    request = pb.EncodeRequest(
        inputs=[input_pb2.Input(activations=x)],
        options=pb.EncodeOptions(saes=[pb.SAEQuery(sae="further/temporal")]),
    )
    assert "temporal" in str(refused(server.sae.Encode, request).details())


@pytest.mark.parametrize("part", ["splice", "edit", "condition", "watch"])
def test_a_temporal_sae_takes_no_part_in_a_generation(server: Running, part: str) -> None:
    ref = ip.FeatureRef(sae="further/temporal", index=1)
    interventions = {
        "splice": ip.Interventions(splices=[ip.Splice(sae=ref.sae, use_error_term=True)]),
        "edit": ip.Interventions(edits=[doubled(ref.sae, 1)]),
        "condition": ip.Interventions(conditions=[ip.Condition(trigger=ref, stop=ip.Stop())]),
        "watch": ip.Interventions(),
    }[part]
    watch = [pb.Watch(sae=ref.sae, features=[1])] if part == "watch" else []
    request = pb.SteerRequest(
        input=input_pb2.Input(text="a"), interventions=interventions, watch=watch
    )
    assert "temporal" in str(refused(list, server.sae.Steer(request)).details())


@pytest.mark.parametrize("architecture", [name for name in FURTHER if name != "temporal"])
def test_steering_edits_equal_those_of_a_whole_run(server: Running, architecture: str) -> None:
    name = name_of(architecture)
    feature = busiest(server, name, TEXTS[2])
    interventions = ip.Interventions(edits=[doubled(name, feature)])
    ran = run(server, interventions, texts=(TEXTS[2],))
    last = logits_of(ran)[-1]
    request = pb.SteerRequest(
        input=input_pb2.Input(text=TEXTS[2]),
        interventions=interventions,
        sampling=pb.Sampling(temperature=0.0),
        max_new_tokens=1,
    )
    tokens = [event.token.id for event in server.sae.Steer(request) if event.HasField("token")]
    assert tokens[0] == int(last.argmax())
