"""What a model's answers depend on, in twelve digits."""

from __future__ import annotations

import hashlib
from pathlib import Path

_DETERMINING = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model.bin.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
)
_CHUNK = 1 << 22


def model_revision(folder: Path) -> str:
    """First 12 hex digits of a SHA-256 over a local model folder.

    Hashed are name, length and bytes of the config, tokenizer and weight files at the top of the
    folder, sorted by name. Another file (a README) does not change it.
    """
    files = {
        path.name: path
        for pattern in _DETERMINING
        for path in folder.glob(pattern)
        if path.is_file()
    }
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        encoded = name.encode()
        for part in (len(encoded).to_bytes(8, "little"), encoded):
            digest.update(part)
        digest.update(path.stat().st_size.to_bytes(8, "little"))
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()[:12]
