"""Chat messages: rendering, and which character belongs to which message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jinja2
import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from .errors import TokenizationError


@dataclass(frozen=True)
class ChatMessage:
    """One turn of a conversation."""

    role: str
    content: str


def render_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[ChatMessage], add_generation_prompt: bool
) -> str:
    """The text that the tokenizer's chat template makes of `messages`.

    Raises:
        TokenizationError: without a template, without messages, for messages that it refuses.
    """
    if not tokenizer.chat_template:
        raise TokenizationError(
            "this model's tokenizer has no chat template; send text or tokens instead",
            field="chat",
        )
    if not messages:
        raise TokenizationError("a chat needs at least one message", field="chat")
    try:
        text = tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in messages],
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
    except jinja2.TemplateError as error:
        raise TokenizationError(f"the chat template refuses: {error}", field="chat") from error
    assert isinstance(text, str)
    return text


def message_of_characters(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[ChatMessage], text: str
) -> npt.NDArray[np.int32]:
    """[len(text)]: the message that each character of the rendered `text` belongs to.

    A message ends where rendering the messages up to it ends. Where a template renders a
    beginning differently, or refuses it, the message ends after its content instead. -1 after
    the last message (the generation prompt).
    """
    owner = np.full(max(len(text), 1), -1, dtype=np.int32)
    begin = 0
    for i, message in enumerate(messages):
        end = _end_by_prefix(tokenizer, messages[: i + 1], text)
        if end is None or end < begin:
            end = _end_by_content(message, text, begin)
        owner[begin:end] = i
        begin = end
    return owner


def _end_by_prefix(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[ChatMessage], text: str
) -> int | None:
    try:
        prefix = render_chat(tokenizer, messages, add_generation_prompt=False)
    except TokenizationError:
        return None
    return len(prefix) if text.startswith(prefix) else None


def _end_by_content(message: ChatMessage, text: str, begin: int) -> int:
    content = message.content.strip()
    at = text.find(content, begin)
    return at + len(content) if at >= 0 else begin
