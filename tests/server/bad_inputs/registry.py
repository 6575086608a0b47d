"""What RegistryService refuses."""

from __future__ import annotations

from tests.server.bad_inputs.calls import (
    D_MODEL,
    D_SAE,
    EXISTS,
    IN,
    INVALID,
    NOT_FOUND,
    PRECONDITION,
    TEXT,
    Bad,
    Input,
    features,
    load,
    tokenize,
    unknown,
    x,
)

from saekit.v1 import registry_service_pb2 as registry

LOAD = [
    Bad("load_nothing", load(""), INVALID, "source"),
    Bad("load_a_folder_that_is_not_there", load("no/such"), NOT_FOUND, "source"),
    Bad("load_from_above_the_root", load("../saes/jumprelu", sae_id="new"), INVALID, "source"),
    Bad(
        "load_a_file_from_above_the_root",
        load("file:../saes/jumprelu", sae_id="new"),
        INVALID,
        "source",
    ),
    Bad("load_an_absolute_folder", load("file:/etc", sae_id="new"), INVALID, "source"),
    Bad("load_through_a_link", load("bad/link", sae_id="new"), INVALID, "source"),
    Bad("load_under_a_name_with_dots", load("jumprelu", sae_id="../jumprelu"), INVALID, "sae_id"),
    Bad("load_under_an_impossible_name", load("jumprelu", sae_id="a b"), INVALID, "sae_id"),
    Bad("load_what_is_loaded", load("jumprelu"), EXISTS, "sae_id"),
    Bad(
        "load_another_revision",
        load("bad/other", sae_id="new", expected_revision="0" * 12),
        PRECONDITION,
        "expected_revision",
    ),
    Bad("load_another_width", load("bad/d_in"), PRECONDITION, "source"),
    Bad("load_at_no_hook_point", load("bad/hook"), PRECONDITION, "source"),
    Bad("truncated_weights", load("bad/truncated"), PRECONDITION, "source"),
    Bad("weights_that_lie_of_their_length", load("bad/lying_length"), PRECONDITION, "source"),
    Bad("weights_that_lie_of_their_shape", load("bad/lying_shape"), PRECONDITION, "source"),
    Bad("weights_that_overlap", load("bad/overlapping"), PRECONDITION, "source"),
    Bad("weights_of_nan", load("bad/nan"), PRECONDITION, "source"),
    Bad("no_weights", load("bad/no_weights"), PRECONDITION, "source"),
    Bad("cfg_that_is_no_json", load("bad/cfg_text"), PRECONDITION, "source"),
    Bad("cfg_that_is_a_list", load("bad/cfg_list"), PRECONDITION, "source"),
    Bad("cfg_with_a_text_for_d_in", load("bad/cfg_d_in"), PRECONDITION, "source"),
    Bad("cfg_of_another_size", load("bad/cfg_size"), PRECONDITION, "source"),
]
REGISTRY = [
    Bad("get_nothing", lambda s: s.registry.GetSAE(registry.GetSAERequest()), INVALID, "sae"),
    Bad(
        "get_an_unknown_sae",
        lambda s: s.registry.GetSAE(registry.GetSAERequest(sae="no")),
        NOT_FOUND,
        "sae",
    ),
    Bad(
        "unload_nothing",
        lambda s: s.registry.UnloadSAE(registry.UnloadSAERequest()),
        INVALID,
        "sae",
    ),
    Bad(
        "unload_an_unknown_sae",
        lambda s: s.registry.UnloadSAE(registry.UnloadSAERequest(sae="no")),
        NOT_FOUND,
        "sae",
    ),
    Bad(
        "list_no_hook_point",
        lambda s: s.registry.ListSAEs(registry.ListSAEsRequest(hook_name="blocks.9")),
        INVALID,
        "hook_name",
    ),
    Bad(
        "unknown_field_of_get_model",
        lambda s: s.registry.GetModel(unknown(registry.GetModelRequest())),
        INVALID,
        "1023",
    ),
    Bad(
        "unknown_field_of_a_watch",
        lambda s: list(s.registry.WatchSAEs(unknown(registry.WatchSAEsRequest()))),
        INVALID,
        "1023",
    ),
    Bad("tokenize_nothing", tokenize(), INVALID, "inputs"),
    Bad("tokenize_no_content", tokenize(TEXT, Input()), INVALID, "inputs[1].content"),
    Bad(
        "tokenize_activations",
        tokenize(Input(activations=x(2, D_MODEL))),
        INVALID,
        IN + "activations",
    ),
    Bad("tokenize_an_over_long_id", tokenize(Input(id="x" * 257, text="a")), INVALID, IN + "id"),
    Bad("features_of_an_unknown_sae", features(sae="no", indices=[1]), NOT_FOUND, "sae"),
    Bad("features_of_neither_kind", features(), INVALID, "indices"),
    Bad("features_of_both_kinds", features(indices=[1], search="cat"), INVALID, "indices"),
    Bad("features_out_of_range", features(indices=[1, D_SAE]), INVALID, "indices[1]"),
    Bad("too_many_features", features(indices=[1] * 4097), INVALID, "indices"),
    Bad("too_much_logit_lens", features(indices=[1], logit_lens=51), INVALID, "logit_lens"),
    Bad("too_many_neighbours", features(indices=[1], neighbours=51), INVALID, "neighbours"),
    Bad("too_many_examples", features(indices=[1], examples=21), INVALID, "examples"),
]
