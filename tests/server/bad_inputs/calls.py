"""Calls, each of one bad thing and of nothing else that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import Message
from tests.serving import Running

from saekit.codec import numpy_to_tensor
from saekit.v1 import input_pb2, intervention_pb2, tensor_pb2
from saekit.v1 import registry_service_pb2 as registry
from saekit.v1 import sae_service_pb2 as pb

D_MODEL, D_SAE, D_VOCAB, CONTEXT, SLOTS = 32, 96, 400, 96, 20
RESID = "blocks.2.hook_resid_pre"
INVALID, NOT_FOUND, PRECONDITION = "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"
EXISTS = "ALREADY_EXISTS"

Input, Tokens, Chat, Query = input_pb2.Input, input_pb2.Tokens, input_pb2.Chat, pb.SAEQuery
Selector = input_pb2.PositionSelector
Edit, FeatureRef = intervention_pb2.Edit, intervention_pb2.FeatureRef
Interventions, Condition = intervention_pb2.Interventions, intervention_pb2.Condition


@dataclass(frozen=True)
class Bad:
    """A request that must fail, with what, and at which field."""

    name: str
    call: Callable[[Running], object]
    code: str
    field: str


def unknown(message: Message) -> Any:
    """The message with a field that no version of it has."""
    made = type(message)()
    made.CopyFrom(message)
    made.MergeFromString(bytes([0xF8, 0x3F, 1]))  # number 1023, varint 1
    return made


TEXT = Input(text="The cat sat.")


def encode(
    *inputs: Input, saes: tuple[Query, ...] = (Query(sae="jumprelu"),), **options: Any
) -> Any:
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
