"""Specs name an SAE and never a place outside the SAE root."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saekit_core.sae import (
    Origin,
    SAEError,
    SAENotFoundError,
    check_sae_id,
    parse_spec,
    resolve_spec,
)


@pytest.mark.parametrize(
    ("text", "kind", "source", "path", "revision", "sae_id"),
    [
        ("layer3", "file", None, "layer3", None, "layer3"),
        ("a/b.c/d-1", "file", None, "a/b.c/d-1", None, "a/b.c/d-1"),
        ("file:a/b", "file", None, "a/b", None, "a/b"),
        ("mine=file:a/b", "file", None, "a/b", None, "mine"),
        ("gpt2-res/blocks.8.hook_resid_pre", "release", "gpt2-res", "blocks.8.hook_resid_pre", None,
         "gpt2-res/blocks.8.hook_resid_pre"),
        ("gpt2-res/a/b@main", "release", "gpt2-res", "a/b", "main", "gpt2-res/a/b"),
        ("file:gpt2-res/x", "file", None, "gpt2-res/x", None, "gpt2-res/x"),
        ("hf://user/repo", "hf", "user/repo", "", None, "user/repo"),
        ("hf://user/repo/a/b@main", "hf", "user/repo", "a/b", "main", "user/repo/a/b"),
        ("n/m=hf://user/repo@v1.0/x", "hf", "user/repo", "", "v1.0/x", "n/m"),
    ],
)  # fmt: skip
def test_specs_parse(  # noqa: PLR0917
    text: str, kind: str, source: str | None, path: str, revision: str | None, sae_id: str
) -> None:
    spec = parse_spec(text, releases={"gpt2-res"})
    assert (spec.kind, spec.source, spec.path, spec.revision) == (kind, source, path, revision)
    assert spec.sae_id == sae_id


@pytest.mark.parametrize(
    "text",
    ["", "=x", "x=", "a b", "../x", "a/../b", "a/..", "..", ".", "a/./b", "/a", "a/", "a//b",
     "a..b", "file:", "file:/etc", "file:../x", "hf://", "hf://user", "hf://user/repo@",
     "hf://user/repo@a b", "a@main", "a/b@main", "file:a@main",
     "gpt2-small-res-jb/x@", "gpt2-small-res-jb/@main", "gpt2-small-res-jb/",
     "hf://user/../repo", "ü", "a\n", "a\0", "x=y=z", "a" * 300],
)  # fmt: skip
def test_malformed_specs_are_refused(text: str) -> None:
    with pytest.raises(SAEError):
        parse_spec(text)


def test_a_refused_sae_id_is_named() -> None:
    with pytest.raises(SAEError, match=r"'a/\.\./b'") as caught:
        check_sae_id("a/../b")
    assert caught.value.field == "sae_id"


@given(st.text(alphabet="ab./_-\\@\n ~", max_size=12))
def test_an_accepted_sae_id_stays_below_the_folder_it_is_joined_to(text: str) -> None:
    try:
        check_sae_id(text)
    except SAEError:
        return
    root = Path("/srv/saes")
    joined = Path(f"{root}/{text}")
    assert joined.parts == (*root.parts, *text.split("/"))
    assert ".." not in joined.parts
    assert "." not in text.split("/")


def test_a_folder_under_the_root_resolves(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    place = tmp_path / "a" / "b"
    assert resolve_spec(parse_spec("a/b"), tmp_path) == ("a/b", place, Origin())
    assert resolve_spec(parse_spec("mine=a/b"), tmp_path) == ("mine", place, Origin())


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(SAENotFoundError, match="no such folder under the SAE root"):
        resolve_spec(parse_spec("nothing"), tmp_path)
    with pytest.raises(SAENotFoundError, match="gpt2: no such release; near: gpt2-small-"):
        resolve_spec(parse_spec("gpt2/x", releases=["gpt2"]), tmp_path)
    with pytest.raises(SAENotFoundError, match=r"near: blocks\.8\.hook_resid_pre"):
        resolve_spec(parse_spec("gpt2-small-res-jb/blocks.8.hook_resid"), tmp_path)
    with pytest.raises(SAENotFoundError, match="add its id, as gpt2-small-res-jb/blocks"):
        resolve_spec(parse_spec("gpt2-small-res-jb"), tmp_path)


def test_releases_of_the_directory_are_known() -> None:
    spec = parse_spec("mine=gpt2-small-res-jb/blocks.8.hook_resid_pre@v1.0")
    assert (spec.kind, spec.source, spec.path) == (
        "release", "gpt2-small-res-jb", "blocks.8.hook_resid_pre",
    )  # fmt: skip
    assert (spec.sae_id, spec.revision) == ("mine", "v1.0")
    assert parse_spec("file:gpt2-small-res-jb/x").kind == "file"
    assert parse_spec("somewhere/else").kind == "file"
