"""Requests that cannot be answered: each names its field, and the server goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tests.models import build_llama, story
from tests.saes import random_sae, write_sae
from tests.serving import Running, serving

from saekit.codec import CSR, numpy_to_tensor, rows_to_csr, sparse_rows
from saekit.v1 import input_pb2, intervention_pb2, tensor_pb2
from saekit.v1 import registry_service_pb2 as registry
from saekit.v1 import sae_service_pb2 as pb
from saekit_core.sae import SAE, write_sae_folder
from saekit_server.config import ServeConfig
from saekit_server.errors import unavailable
from saekit_server.wire.status import status_message

D_MODEL, D_SAE, D_VOCAB, CONTEXT, SLOTS = 32, 96, 400, 96, 20
RESID = "blocks.2.hook_resid_pre"
INVALID, NOT_FOUND, PRECONDITION = "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"
EXISTS = "ALREADY_EXISTS"

Input, Tokens, Chat, Query = input_pb2.Input, input_pb2.Tokens, input_pb2.Chat, pb.SAEQuery
Selector = input_pb2.PositionSelector
Edit, FeatureRef = intervention_pb2.Edit, intervention_pb2.FeatureRef
Interventions, Condition = intervention_pb2.Interventions, intervention_pb2.Condition

# ---- calls, each of one bad thing and nothing else that is wrong


@dataclass(frozen=True)
class Bad:
    """A request that must fail, with what, and at which field."""

    name: str
    call: Callable[[Running], object]
    code: str
    field: str


def _unknown(message: Message) -> Any:
    """The message with a field that no version of it has."""
    made = type(message)()
    made.CopyFrom(message)
    made.MergeFromString(bytes([0xF8, 0x3F, 1]))  # number 1023, varint 1
    return made


TEXT = Input(text="The cat sat.")


def encode(*inputs: Input, saes: tuple[Query, ...] = (Query(sae="jumprelu"),), **options: Any) -> Any:
    request = pb.EncodeRequest(inputs=inputs, options=pb.EncodeOptions(saes=saes, **options))
    return lambda server: server.sae.Encode(request)


def query(**settings: Any) -> Any:
    return encode(TEXT, saes=(Query(**{"sae": "jumprelu", **settings}),))


def positions(**settings: Any) -> Any:
    return query(positions=Selector(**settings))


def activations(tensor: tensor_pb2.Tensor, *saes: str, **settings: Any) -> Any:
    queries = tuple(Query(sae=sae, **settings) for sae in saes or ("jumprelu",))
    return encode(Input(activations=tensor), saes=queries)


def x(*shape: int, fill: float = 1.0) -> tensor_pb2.Tensor:
    return numpy_to_tensor(np.full(shape, fill, np.float32))


def tensor(shape: list[int], data: bytes = b"", code: int = tensor_pb2.DATA_TYPE_F32) -> Any:
    return tensor_pb2.Tensor(dtype=code, shape=shape, data=data)  # type: ignore[arg-type]


def u32(*values: int) -> bytes:
    return np.array(values, np.uint32).tobytes()


def rows(**changes: Any) -> tensor_pb2.SparseRows:
    """Two rows of three activations, and what is changed about them."""
    parts: dict[str, Any] = {
        "shape": [2, D_SAE],
        "indptr": u32(0, 2, 3),
        "indices": u32(4, 9, 4),
        "value_dtype": tensor_pb2.DATA_TYPE_F32,
        "values": np.ones(3, np.float32).tobytes(),
    }
    return tensor_pb2.SparseRows(**{**parts, **changes})


def decode(*items: pb.DecodeItem, **options: Any) -> Any:
    request = pb.DecodeRequest(items=items, options=pb.DecodeOptions(**options))
    return lambda server: server.sae.Decode(request)


def csr(**changes: Any) -> Any:
    return decode(pb.DecodeItem(sae="jumprelu", sparse=rows(**changes)))


def normed(sae: str = "normed/layer_norm", **state: Any) -> Any:
    return decode(pb.DecodeItem(sae=sae, sparse=rows(), state=tensor_pb2.EncodeState(**state)))


LOSS = pb.RunReturns(loss=True)


def run(*inputs: Input, returns: pb.RunReturns = LOSS, **options: Any) -> Any:
    made = pb.RunOptions(returns=returns, **options)
    request = pb.RunWithSAEsRequest(inputs=inputs or (TEXT,), options=made)
    return lambda server: server.sae.RunWithSAEs(request)


def interventions(**settings: Any) -> Any:
    return run(interventions=Interventions(**settings))


def edit(**settings: Any) -> Any:
    return interventions(edits=[Edit(**settings)])


F = FeatureRef(sae="jumprelu", index=3)
AT = "options.interventions."


def feature_edit(**settings: Any) -> Any:
    return edit(feature=F, **settings)


def direction(vector: tensor_pb2.Tensor | None = None, hook: str = RESID, **settings: Any) -> Any:
    settings.setdefault("add", intervention_pb2.Add(amount=1))
    made = intervention_pb2.Direction(hook_name=hook, vector=vector)
    return edit(direction=made, **settings)


def condition(**settings: Any) -> Any:
    return interventions(conditions=[Condition(**{"trigger": F, **settings})])


def splice(*saes: str, **settings: Any) -> Any:
    return interventions(splices=[intervention_pb2.Splice(sae=sae, **settings) for sae in saes])


def steer(sampling: pb.Sampling | None = None, **settings: Any) -> Any:
    request = pb.SteerRequest(**{"input": TEXT, "sampling": sampling, **settings})
    return lambda server: list(server.sae.Steer(request))


def sampling(**settings: Any) -> Any:
    return steer(pb.Sampling(**settings))


def load(source: str, **settings: Any) -> Any:
    request = registry.LoadSAERequest(source=source, **settings)
    return lambda server: server.registry.LoadSAE(request)


def features(**settings: Any) -> Any:
    request = registry.GetFeaturesRequest(**{"sae": "jumprelu", **settings})
    return lambda server: server.registry.GetFeatures(request)


def tokenize(*inputs: Input) -> Any:
    request = registry.TokenizeRequest(inputs=inputs)
    return lambda server: server.registry.Tokenize(request)


def stream(rpc: str, *messages: Message) -> Any:
    return lambda server: list(getattr(server.sae, rpc)(iter(messages)))


NAN, INF = float("nan"), float("inf")
ONE = intervention_pb2.Add(amount=1)
STREAM_OPTIONS = pb.EncodeOptions(saes=[Query(sae="jumprelu")])
IN, ACTS, SAE0 = "inputs[0].", "inputs[0].activations.", "options.saes[0]."
SPARSE, STATE = "items[0].sparse.", "items[0].state."
EDIT0, SPLICE1, CONDITION0 = AT + "edits[0].", AT + "splices[1].", AT + "conditions[0]."
F32 = np.float32(1).tobytes()

ENCODE = [
    Bad("no_inputs", encode(), INVALID, "inputs"),
    Bad("too_many_inputs", encode(*[TEXT] * 1025), INVALID, "inputs"),
    Bad("no_content", encode(Input()), INVALID, IN + "content"),
    Bad("second_input_bad", encode(TEXT, Input()), INVALID, "inputs[1].content"),
    Bad("empty_text", encode(Input(text="")), INVALID, IN + "text"),
    Bad("no_token_ids", encode(Input(tokens=Tokens())), INVALID, IN + "tokens.ids"),
    Bad("token_id_out_of_range", encode(Input(tokens=Tokens(ids=[5, D_VOCAB]))), INVALID, IN + "tokens.ids[1]"),
    Bad("token_id_of_32_bits", encode(Input(tokens=Tokens(ids=[2**32 - 1]))), INVALID, IN + "tokens.ids[0]"),
    Bad("over_long_text", encode(Input(text=story(300))), INVALID, IN + "text"),
    Bad("over_long_tokens", encode(Input(tokens=Tokens(ids=[7] * (CONTEXT + 1)))), INVALID, IN + "tokens"),
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
    Bad("same_query_twice", encode(TEXT, saes=(Query(sae="topk"),) * 2), INVALID, "options.saes[1]"),
    Bad("k_zero", query(top_k=0), INVALID, SAE0 + "top_k"),
    Bad("k_above_d_sae", query(top_k=D_SAE + 1), INVALID, SAE0 + "top_k"),
    Bad("no_features", query(features=pb.FeatureList()), INVALID, SAE0 + "features.indices"),
    Bad("feature_out_of_range", query(features=pb.FeatureList(indices=[D_SAE])), INVALID, SAE0 + "features.indices"),
    Bad("duplicate_features", query(features=pb.FeatureList(indices=[1, 1])), INVALID, SAE0 + "features.indices"),
    Bad("dense_top_k", query(top_k=3, dense=True), INVALID, SAE0 + "dense"),
    Bad("state_of_pooled_rows", query(pooling=pb.POOLING_MAX, return_state=True), INVALID, SAE0 + "return_state"),
    Bad("values_as_integers", query(value_dtype=tensor_pb2.DATA_TYPE_I32), INVALID, SAE0 + "value_dtype"),
    Bad("unknown_pooling", query(pooling=77), INVALID, SAE0 + "pooling"),
    Bad("unknown_priority", encode(TEXT, priority=9), INVALID, "options.priority"),
    Bad("unknown_over_length", encode(TEXT, over_length=9), INVALID, "options.over_length"),
    Bad("unknown_model", encode(TEXT, model="gpt-5"), INVALID, "options.model"),
    Bad("unknown_field", lambda s: s.sae.Encode(_unknown(pb.EncodeRequest(inputs=[TEXT]))), INVALID, "1023"),
    Bad("unknown_field_of_an_input", encode(_unknown(TEXT)), INVALID, IN + "1023"),
    Bad(
        "saes_that_disagree_on_the_bos",
        encode(TEXT, saes=(Query(sae="jumprelu"), Query(sae="bad/without_bos"))),
        INVALID,
        "options.prepend_bos",
    ),
]
POSITIONS = [
    Bad("last_n_zero", positions(last_n=0), INVALID, SAE0 + "positions.last_n"),
    Bad("no_ranges", positions(ranges=input_pb2.PositionRanges()), INVALID, SAE0 + "positions.ranges.ranges"),
    Bad("no_roles", positions(roles=input_pb2.ChatRoles()), INVALID, SAE0 + "positions.roles.roles"),
    Bad("roles_without_a_chat", positions(roles=input_pb2.ChatRoles(roles=["user"])), INVALID, SAE0 + "positions.roles"),
    Bad("generated_positions_in_encode", positions(region=Selector.REGION_GENERATED), INVALID, SAE0 + "positions.region"),
    Bad("unknown_region", positions(region=44), INVALID, SAE0 + "positions.region"),
]
POSITIONS += [
    Bad(
        f"{name}_range",
        positions(ranges=input_pb2.PositionRanges(ranges=[input_pb2.PositionRange(start=start, end=end)])),
        INVALID,
        SAE0 + "positions.ranges.ranges[0]",
    )
    for name, start, end in (("empty", 3, 3), ("outside", 0, 5000), ("negative_outside", -500, None), ("int64", 2**63 - 1, None))
]
ACTIVATIONS = [
    Bad("nan_activations", activations(x(2, D_MODEL, fill=NAN)), INVALID, ACTS + "data"),
    Bad("infinite_activations", activations(x(2, D_MODEL, fill=-INF)), INVALID, ACTS + "data"),
    Bad("wrong_width", activations(x(2, D_MODEL - 1)), INVALID, ACTS + "shape"),
    Bad("one_axis", activations(x(D_MODEL)), INVALID, ACTS + "shape"),
    Bad("scalar", activations(tensor([], F32)), INVALID, ACTS + "shape"),
    Bad("no_rows", activations(x(0, D_MODEL)), INVALID, ACTS + "shape"),
    Bad("too_few_bytes", activations(tensor([1, D_MODEL], bytes(4 * D_MODEL - 1))), INVALID, ACTS + "data"),
    Bad("too_many_bytes", activations(tensor([1, D_MODEL], bytes(4 * D_MODEL + 4))), INVALID, ACTS + "data"),
    Bad("negative_shape", activations(tensor([-1, -D_MODEL], bytes(4 * D_MODEL))), INVALID, ACTS + "shape"),
    Bad("overflowing_shape", activations(tensor([2**62, 16])), INVALID, ACTS + "data"),
    Bad("overflowing_empty_shape", activations(tensor([0, 2**62, 2**62])), INVALID, ACTS + "shape"),
    Bad("too_many_axes", activations(tensor([1] * 9, F32)), INVALID, ACTS + "shape"),
    Bad("unspecified_dtype", activations(tensor([1, 1], F32, 0)), INVALID, ACTS + "dtype"),
    Bad("integer_activations", activations(tensor([1, 1], F32, tensor_pb2.DATA_TYPE_I32)), INVALID, ACTS + "dtype"),
    Bad("unknown_dtype", activations(tensor([1, 1], F32, 99)), INVALID, ACTS + "dtype"),
    Bad("several_hook_points", activations(x(2, D_MODEL), "jumprelu", "topk"), INVALID, ACTS[:-1]),
    Bad("too_many_rows", activations(x(70_000, D_MODEL)), INVALID, ACTS + "shape"),
    Bad(
        "roles_of_activations",
        activations(x(2, D_MODEL), positions=Selector(roles=input_pb2.ChatRoles(roles=["user"]))),
        INVALID,
        SAE0 + "positions.roles",
    ),
]
DECODE = [
    Bad("no_items", decode(), INVALID, "items"),
    Bad("too_many_items", decode(*[pb.DecodeItem()] * 1025), INVALID, "items"),
    Bad("no_feature_activations", decode(pb.DecodeItem(sae="jumprelu")), INVALID, "items[0].features"),
    Bad("decode_by_no_sae", decode(pb.DecodeItem(sparse=rows())), INVALID, "items[0].sae"),
    Bad("decode_by_an_unknown_sae", decode(pb.DecodeItem(sae="no", sparse=rows())), NOT_FOUND, "items[0].sae"),
    Bad("decode_to_integers", decode(pb.DecodeItem(), dtype=tensor_pb2.DATA_TYPE_U32), INVALID, "options.dtype"),
    Bad("decode_by_an_unknown_model", decode(pb.DecodeItem(), model="x"), INVALID, "options.model"),
    Bad("csr_of_another_width", csr(shape=[2, D_SAE + 1]), INVALID, SPARSE + "shape"),
    Bad("csr_of_three_axes", csr(shape=[2, D_SAE, 1]), INVALID, SPARSE + "shape"),
    Bad("csr_of_negative_rows", csr(shape=[-2, D_SAE]), INVALID, SPARSE + "shape"),
    Bad("csr_of_overflowing_rows", csr(shape=[2**62, D_SAE]), INVALID, SPARSE + "shape"),
    Bad("csr_without_rows", csr(shape=[0, D_SAE], indptr=u32(0), indices=b"", values=b""), INVALID, SPARSE + "shape"),
    Bad("indptr_too_short", csr(indptr=u32(0, 3)), INVALID, SPARSE + "indptr"),
    Bad("indptr_not_from_zero", csr(indptr=u32(1, 2, 3)), INVALID, SPARSE + "indptr"),
    Bad("indptr_that_falls", csr(indptr=u32(0, 3, 2)), INVALID, SPARSE + "indptr"),
    Bad("indptr_beyond_the_values", csr(indptr=u32(0, 2, 2**32 - 1)), INVALID, SPARSE + "indices"),
    Bad("indices_too_long", csr(indices=u32(4, 9, 4, 5)), INVALID, SPARSE + "indices"),
    Bad("values_too_short", csr(values=F32 * 2), INVALID, SPARSE + "values"),
    Bad("values_of_integers", csr(value_dtype=tensor_pb2.DATA_TYPE_I32), INVALID, SPARSE + "value_dtype"),
    Bad("index_out_of_range", csr(indices=u32(4, D_SAE, 4)), INVALID, SPARSE + "indices"),
    Bad("indices_that_fall", csr(indices=u32(9, 4, 4)), INVALID, SPARSE + "indices"),
    Bad("index_twice_in_a_row", csr(indices=u32(4, 4, 4)), INVALID, SPARSE + "indices"),
    Bad("nan_feature_activations", csr(values=np.float32([1, NAN, 1]).tobytes()), INVALID, SPARSE + "values"),
    Bad("dense_of_another_width", decode(pb.DecodeItem(sae="topk", dense=x(2, 3))), INVALID, "items[0].dense.shape"),
    Bad("dense_of_one_axis", decode(pb.DecodeItem(sae="topk", dense=x(D_SAE))), INVALID, "items[0].dense.shape"),
    Bad("dense_nan", decode(pb.DecodeItem(sae="topk", dense=x(1, D_SAE, fill=NAN))), INVALID, "items[0].dense.data"),
    Bad("no_state", normed(), INVALID, STATE + "mean"),
    Bad("half_a_state", normed(mean=x(2, 1)), INVALID, STATE + "std"),
    Bad("no_scale", normed("normed/rescaled"), INVALID, STATE + "scale"),
    Bad("state_of_another_shape", normed(mean=x(3, 1), std=x(2, 1)), INVALID, STATE + "mean.shape"),
    Bad("state_of_nan", normed(mean=x(2, 1), std=x(2, 1, fill=NAN)), INVALID, STATE + "std.data"),
    Bad("scale_of_zero", normed("normed/rescaled", scale=x(2, 1, fill=0)), INVALID, STATE + "scale.data"),
    Bad("state_that_is_not_needed", normed("jumprelu", mean=x(2, 1)), INVALID, STATE + "mean"),
    Bad("heads_that_there_are_not", normed("heads", head_shape=[4, 9]), INVALID, STATE + "head_shape"),
]
RUN = [
    Bad("run_of_nothing", lambda s: s.sae.RunWithSAEs(pb.RunWithSAEsRequest(options=pb.RunOptions(returns=LOSS))), INVALID, "inputs"),
    Bad("run_of_activations", run(Input(activations=x(2, D_MODEL))), INVALID, IN + "activations"),
    Bad("nothing_asked_for", run(returns=pb.RunReturns()), INVALID, "options.returns"),
    Bad("run_by_an_unknown_model", run(model="x"), INVALID, "options.model"),
    Bad("windows_in_a_run", run(over_length=input_pb2.OVER_LENGTH_WINDOWS), INVALID, "options.over_length"),
    Bad("top_k_logits_without_logits", run(returns=pb.RunReturns(loss=True, top_k_logits=2)), INVALID, "options.returns.top_k_logits"),
    Bad("no_top_logits", run(returns=pb.RunReturns(logits=pb.LOGITS_ROWS_LAST, top_k_logits=0)), INVALID, "options.returns.top_k_logits"),
    Bad("top_logits_beyond_d_vocab", run(returns=pb.RunReturns(logits=pb.LOGITS_ROWS_LAST, top_k_logits=D_VOCAB + 1)), INVALID, "options.returns.top_k_logits"),
    Bad("activations_of_no_hook_point", run(returns=pb.RunReturns(activations=["blocks.9.hook_resid_pre"])), INVALID, "options.returns.activations[0]"),
    Bad("features_of_no_sae", run(returns=pb.RunReturns(features=[Query(sae="no")])), NOT_FOUND, "options.returns.features[0].sae"),
    Bad("splice_of_no_sae", splice("no"), NOT_FOUND, AT + "splices[0].sae"),
    Bad("splice_twice", splice("jumprelu", "jumprelu", use_error_term=True), INVALID, SPLICE1[:-1]),
    Bad("two_without_error_term", splice("jumprelu", "normed/layer_norm"), INVALID, SPLICE1 + "use_error_term"),
    Bad("splice_at_roles_without_a_chat", splice("topk", positions=Selector(roles=input_pb2.ChatRoles(roles=["user"]))), INVALID, AT + "splices[0].positions.roles"),
    Bad("edit_of_nothing", edit(add=ONE), INVALID, EDIT0 + "target"),
    Bad("edit_without_operation", edit(feature=F), INVALID, EDIT0 + "operation"),
    Bad("edit_of_a_feature_out_of_range", edit(feature=FeatureRef(sae="topk", index=D_SAE), add=ONE), INVALID, EDIT0 + "feature.index"),
    Bad("project_a_feature", feature_edit(project=intervention_pb2.Project(coefficient=0)), INVALID, EDIT0 + "project"),
    Bad("add_nan", feature_edit(add=intervention_pb2.Add(amount=NAN)), INVALID, EDIT0 + "add.amount"),
    Bad("set_infinity", feature_edit(set=intervention_pb2.Set(value=INF)), INVALID, EDIT0 + "set.value"),
    Bad("scale_by_nan", feature_edit(scale=intervention_pb2.Scale(factor=NAN)), INVALID, EDIT0 + "scale.factor"),
    Bad("set_in_unit_norm", feature_edit(set=intervention_pb2.Set(value=1, unit=intervention_pb2.UNIT_UNIT_NORM)), INVALID, EDIT0 + "set.unit"),
    Bad("unknown_unit", feature_edit(add=intervention_pb2.Add(amount=1, unit=8)), INVALID, EDIT0 + "add.unit"),
    Bad("clip_to_nothing", feature_edit(clip=intervention_pb2.Clip()), INVALID, EDIT0 + "clip.lo"),
    Bad("clip_upside_down", feature_edit(clip=intervention_pb2.Clip(lo=2, hi=1)), INVALID, EDIT0 + "clip.lo"),
    Bad("clip_to_nan", feature_edit(clip=intervention_pb2.Clip(lo=NAN)), INVALID, EDIT0 + "clip.lo"),
    Bad(
        "maxima_that_were_not_recorded",
        edit(feature=FeatureRef(sae="heads", index=1), add=intervention_pb2.Add(amount=1, unit=intervention_pb2.UNIT_MAX_ACTIVATION)),
        PRECONDITION,
        EDIT0 + "add.unit",
    ),
    Bad("direction_without_source", direction(), INVALID, EDIT0 + "direction.source"),
    Bad("direction_without_hook_point", direction(x(D_MODEL), ""), INVALID, EDIT0 + "direction.hook_name"),
    Bad("direction_at_no_hook_point", direction(x(D_MODEL), "blocks.9.hook_resid_pre"), INVALID, EDIT0 + "direction.hook_name"),
    Bad("zero_direction", direction(x(D_MODEL, fill=0)), INVALID, EDIT0 + "direction.vector"),
    Bad("nan_direction", direction(x(D_MODEL, fill=NAN)), INVALID, EDIT0 + "direction.vector"),
    Bad("direction_of_another_width", direction(x(D_MODEL + 1)), INVALID, EDIT0 + "direction.vector"),
    Bad("set_a_direction", direction(x(D_MODEL), set=intervention_pb2.Set(value=1), add=None), INVALID, EDIT0 + "set"),
    Bad("direction_in_maxima", direction(x(D_MODEL), add=intervention_pb2.Add(amount=1, unit=intervention_pb2.UNIT_MAX_ACTIVATION)), INVALID, EDIT0 + "add.unit"),
    Bad("project_by_nan", direction(x(D_MODEL), project=intervention_pb2.Project(coefficient=NAN), add=None), INVALID, EDIT0 + "project.coefficient"),
    Bad("preserve_norm_of_nothing", interventions(preserve_norm=True), INVALID, AT + "preserve_norm"),
    Bad("stop_where_nothing_is_generated", condition(stop=intervention_pb2.Stop()), INVALID, CONDITION0 + "stop"),
    Bad("condition_without_action", condition(), INVALID, CONDITION0 + "action"),
    Bad("condition_without_edits", condition(apply_here=intervention_pb2.EditList()), INVALID, CONDITION0 + "apply_here.edits"),
    Bad("nan_threshold", condition(threshold=NAN, apply_here=intervention_pb2.EditList(edits=[Edit(feature=F, add=ONE)])), INVALID, CONDITION0 + "threshold"),
    Bad(
        "trigger_behind_its_edits",
        condition(apply_here=intervention_pb2.EditList(edits=[Edit(feature=FeatureRef(sae="topk", index=1), add=ONE)])),
        INVALID,
        CONDITION0 + "apply_here.edits[0]",
    ),
]
STEER = [
    Bad("steer_nothing", steer(input=None), INVALID, "input"),
    Bad("steer_an_empty_input", steer(input=Input()), INVALID, "input.content"),
    Bad("steer_activations", steer(input=Input(activations=x(2, D_MODEL))), INVALID, "input.activations"),
    Bad("steer_an_over_long_input", steer(input=Input(tokens=Tokens(ids=[7] * 90))), INVALID, "input.tokens"),
    Bad("steer_an_unknown_model", steer(model="x"), INVALID, "model"),
    Bad("steer_windows", steer(over_length=input_pb2.OVER_LENGTH_WINDOWS), INVALID, "over_length"),
    Bad("no_choice", steer(n=0), INVALID, "n"),
    Bad("too_many_choices", steer(n=17), INVALID, "n"),
    Bad("more_rows_than_slots", steer(n=11, baseline=True), INVALID, "n"),
    Bad("no_new_tokens", steer(max_new_tokens=0), INVALID, "max_new_tokens"),
    Bad("more_new_tokens_than_fit", steer(max_new_tokens=CONTEXT), INVALID, "max_new_tokens"),
    Bad("empty_stop_string", steer(stop=["."] + [""]), INVALID, "stop[1]"),
    Bad("too_many_stop_strings", steer(stop=["."] * 17), INVALID, "stop"),
    Bad("too_many_top_logprobs", steer(top_logprobs=21), INVALID, "top_logprobs"),
    Bad("watch_nothing", steer(watch=[pb.Watch(sae="jumprelu")]), INVALID, "watch[0].features"),
    Bad("watch_out_of_range", steer(watch=[pb.Watch(sae="jumprelu", features=[1, D_SAE])]), INVALID, "watch[0].features[1]"),
    Bad("watch_no_sae", steer(watch=[pb.Watch(sae="no", features=[1])]), NOT_FOUND, "watch[0].sae"),
    Bad("negative_temperature", sampling(temperature=-1), INVALID, "sampling.temperature"),
    Bad("nan_temperature", sampling(temperature=NAN), INVALID, "sampling.temperature"),
    Bad("top_k_zero", sampling(top_k=0), INVALID, "sampling.top_k"),
    Bad("top_p_zero", sampling(top_p=0), INVALID, "sampling.top_p"),
    Bad("top_p_above_one", sampling(top_p=1.5), INVALID, "sampling.top_p"),
    Bad("min_p_above_one", sampling(min_p=2), INVALID, "sampling.min_p"),
    Bad("frequency_penalty_too_large", sampling(frequency_penalty=3), INVALID, "sampling.frequency_penalty"),
    Bad("nan_presence_penalty", sampling(presence_penalty=NAN), INVALID, "sampling.presence_penalty"),
    Bad("repetition_penalty_of_zero", sampling(repetition_penalty=0), INVALID, "sampling.repetition_penalty"),
    Bad("unknown_field_of_sampling", steer(_unknown(pb.Sampling())), INVALID, "sampling.1023"),
]
LOAD = [
    Bad("load_nothing", load(""), INVALID, "source"),
    Bad("load_a_folder_that_is_not_there", load("no/such"), NOT_FOUND, "source"),
    Bad("load_from_above_the_root", load("../saes/jumprelu", sae_id="new"), INVALID, "source"),
    Bad("load_a_file_from_above_the_root", load("file:../saes/jumprelu", sae_id="new"), INVALID, "source"),
    Bad("load_an_absolute_folder", load("file:/etc", sae_id="new"), INVALID, "source"),
    Bad("load_through_a_link", load("bad/link", sae_id="new"), INVALID, "source"),
    Bad("load_under_a_name_with_dots", load("jumprelu", sae_id="../jumprelu"), INVALID, "sae_id"),
    Bad("load_under_an_impossible_name", load("jumprelu", sae_id="a b"), INVALID, "sae_id"),
    Bad("load_what_is_loaded", load("jumprelu"), EXISTS, "sae_id"),
    Bad("load_another_revision", load("bad/other", sae_id="new", expected_revision="0" * 12), PRECONDITION, "expected_revision"),
    Bad("load_another_width", load("bad/d_in"), PRECONDITION, "source"),
    Bad("load_at_no_hook_point", load("bad/hook"), PRECONDITION, "source"),
    Bad("truncated_weights", load("bad/truncated"), PRECONDITION, "source"),
    Bad("weights_that_lie_of_their_length", load("bad/lying_length"), PRECONDITION, "source"),
    Bad("weights_that_lie_of_their_shape", load("bad/lying_shape"), PRECONDITION, "source"),
    Bad("weights_that_overlap", load("bad/overlapping"), PRECONDITION, "source"),
    Bad("weights_of_nan", load("bad/nan"), PRECONDITION, "source"),
    Bad("no_weights", load("bad/no_weights"), PRECONDITION, "source"),
    Bad("cfg_that_is_no_json", load("bad/cfg_text"), PRECONDITION, "source"),
    Bad("cfg_that_is_a_list", load("bad/cfg_list"), PRECONDITION, "source"),
    Bad("cfg_with_a_text_for_d_in", load("bad/cfg_d_in"), PRECONDITION, "source"),
    Bad("cfg_of_another_size", load("bad/cfg_size"), PRECONDITION, "source"),
]
REGISTRY = [
    Bad("get_nothing", lambda s: s.registry.GetSAE(registry.GetSAERequest()), INVALID, "sae"),
    Bad("get_an_unknown_sae", lambda s: s.registry.GetSAE(registry.GetSAERequest(sae="no")), NOT_FOUND, "sae"),
    Bad("unload_nothing", lambda s: s.registry.UnloadSAE(registry.UnloadSAERequest()), INVALID, "sae"),
    Bad("unload_an_unknown_sae", lambda s: s.registry.UnloadSAE(registry.UnloadSAERequest(sae="no")), NOT_FOUND, "sae"),
    Bad("list_no_hook_point", lambda s: s.registry.ListSAEs(registry.ListSAEsRequest(hook_name="blocks.9")), INVALID, "hook_name"),
    Bad("unknown_field_of_get_model", lambda s: s.registry.GetModel(_unknown(registry.GetModelRequest())), INVALID, "1023"),
    Bad("unknown_field_of_a_watch", lambda s: list(s.registry.WatchSAEs(_unknown(registry.WatchSAEsRequest()))), INVALID, "1023"),
    Bad("tokenize_nothing", tokenize(), INVALID, "inputs"),
    Bad("tokenize_no_content", tokenize(TEXT, Input()), INVALID, "inputs[1].content"),
    Bad("tokenize_activations", tokenize(Input(activations=x(2, D_MODEL))), INVALID, IN + "activations"),
    Bad("tokenize_an_over_long_id", tokenize(Input(id="x" * 257, text="a")), INVALID, IN + "id"),
    Bad("features_of_an_unknown_sae", features(sae="no", indices=[1]), NOT_FOUND, "sae"),
    Bad("features_of_neither_kind", features(), INVALID, "indices"),
    Bad("features_of_both_kinds", features(indices=[1], search="cat"), INVALID, "indices"),
    Bad("features_out_of_range", features(indices=[1, D_SAE]), INVALID, "indices[1]"),
    Bad("too_many_features", features(indices=[1] * 4097), INVALID, "indices"),
    Bad("too_much_logit_lens", features(indices=[1], logit_lens=51), INVALID, "logit_lens"),
    Bad("too_many_neighbours", features(indices=[1], neighbours=51), INVALID, "neighbours"),
    Bad("too_many_examples", features(indices=[1], examples=21), INVALID, "examples"),
]
STREAMS = [
    Bad("stream_of_nothing", stream("EncodeStream"), INVALID, "options"),
    Bad("stream_without_options", stream("EncodeStream", pb.EncodeStreamRequest(input=TEXT)), INVALID, "options"),
    Bad("stream_of_bad_options", stream("EncodeStream", pb.EncodeStreamRequest(options=pb.EncodeOptions())), INVALID, "options.saes"),
    Bad("stream_of_options_twice", stream("EncodeStream", *[pb.EncodeStreamRequest(options=STREAM_OPTIONS)] * 2), INVALID, "message"),
    Bad("decode_stream_without_options", stream("DecodeStream", pb.DecodeStreamRequest(item=pb.DecodeItem())), INVALID, "options"),
    Bad("decode_stream_of_a_bad_type", stream("DecodeStream", pb.DecodeStreamRequest(options=pb.DecodeOptions(dtype=4))), INVALID, "options.dtype"),
    Bad("run_stream_of_nothing", lambda s: list(s.sae.RunWithSAEsStream(pb.RunWithSAEsStreamRequest(options=pb.RunOptions(returns=LOSS)))), INVALID, "inputs"),
    Bad("run_stream_that_returns_nothing", lambda s: list(s.sae.RunWithSAEsStream(pb.RunWithSAEsStreamRequest(inputs=[TEXT]))), INVALID, "options.returns"),
]
EVERY = [*ENCODE, *POSITIONS, *ACTIVATIONS, *DECODE, *RUN, *STEER, *LOAD, *REGISTRY, *STREAMS]

# ---- folders that must not be served


def write_bad_folders(root: Path) -> None:
    def good(name: str, sae: SAE | None = None) -> Path:
        return write_sae(root / name, sae or random_sae(RESID, D_MODEL, seed=50))

    def weights(name: str, change: Callable[[bytes], bytes]) -> None:
        path = good(name) / "sae_weights.safetensors"
        path.write_bytes(change(path.read_bytes()))

    def header(name: str, old: bytes, new: bytes) -> None:
        def change(data: bytes) -> bytes:
            assert old in data
            assert len(old) == len(new)
            return data.replace(old, new, 1)

        weights(name, change)

    def cfg(name: str, content: str) -> None:
        (good(name) / "cfg.json").write_text(content)

    without_bos = random_sae(RESID, D_MODEL, seed=51)
    settings = without_bos.cfg.to_dict()
    settings["metadata"]["prepend_bos"] = False
    write_sae_folder(SAE.from_state(type(without_bos.cfg).from_dict(settings), without_bos.weights()), root / "without_bos")
    good("other")
    good("d_in", random_sae(RESID, D_MODEL // 2))
    good("hook", random_sae("blocks.7.hook_resid_pre", D_MODEL))
    weights("truncated", lambda data: data[:-100])
    weights("lying_length", lambda data: (2**60).to_bytes(8, "little") + data[8:])
    header("lying_shape", b'"shape":[32,96]', b'"shape":[32,97]')
    weights("overlapping", _overlap)
    nan = random_sae(RESID, D_MODEL)
    with torch.no_grad():
        nan.W_enc[0, 0] = NAN
    path = good("nan") / "sae_weights.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-4] + np.float32(NAN).tobytes())
    (good("no_weights") / "sae_weights.safetensors").unlink()
    cfg("cfg_text", "{d_in: 32")
    cfg("cfg_list", "[1, 2]")
    settings = random_sae(RESID, D_MODEL).cfg.to_dict()
    cfg("cfg_d_in", json.dumps({**settings, "d_in": "wide"}))
    cfg("cfg_size", json.dumps({**settings, "d_sae": D_SAE * 2}))
    outside = write_sae(root.parent.parent / "outside", random_sae(RESID, D_MODEL))
    (root / "link").symlink_to(outside)


def _overlap(data: bytes) -> bytes:
    """The header says that two tensors share their bytes."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    names = sorted((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"])
    same_shape: dict[tuple[int, ...], str] = {}
    for name in names:
        shape = tuple(header[name]["shape"])
        if shape in same_shape:
            header[name]["data_offsets"] = header[same_shape[shape]]["data_offsets"]
            break
        same_shape[shape] = name
    else:
        raise AssertionError("no two tensors of one shape")
    made = json.dumps(header).encode()
    return len(made).to_bytes(8, "little") + made + data[8 + length :]


@pytest.fixture(scope="module")
def server(llama_server: Running) -> Iterator[Running]:
    root = llama_server.server.config.sae_dir
    assert root is not None
    write_bad_folders(root / "bad")
    llama_server.registry.LoadSAE(registry.LoadSAERequest(source="bad/without_bos"))
    yield llama_server
    llama_server.registry.UnloadSAE(registry.UnloadSAERequest(sae="bad/without_bos"))


def details(error: grpc.RpcError) -> tuple[str, list[str]]:
    """Code and the fields that BadRequest names."""
    status = rpc_status.from_call(error)
    assert status is not None, f"no details: {error}"
    fields: list[str] = []
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            fields += [violation.field for violation in bad.field_violations]
            assert all(violation.description for violation in bad.field_violations)
    return error.code().name, fields


def answers(server: Running) -> None:
    """The server still does what it is for."""
    result = encode(TEXT)(server).results[0]
    assert rows_to_csr(result.encodings[0].sparse).nnz


def test_the_table_names_each_input_once() -> None:
    names = [bad.name for bad in EVERY]
    assert len(set(names)) == len(names) >= 60


@pytest.mark.parametrize("bad", EVERY, ids=lambda bad: bad.name)
def test_a_bad_input_is_refused_by_its_field_and_the_server_goes_on(server: Running, bad: Bad) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        bad.call(server)
    assert details(caught.value) == (bad.code, [bad.field]), caught.value.details()
    answers(server)
