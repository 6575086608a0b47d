"""What all handlers share: the engine, the registry, the model's name, and limits."""

from dataclasses import dataclass

from google.protobuf.message import Message

from saekit.v1 import input_pb2
from saekit_core.lm.model import LanguageModel
from saekit_server.engine.engine import Engine
from saekit_server.errors import at_field, exhausted, invalid
from saekit_server.handlers.inputs import InputReader
from saekit_server.registry import LoadedSAE, Registry

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
_MAX_ITEMS = 1024


@dataclass(frozen=True)
class Limits:
    """What a client may ask for.

    max_input_tokens: longest input; max_slot_tokens: longest input plus generation.
    """

    max_input_tokens: int
    max_slot_tokens: int
    slots: int
    max_queued_requests: int
    max_queued_tokens: int


@dataclass(frozen=True)
class Context:
    """Everything that answering takes."""

    model: LanguageModel
    registry: Registry
    engine: Engine
    inputs: InputReader
    limits: Limits

    @property
    def served_by(self) -> input_pb2.ServedBy:
        """What answers."""
        return input_pb2.ServedBy(
            model=self.model.name,
            model_revision=self.model.revision,
            model_dtype=str(self.model.dtype).removeprefix("torch."),
        )

    def check_model(self, name: str) -> None:
        """Raises unless the caller means this model, or any."""
        if name and name != self.model.name:
            raise invalid("model", f"this server serves {self.model.name}, not {name}")

    def sae(self, name: str) -> LoadedSAE:
        """The loaded SAE of a request's field `sae`: a sae_id or sae_id@revision."""
        if not name:
            raise invalid("sae", "expected a sae_id")
        with at_field("sae"):
            return self.registry.get(name)


def check_count(field: str, count: int, most: int = _MAX_ITEMS) -> None:
    """Raises unless there is at least one item, and not too many."""
    if not 1 <= count <= most:
        raise invalid(field, f"expected 1 to {most}, got {count}")


def check_size(response: Message, streaming_call: str) -> None:
    """Raises if a response would not fit one message."""
    size = response.ByteSize()
    if size > MAX_MESSAGE_BYTES:
        raise exhausted(
            f"the result has {size} bytes, above the {MAX_MESSAGE_BYTES} of one message; "
            f"use {streaming_call}, or ask for less"
        )
