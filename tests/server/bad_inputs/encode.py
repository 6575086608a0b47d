"""What Encode refuses."""

from __future__ import annotations

from tests.models import story
from tests.server.bad_inputs.calls import (
    ACTS,
    CONTEXT,
    D_MODEL,
    D_SAE,
    D_VOCAB,
    F32,
    IN,
    INF,
    INVALID,
    NAN,
    NOT_FOUND,
    PRECONDITION,
    SAE0,
    TEXT,
    Bad,
    Chat,
    Input,
    Query,
    Selector,
    Tokens,
    activations,
    encode,
    positions,
    query,
    tensor,
    unknown,
    x,
)

from saekit.v1 import input_pb2, tensor_pb2
from saekit.v1 import sae_service_pb2 as pb

ENCODE = [
    Bad("no_inputs", encode(), INVALID, "inputs"),
    Bad("too_many_inputs", encode(*[TEXT] * 1025), INVALID, "inputs"),
    Bad("no_content", encode(Input()), INVALID, IN + "content"),
    Bad("second_input_bad", encode(TEXT, Input()), INVALID, "inputs[1].content"),
    Bad("empty_text", encode(Input(text="")), INVALID, IN + "text"),
    Bad("no_token_ids", encode(Input(tokens=Tokens())), INVALID, IN + "tokens.ids"),
    Bad(
        "token_id_out_of_range",
        encode(Input(tokens=Tokens(ids=[5, D_VOCAB]))),
        INVALID,
        IN + "tokens.ids[1]",
    ),
    Bad(
        "token_id_of_32_bits",
        encode(Input(tokens=Tokens(ids=[2**32 - 1]))),
        INVALID,
        IN + "tokens.ids[0]",
    ),
    Bad("over_long_text", encode(Input(text=story(300))), INVALID, IN + "text"),
    Bad(
        "over_long_tokens",
        encode(Input(tokens=Tokens(ids=[7] * (CONTEXT + 1)))),
        INVALID,
        IN + "tokens",
    ),
    Bad("over_long_id", encode(Input(id="x" * 257, text="a")), INVALID, IN + "id"),
    Bad("chat_without_messages", encode(Input(chat=Chat())), INVALID, IN + "chat.messages"),
    Bad(
        "chat_without_role",
        encode(Input(chat=Chat(messages=[input_pb2.ChatMessage(content="hi")]))),
        INVALID,
        IN + "chat.messages[0].role",
    ),
    Bad(
        "chat_of_a_role_that_the_template_refuses",
        encode(Input(chat=Chat(messages=[input_pb2.ChatMessage(role="pope", content="hi")]))),
        INVALID,
        IN + "chat",
    ),
    Bad("no_saes", encode(TEXT, saes=()), INVALID, "options.saes"),
    Bad("sae_without_name", query(sae=""), INVALID, SAE0 + "sae"),
    Bad("unknown_sae", query(sae="jumpreluu"), NOT_FOUND, SAE0 + "sae"),
    Bad("path_traversal_in_an_sae_name", query(sae="../saes/jumprelu"), NOT_FOUND, SAE0 + "sae"),
    Bad("unknown_revision", query(sae="jumprelu@000000000000"), PRECONDITION, SAE0 + "sae"),
    Bad("empty_revision", query(sae="jumprelu@"), PRECONDITION, SAE0 + "sae"),
    Bad(
        "same_query_twice", encode(TEXT, saes=(Query(sae="topk"),) * 2), INVALID, "options.saes[1]"
    ),
    Bad("k_zero", query(top_k=0), INVALID, SAE0 + "top_k"),
    Bad("k_above_d_sae", query(top_k=D_SAE + 1), INVALID, SAE0 + "top_k"),
    Bad("no_features", query(features=pb.FeatureList()), INVALID, SAE0 + "features.indices"),
    Bad(
        "feature_out_of_range",
        query(features=pb.FeatureList(indices=[D_SAE])),
        INVALID,
        SAE0 + "features.indices",
    ),
    Bad(
        "duplicate_features",
        query(features=pb.FeatureList(indices=[1, 1])),
        INVALID,
        SAE0 + "features.indices",
    ),
    Bad("dense_top_k", query(top_k=3, dense=True), INVALID, SAE0 + "dense"),
    Bad(
        "state_of_pooled_rows",
        query(pooling=pb.POOLING_MAX, return_state=True),
        INVALID,
        SAE0 + "return_state",
    ),
    Bad(
        "values_as_integers",
        query(value_dtype=tensor_pb2.DATA_TYPE_I32),
        INVALID,
        SAE0 + "value_dtype",
    ),
    Bad("unknown_pooling", query(pooling=77), INVALID, SAE0 + "pooling"),
    Bad("unknown_priority", encode(TEXT, priority=9), INVALID, "options.priority"),
    Bad("unknown_over_length", encode(TEXT, over_length=9), INVALID, "options.over_length"),
    Bad("unknown_model", encode(TEXT, model="gpt-5"), INVALID, "options.model"),
    Bad(
        "unknown_field",
        lambda s: s.sae.Encode(unknown(pb.EncodeRequest(inputs=[TEXT]))),
        INVALID,
        "1023",
    ),
    Bad("unknown_field_of_an_input", encode(unknown(TEXT)), INVALID, IN + "1023"),
    Bad(
        "saes_that_disagree_on_the_bos",
        encode(TEXT, saes=(Query(sae="jumprelu"), Query(sae="bad/without_bos"))),
        INVALID,
        "options.prepend_bos",
    ),
]
POSITIONS = [
    Bad("last_n_zero", positions(last_n=0), INVALID, SAE0 + "positions.last_n"),
    Bad(
        "no_ranges",
        positions(ranges=input_pb2.PositionRanges()),
        INVALID,
        SAE0 + "positions.ranges.ranges",
    ),
    Bad(
        "no_roles", positions(roles=input_pb2.ChatRoles()), INVALID, SAE0 + "positions.roles.roles"
    ),
    Bad(
        "roles_without_a_chat",
        positions(roles=input_pb2.ChatRoles(roles=["user"])),
        INVALID,
        SAE0 + "positions.roles",
    ),
    Bad(
        "generated_positions_in_encode",
        positions(region=Selector.REGION_GENERATED),
        INVALID,
        SAE0 + "positions.region",
    ),
    Bad("unknown_region", positions(region=44), INVALID, SAE0 + "positions.region"),
]
POSITIONS += [
    Bad(
        f"{name}_range",
        positions(
            ranges=input_pb2.PositionRanges(ranges=[input_pb2.PositionRange(start=start, end=end)])
        ),
        INVALID,
        SAE0 + "positions.ranges.ranges[0]",
    )
    for name, start, end in (
        ("empty", 3, 3),
        ("outside", 0, 5000),
        ("negative_outside", -500, None),
        ("int64", 2**63 - 1, None),
    )
]
ACTIVATIONS = [
    Bad("nan_activations", activations(x(2, D_MODEL, fill=NAN)), INVALID, ACTS + "data"),
    Bad("infinite_activations", activations(x(2, D_MODEL, fill=-INF)), INVALID, ACTS + "data"),
    Bad("wrong_width", activations(x(2, D_MODEL - 1)), INVALID, ACTS + "shape"),
    Bad("one_axis", activations(x(D_MODEL)), INVALID, ACTS + "shape"),
    Bad("scalar", activations(tensor([], F32)), INVALID, ACTS + "shape"),
    Bad("no_rows", activations(x(0, D_MODEL)), INVALID, ACTS + "shape"),
    Bad(
        "too_few_bytes",
        activations(tensor([1, D_MODEL], bytes(4 * D_MODEL - 1))),
        INVALID,
        ACTS + "data",
    ),
    Bad(
        "too_many_bytes",
        activations(tensor([1, D_MODEL], bytes(4 * D_MODEL + 4))),
        INVALID,
        ACTS + "data",
    ),
    Bad(
        "negative_shape",
        activations(tensor([-1, -D_MODEL], bytes(4 * D_MODEL))),
        INVALID,
        ACTS + "shape",
    ),
    Bad("overflowing_shape", activations(tensor([2**62, 16])), INVALID, ACTS + "data"),
    Bad("overflowing_empty_shape", activations(tensor([0, 2**62, 2**62])), INVALID, ACTS + "shape"),
    Bad("too_many_axes", activations(tensor([1] * 9, F32)), INVALID, ACTS + "shape"),
    Bad("unspecified_dtype", activations(tensor([1, 1], F32, 0)), INVALID, ACTS + "dtype"),
    Bad(
        "integer_activations",
        activations(tensor([1, 1], F32, tensor_pb2.DATA_TYPE_I32)),
        INVALID,
        ACTS + "dtype",
    ),
    Bad("unknown_dtype", activations(tensor([1, 1], F32, 99)), INVALID, ACTS + "dtype"),
    Bad("several_hook_points", activations(x(2, D_MODEL), "jumprelu", "topk"), INVALID, ACTS[:-1]),
    Bad("too_many_rows", activations(x(70_000, D_MODEL)), INVALID, "inputs[0]"),
    Bad(
        "roles_of_activations",
        activations(x(2, D_MODEL), positions=Selector(roles=input_pb2.ChatRoles(roles=["user"]))),
        INVALID,
        SAE0 + "positions.roles",
    ),
]
