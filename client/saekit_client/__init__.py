"""Client of a saekit server: encode, decode, run with SAEs, steer.

from saekit_client import Client, add

with Client("localhost:50051") as client:
    result = client.encode("Once upon a time", "res2")
    print(result.features.shape, result.encoding.top(row=3))
    for event in client.steer("Once", edits=[add("res2", 123, 8, unit="max_activation")]):
        print(getattr(event, "text", ""), end="")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saekit.codec import CSR
    from saekit_client.aio.client import AsyncClient
    from saekit_client.batch import Batch, StreamItem
    from saekit_client.channel import TLS, RetryPolicy, Timeouts
    from saekit_client.errors import (
        AlreadyExistsError,
        CancelledError,
        DeadlineExceededError,
        FailedPreconditionError,
        FieldViolation,
        InvalidArgumentError,
        NotFoundError,
        PermissionDeniedError,
        ResourceExhaustedError,
        SAEKitError,
        UnauthenticatedError,
        UnavailableError,
    )
    from saekit_client.inputs import Chat, Input
    from saekit_client.interventions import (
        Ablate,
        Add,
        ApplyFromHere,
        ApplyHere,
        Cap,
        Clip,
        Condition,
        Direction,
        Edit,
        FeatureRef,
        Project,
        Scale,
        Set,
        Splice,
        Stop,
        ablate,
        add,
        add_direction,
        cap,
        clip,
        direction,
        project,
        scale,
        set_to,
        stop_when,
        vector,
    )
    from saekit_client.options import GREEDY, InputOptions, RunReturns, SAEQuery, Sampling, Watch
    from saekit_client.positions import (
        GENERATED,
        LAST_PROMPT,
        PROMPT,
        PositionSelector,
        between,
        last,
    )
    from saekit_client.registry_results import FeatureInfo, Features, ModelInfo, SAEInfo, WatchEvent
    from saekit_client.results import (
        DecodeResult,
        EncodeResult,
        EncodeState,
        SAEEncoding,
        Tokens,
        stack,
    )
    from saekit_client.run_results import RunComparison, RunResult
    from saekit_client.steer_events import (
        Generation,
        SteerEvent,
        SteerFinish,
        SteerStart,
        SteerToken,
    )
    from saekit_client.stream_requests import DecodeItem
    from saekit_client.sync.client import Client

# Names are imported when first used: grpc and numpy cost most of the start of a small program.
_MODULES = {
    "saekit.codec": ("CSR",),
    "saekit_client.aio.client": ("AsyncClient",),
    "saekit_client.batch": (
        "Batch",
        "StreamItem",
    ),
    "saekit_client.channel": (
        "RetryPolicy",
        "TLS",
        "Timeouts",
    ),
    "saekit_client.errors": (
        "AlreadyExistsError",
        "CancelledError",
        "DeadlineExceededError",
        "FailedPreconditionError",
        "FieldViolation",
        "InvalidArgumentError",
        "NotFoundError",
        "PermissionDeniedError",
        "ResourceExhaustedError",
        "SAEKitError",
        "UnauthenticatedError",
        "UnavailableError",
    ),
    "saekit_client.inputs": (
        "Chat",
        "Input",
    ),
    "saekit_client.interventions": (
        "Ablate",
        "Add",
        "ApplyFromHere",
        "ApplyHere",
        "Cap",
        "Clip",
        "Condition",
        "Direction",
        "Edit",
        "FeatureRef",
        "Project",
        "Scale",
        "Set",
        "Splice",
        "Stop",
        "ablate",
        "add",
        "add_direction",
        "cap",
        "clip",
        "direction",
        "project",
        "scale",
        "set_to",
        "stop_when",
        "vector",
    ),
    "saekit_client.options": (
        "GREEDY",
        "InputOptions",
        "RunReturns",
        "SAEQuery",
        "Sampling",
        "Watch",
    ),
    "saekit_client.positions": (
        "GENERATED",
        "LAST_PROMPT",
        "PROMPT",
        "PositionSelector",
        "between",
        "last",
    ),
    "saekit_client.registry_results": (
        "FeatureInfo",
        "Features",
        "ModelInfo",
        "SAEInfo",
        "WatchEvent",
    ),
    "saekit_client.results": (
        "DecodeResult",
        "EncodeResult",
        "EncodeState",
        "SAEEncoding",
        "Tokens",
        "stack",
    ),
    "saekit_client.run_results": (
        "RunComparison",
        "RunResult",
    ),
    "saekit_client.steer_events": (
        "Generation",
        "SteerEvent",
        "SteerFinish",
        "SteerStart",
        "SteerToken",
    ),
    "saekit_client.stream_requests": ("DecodeItem",),
    "saekit_client.sync.client": ("Client",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "CSR",
    "GENERATED",
    "GREEDY",
    "LAST_PROMPT",
    "PROMPT",
    "TLS",
    "Ablate",
    "Add",
    "AlreadyExistsError",
    "ApplyFromHere",
    "ApplyHere",
    "AsyncClient",
    "Batch",
    "CancelledError",
    "Cap",
    "Chat",
    "Client",
    "Clip",
    "Condition",
    "DeadlineExceededError",
    "DecodeItem",
    "DecodeResult",
    "Direction",
    "Edit",
    "EncodeResult",
    "EncodeState",
    "FailedPreconditionError",
    "FeatureInfo",
    "FeatureRef",
    "Features",
    "FieldViolation",
    "Generation",
    "Input",
    "InputOptions",
    "InvalidArgumentError",
    "ModelInfo",
    "NotFoundError",
    "PermissionDeniedError",
    "PositionSelector",
    "Project",
    "ResourceExhaustedError",
    "RetryPolicy",
    "RunComparison",
    "RunResult",
    "RunReturns",
    "SAEEncoding",
    "SAEInfo",
    "SAEKitError",
    "SAEQuery",
    "Sampling",
    "Scale",
    "Set",
    "Splice",
    "SteerEvent",
    "SteerFinish",
    "SteerStart",
    "SteerToken",
    "Stop",
    "StreamItem",
    "Timeouts",
    "Tokens",
    "UnauthenticatedError",
    "UnavailableError",
    "Watch",
    "WatchEvent",
    "ablate",
    "add",
    "add_direction",
    "between",
    "cap",
    "clip",
    "direction",
    "last",
    "project",
    "scale",
    "set_to",
    "stack",
    "stop_when",
    "vector",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
