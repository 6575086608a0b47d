"""Inputs of commands: arguments, files of lines, jsonl files, stdin."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from saekit_client.inputs import Input


def read_inputs(texts: list[str] | None, file: str | None) -> list[Input]:
    """Every input that the arguments name.

    Raises:
        typer.BadParameter: none, or a file that cannot be read as such.
    """
    inputs = [Input(text) for text in texts or []]
    if file is not None:
        inputs += _of_file(file)
    if not inputs:
        raise typer.BadParameter("expected texts, or --file", param_hint="TEXTS")
    return inputs


def _of_file(file: str) -> Iterator[Input]:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file}: {error}", param_hint="--file") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        if file.endswith(".jsonl"):
            yield _of_json(line, f"{file}:{number}")
        else:
            yield Input(line)


def _of_json(line: str, where: str) -> Input:
    try:
        value: Any = json.loads(line)
    except ValueError as error:
        raise typer.BadParameter(f"{where}: {error}", param_hint="--file") from error
    if isinstance(value, str):
        return Input(value)
    if isinstance(value, dict):
        contents = [value[key] for key in ("text", "tokens", "messages") if key in value]
        if len(contents) == 1:
            return Input(contents[0], id=str(value.get("id", "")))
    raise typer.BadParameter(
        f"{where}: expected a string, or an object with one of 'text', 'tokens' and 'messages'",
        param_hint="--file",
    )
