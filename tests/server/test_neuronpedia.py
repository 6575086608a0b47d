"""Pages on Neuronpedia, in what a server says of SAEs and features."""

from __future__ import annotations

from tests.serving import Running

from saekit.v1 import registry_service_pb2 as pb

PAGE = "https://neuronpedia.org/tiny-model/0-topk-tst"


def test_an_sae_has_its_id_and_page_alone_and_in_the_list(llama_server: Running) -> None:
    registry = llama_server.registry
    info = registry.GetSAE(pb.GetSAERequest(sae="topk")).sae
    assert (info.neuronpedia_id, info.neuronpedia_url) == ("tiny-model/0-topk-tst", PAGE)
    (listed,) = registry.ListSAEs(pb.ListSAEsRequest(prefix="topk")).saes
    assert (listed.neuronpedia_id, listed.neuronpedia_url) == (info.neuronpedia_id, PAGE)


def test_features_have_their_pages(llama_server: Running) -> None:
    features = llama_server.registry.GetFeatures
    found = features(pb.GetFeaturesRequest(sae="topk", indices=[95, 0])).features
    assert [f.neuronpedia_url for f in found] == [f"{PAGE}/95", f"{PAGE}/0"]
    found = features(pb.GetFeaturesRequest(sae="topk", search="cat")).features
    assert [f.neuronpedia_url for f in found] == [f"{PAGE}/3"]


def test_without_an_id_there_is_no_page(llama_server: Running) -> None:
    registry = llama_server.registry
    info = registry.GetSAE(pb.GetSAERequest(sae="standard")).sae
    assert (info.neuronpedia_id, info.neuronpedia_url) == ("", "")
    (feature,) = registry.GetFeatures(pb.GetFeaturesRequest(sae="standard", indices=[3])).features
    assert feature.neuronpedia_url == ""


def test_an_id_that_is_none_is_told_but_makes_no_page(llama_server: Running) -> None:
    registry = llama_server.registry
    info = registry.GetSAE(pb.GetSAERequest(sae="gated")).sae
    assert (info.neuronpedia_id, info.neuronpedia_url) == ("https://elsewhere.example/x", "")
    (feature,) = registry.GetFeatures(pb.GetFeaturesRequest(sae="gated", indices=[3])).features
    assert feature.neuronpedia_url == ""
