#!/usr/bin/env python3
"""Writes the directory of public SAE releases anew, or checks it: ``make directory``.

The facts are those that sae-lens ships as data. Its package is fetched with pip, nothing of it is
installed or run, and what is kept is the facts alone, in a form of our own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from saekit_core.directory.packing import pack_entries
from saekit_core.directory.releases import DATA_FILE, Directory, Entry

TARGET: Final = Path(__file__).parent.parent / "core/saekit_core/directory" / DATA_FILE
SOURCE: Final = "sae_lens/pretrained_saes.yaml"

FORMATS: Final = {
    None: "saelens",
    "sae_lens": "saelens",
    "connor_rob_hook_z": "connor_rob_hook_z",
    "deepseek_r1": "deepseek_r1",
    "dictionary_learning_1": "dictionary_learning",
    "gemma_2": "gemma_scope",
    "gemma_2_transcoder": "gemma_scope_transcoder",
    "gemma_3": "gemma_scope_2",
    "goodfire": "goodfire",
    "llama_scope": "llama_scope",
    "llama_scope_r1_distill": "llama_scope_r1_distill",
    "mntss_clt_layer_transcoder": "circuit_tracer_clt_layer",
    "mwhanna_transcoder": "circuit_tracer",
    "qwen_scope": "qwen_scope",
    "sparsify": "sparsify",
    "temporal": "temporal",
}
"""Our name of a format by the source's name of its loader."""

OF_A_RELEASE: Final = {"repo_id", "model", "conversion_func", "config_overrides", "saes"}
OF_AN_SAE: Final = {
    "id", "path", "neuronpedia", "l0", "variance_explained", "norm_scaling_factor",
}  # fmt: skip
LEFT_OUT: Final = {"links"}
"""Web pages about a release."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "source",
        nargs="?",
        type=Path,
        help="the source's YAML file, or a wheel that holds it; default: the newest release of "
        "sae-lens, or --version",
    )
    parser.add_argument("--version", help="the release of sae-lens to fetch")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if a fact differs from the source"
    )
    options = parser.parse_args()
    entries = list(read_entries(read_source(options.source, options.version)))
    text = pack_entries(entries)
    releases = {entry.release for entry in entries}
    print(f"{len(releases)} releases, {len(entries)} SAEs, {len(text.encode())} bytes")
    if not options.check:
        TARGET.write_text(text, encoding="utf-8")
    return check(entries, text, TARGET.read_text(encoding="utf-8"))


def check(entries: list[Entry], text: str, shipped: str) -> int:
    """Say where a directory's text differs from the facts; 0 if nowhere, else 1."""
    expected = {(entry.release, entry.sae_id): entry for entry in entries}
    directory = Directory.parse(shipped)
    found = {
        (release.name, sae_id): entry
        for release in directory.values()
        for sae_id, entry in release.entries.items()
    }
    differing = [key for key in expected | found if expected.get(key) != found.get(key)]
    for key in differing[:20]:
        print(f"{'/'.join(key)}:\n  source  {expected.get(key)}\n  shipped {found.get(key)}")
    if differing:
        print(f"{len(differing)} SAEs differ", file=sys.stderr)
        return 1
    if text != shipped:
        print("the facts agree, but the file would be written otherwise", file=sys.stderr)
        return 1
    return 0


def read_source(path: Path | None, version: str | None) -> Mapping[str, Any]:
    """The content of the YAML file, fetched if no path is given."""
    if path is None:
        with tempfile.TemporaryDirectory() as folder:
            wanted = f"sae-lens=={version}" if version else "sae-lens"
            command = [sys.executable, "-m", "pip", "download", wanted]
            options = ["--no-deps", "--only-binary=:all:", "--quiet", "-d", folder]
            subprocess.run(command + options, check=True)
            (wheel,) = Path(folder).glob("*.whl")
            print(wheel.name)
            return read_source(wheel, None)
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            text = archive.read(SOURCE)
    else:
        text = path.read_bytes()
    # The loader in C takes a second, that in Python ten.
    content: Mapping[str, Any] = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return content


def read_entries(source: Mapping[str, Any]) -> Iterator[Entry]:
    """The facts of every SAE of the source.

    Raises:
        ValueError: there is a key or a format that this script does not know: what it means has to
            be found out, it may change numbers.
    """
    for name, release in source.items():
        _refuse_unknown(name, release.keys() - OF_A_RELEASE - LEFT_OUT)
        loader = release.get("conversion_func")
        if loader not in FORMATS:
            raise ValueError(f"{name}: conversion_func: {loader!r} is not known here")
        for sae in release["saes"]:
            # An entry of the source repeats its whole release within itself; that adds nothing.
            repeated = OF_A_RELEASE | LEFT_OUT if "saes" in sae else set()
            _refuse_unknown(f"{name}/{sae['id']}", sae.keys() - OF_AN_SAE - repeated)
            yield Entry(
                release=name,
                sae_id=sae["id"],
                repo=release["repo_id"],
                # A layer where the files of a repository are numbered.
                path=str(sae["path"]),
                format=FORMATS[loader],
                model=release["model"],
                neuronpedia_id=sae.get("neuronpedia"),
                l0=sae.get("l0"),
                variance_explained=sae.get("variance_explained"),
                norm_scaling_factor=sae.get("norm_scaling_factor"),
                config_overrides=release.get("config_overrides") or {},
            )


def _refuse_unknown(where: str, keys: set[str]) -> None:
    if keys:
        raise ValueError(f"{where}: {', '.join(sorted(keys))}: not known here")


if __name__ == "__main__":
    sys.exit(main())
