"""Ids and pages on Neuronpedia."""

from __future__ import annotations

import json
import socket
import webbrowser
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.core.sae.reference import random_sae

from saekit_core.sae import (
    SAE,
    SAEConfig,
    SAEError,
    SAEMetadata,
    feature_url,
    get_neuronpedia_quick_list,
    parse_neuronpedia_id,
    sae_url,
)


def config(neuronpedia_id: str | None, **metadata: str) -> SAEConfig:
    known = SAEMetadata(neuronpedia_id=neuronpedia_id, **metadata)  # type: ignore[arg-type]
    return SAEConfig("standard", d_in=12, d_sae=24576, metadata=known)


def with_id(neuronpedia_id: str | None, **metadata: str) -> SAE:
    sae = random_sae("standard")
    sae.cfg = replace(sae.cfg, metadata=config(neuronpedia_id, **metadata).metadata)
    return sae


def test_a_feature_has_the_page_that_neuronpedia_gives_it() -> None:
    cfg = config("gpt2-small/8-res-jb")
    assert feature_url(cfg, 1234) == "https://neuronpedia.org/gpt2-small/8-res-jb/1234"
    assert sae_url(cfg) == "https://neuronpedia.org/gpt2-small/8-res-jb"


@pytest.mark.parametrize(
    ("text", "model", "source"),
    [
        ("gpt2-small/6-res_fs49152-jb", "gpt2-small", "6-res_fs49152-jb"),
        ("gemma-2-9b-it/20-gemmascope-res-131k__l0-81", "gemma-2-9b-it", None),
        ("gemma-2-2b/5-sae_bench-topk-res-4k__trainer_3_step_final", "gemma-2-2b", None),
        ("llama3.1-8b/0-llamascope-mlp-32k", "llama3.1-8b", "0-llamascope-mlp-32k"),
        ("pythia-70m-deduped/e-att-sm", "pythia-70m-deduped", "e-att-sm"),
    ],
)
def test_ids_as_public_saes_have_them_are_read(text: str, model: str, source: str | None) -> None:
    found = parse_neuronpedia_id(text)
    assert found.model == model
    assert source in (None, found.source)
    assert found.url == sae_url(config(text)) == f"https://neuronpedia.org/{text}"


@pytest.mark.parametrize(
    "text",
    [
        "gpt2-small",
        "gpt2-small/",
        "/8-res-jb",
        "gpt2-small/8-res-jb/1234",
        "../admin",
        "gpt2-small/..",
        "https://neuronpedia.org/gpt2-small/8-res-jb",
        "gpt2-small/8-res-jb?x=y",
        "gpt2-small/8-res-jb#x",
        "gpt2-small/8 res",
        "gpt2-small/8-res-jb\n",
        "gpt2-small\\8-res-jb",
        "javascript:alert(1)/x",
    ],
)
def test_what_is_no_id_gets_no_page(text: str) -> None:
    assert sae_url(config(text)) is None
    assert feature_url(config(text), 3) is None
    for read in (parse_neuronpedia_id, lambda t: get_neuronpedia_quick_list(with_id(t), [1])):
        with pytest.raises(SAEError) as caught:
            read(text)
        assert caught.value.field == "neuronpedia_id"


@pytest.mark.parametrize("missing", [None, ""])
def test_without_an_id_there_is_no_page(missing: str | None) -> None:
    assert sae_url(config(missing)) is None
    assert feature_url(config(missing), 3) is None
    with pytest.raises(SAEError, match="the SAE's metadata has none"):
        get_neuronpedia_quick_list(with_id(missing), [3])


@pytest.mark.parametrize("feature", [-1, 24576])
def test_a_feature_that_the_sae_has_not_is_refused(feature: int) -> None:
    for text in ("gpt2-small/8-res-jb", None):
        with pytest.raises(SAEError, match=r"is not in 0\.\.24575") as caught:
            feature_url(config(text), feature)
        assert caught.value.field == "feature"
    with pytest.raises(SAEError, match="feature: 40 is not in"):
        get_neuronpedia_quick_list(with_id("gpt2-small/8-res-jb"), [1, 40])


def test_a_quick_list_names_its_features_and_opens_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("something was opened")

    for owner, name in ((webbrowser, "open"), (webbrowser, "get"), (socket, "create_connection")):
        monkeypatch.setattr(owner, name, forbidden)
    sae = with_id("llama3.1-8b/12-llamascope-res-32k", model_name="meta-llama/Llama-3.1-8B")
    url = urlsplit(get_neuronpedia_quick_list(sae, [7, 39], name="cats & dogs"))
    assert url.geturl().startswith("https://neuronpedia.org/quick-list/?name=")
    asked = parse_qs(url.query, strict_parsing=True)
    assert asked["name"] == ["cats & dogs"]
    # Neuronpedia's name of the model, not Hugging Face's.
    assert json.loads(asked["features"][0]) == [
        {"modelId": "llama3.1-8b", "layer": "12-llamascope-res-32k", "index": "7"},
        {"modelId": "llama3.1-8b", "layer": "12-llamascope-res-32k", "index": "39"},
    ]
