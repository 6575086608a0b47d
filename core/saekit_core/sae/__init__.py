"""One sparse autoencoder: its configuration, its arithmetic, and its folder on disk."""

from saekit_core.sae.config import SAEConfig
from saekit_core.sae.disk import read_sae_folder, write_sae_folder
from saekit_core.sae.errors import SAEError, SAEFormatError, SAENotFoundError, SAEUploadError
from saekit_core.sae.features_file import (
    FeaturesFile,
    Snippet,
    read_features_file,
    write_features_file,
)
from saekit_core.sae.metadata import SAEMetadata
from saekit_core.sae.neuronpedia import (
    NeuronpediaId,
    feature_url,
    get_neuronpedia_quick_list,
    parse_neuronpedia_id,
    sae_url,
)
from saekit_core.sae.normalization import EncodeState
from saekit_core.sae.origin import Origin
from saekit_core.sae.owned import OwnedFolder, read_sae_folder_owned
from saekit_core.sae.revision import folder_revision
from saekit_core.sae.sae import SAE
from saekit_core.sae.sparse import encode_sparse
from saekit_core.sae.sparse_acts import SparseActs
from saekit_core.sae.specs import SAESpec, check_sae_id, parse_spec, resolve_spec
from saekit_core.sae.upload import Upload, upload_saes_to_huggingface

__all__ = [
    "SAE",
    "EncodeState",
    "FeaturesFile",
    "NeuronpediaId",
    "Origin",
    "OwnedFolder",
    "SAEConfig",
    "SAEError",
    "SAEFormatError",
    "SAEMetadata",
    "SAENotFoundError",
    "SAESpec",
    "SAEUploadError",
    "Snippet",
    "SparseActs",
    "Upload",
    "check_sae_id",
    "encode_sparse",
    "feature_url",
    "folder_revision",
    "get_neuronpedia_quick_list",
    "parse_neuronpedia_id",
    "parse_spec",
    "read_features_file",
    "read_sae_folder",
    "read_sae_folder_owned",
    "resolve_spec",
    "sae_url",
    "upload_saes_to_huggingface",
    "write_features_file",
    "write_sae_folder",
]
