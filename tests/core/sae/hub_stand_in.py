"""Load SAEs from a stand-in of the Hugging Face Hub: ``python hub_stand_in.py FOLDER``.

It is a program because huggingface_hub reads its endpoint from the environment when imported.
"""

import os
import sys
from pathlib import Path

from hub_server import serving_hub


def main(folder: Path) -> None:
    with serving_hub() as hub:
        commit = hub.add("user/repo", folder).branches["main"]
        os.environ["HF_ENDPOINT"] = hub.url
        from saekit_core.sae import SAE, SAENotFoundError, parse_spec, resolve_spec

        def message(release: str, sae_id: str, revision: str | None = None) -> str:
            try:
                SAE.from_pretrained(release, sae_id, revision=revision)
            except SAENotFoundError as error:
                return str(error)
            raise AssertionError(f"{release} {sae_id} was found")

        sae, cfg_dict, sparsity = SAE.from_pretrained("user/repo", "layer/3")
        assert (sae.cfg.d_sae, cfg_dict["d_in"], sparsity) == (40, 12, None)
        sae_id, path, origin = resolve_spec(parse_spec("hf://user/repo/layer/3@main"), folder)
        assert sae_id == "user/repo/layer/3"
        assert (origin.repo, origin.path) == ("user/repo", "layer/3")
        assert commit in str(path)
        assert "no such folder or file" in message("user/repo", "layer/4")
        assert "no such repository" in message("user/other", "layer/3")
        assert "no such revision" in message("user/repo", "layer/3", "v2")

    again, _, _ = SAE.from_pretrained("user/repo", "layer/3")
    assert again.cfg == sae.cfg
    print("all held")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
