"""The inputs that callers pass, told apart by their types."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard, cast

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Chat:
    """A conversation, rendered with the model's chat template."""

    messages: Sequence[Mapping[str, str]]
    """Each with "role" and "content"."""
    add_generation_prompt: bool | None = None
    """Ends with the opening of an assistant turn. None: only for Steer."""


Content: TypeAlias = str | Chat | Sequence[int] | Sequence[Mapping[str, str]] | npt.NDArray[Any]
"""Text; chat; token ids; {"role", "content"} messages; activations [rows, d_in], floating point."""


@dataclass(frozen=True)
class Input:
    """An input with a name of its own."""

    content: Content
    id: str = ""
    """Free-form, returned with the result."""


OneInput: TypeAlias = Content | Input
ManyInputs: TypeAlias = Iterable[OneInput]
AnyInputs: TypeAlias = ManyInputs | AsyncIterable[OneInput]


def several(inputs: OneInput | ManyInputs) -> ManyInputs:
    """Inputs that `is_one` has told to be several."""
    return cast(ManyInputs, inputs)


def several_async(inputs: OneInput | AnyInputs) -> AnyInputs:
    """As `several`, for asyncio."""
    return cast(AnyInputs, inputs)


def is_one(inputs: OneInput | AnyInputs) -> TypeGuard[OneInput]:
    """Whether this is a single input rather than several.

    A string, a chat, a list of messages, a list of token ids and an array of activations or of
    token ids are one input; any other list or iterable holds several.
    """
    if isinstance(inputs, str | Chat | Input):
        return True
    if isinstance(inputs, Mapping):
        raise TypeError(
            f"expected an input or several, got one message {inputs!r}: wrap it in a list"
        )
    if hasattr(inputs, "__array__"):
        array = np.asarray(inputs)
        return array.ndim == 1 or array.dtype.kind == "f"
    if isinstance(inputs, Sequence) and len(inputs):
        return isinstance(inputs[0], int | np.integer | Mapping)
    return False
