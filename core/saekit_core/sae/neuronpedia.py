"""Where features are shown on Neuronpedia: ``neuronpedia.org/gpt2-small/8-res-jb/1234``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from saekit_core.directory.releases import NEURONPEDIA as SITE
from saekit_core.sae.config import SAEConfig
from saekit_core.sae.errors import SAEError
from saekit_core.sae.sae import SAE

_SEGMENT: Final = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_ID: Final = re.compile(f"({_SEGMENT})/({_SEGMENT})")


@dataclass(frozen=True)
class NeuronpediaId:
    """The page of an SAE, ``model/source``."""

    model: str
    """Neuronpedia's name of the model, e.g. ``gpt2-small``."""
    source: str
    """Layer and kind of SAE, e.g. ``8-res-jb``."""

    @property
    def url(self) -> str:
        return f"{SITE}/{self.model}/{self.source}"


def parse_neuronpedia_id(text: str) -> NeuronpediaId:
    """The two parts of an id as metadata has it, e.g. ``gpt2-small/8-res-jb``.

    Raises:
        SAEError: it has another form.
    """
    found = _ID.fullmatch(text)
    if found is None:
        raise SAEError(
            f"neuronpedia_id: {text!r:.80} is none; expected MODEL/SOURCE, as gpt2-small/8-res-jb",
            field="neuronpedia_id",
        )
    return NeuronpediaId(found[1], found[2])


def sae_url(cfg: SAEConfig) -> str | None:
    """The page of an SAE; None if its metadata has no id of Neuronpedia's form."""
    text = cfg.neuronpedia_id
    return NeuronpediaId(*found.groups()).url if text and (found := _ID.fullmatch(text)) else None


def feature_url(cfg: SAEConfig, feature: int) -> str | None:
    """The page of a feature; None if the SAE has none.

    Raises:
        SAEError: the SAE has no such feature.
    """
    _check_feature(cfg, feature)
    url = sae_url(cfg)
    return None if url is None else f"{url}/{feature}"


def get_neuronpedia_quick_list(
    sae: SAE, features: Sequence[int], name: str = "temporary_list"
) -> str:
    """The page that shows several features of an SAE as a list; nothing is opened or sent.

    Args:
        name: the title of the list.

    Raises:
        SAEError: the SAE's metadata has no Neuronpedia id, or it has no such feature.
    """
    cfg = sae.cfg
    if not cfg.neuronpedia_id:
        raise SAEError("neuronpedia_id: the SAE's metadata has none", field="neuronpedia_id")
    page = parse_neuronpedia_id(cfg.neuronpedia_id)
    for feature in features:
        _check_feature(cfg, feature)
    # The model under Neuronpedia's name; that of the metadata may be Hugging Face's.
    listed = [{"modelId": page.model, "layer": page.source, "index": str(f)} for f in features]
    return f"{SITE}/quick-list/?name={quote(name)}&features={quote(json.dumps(listed))}"


def _check_feature(cfg: SAEConfig, feature: int) -> None:
    if not 0 <= feature < cfg.d_sae:
        raise SAEError(f"feature: {feature} is not in 0..{cfg.d_sae - 1}", field="feature")
