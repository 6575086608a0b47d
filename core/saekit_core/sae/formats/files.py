"""The files of one SAE, however they are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from saekit_core.sae.errors import SAEFormatError
from saekit_core.sae.formats.settings import Settings
from saekit_core.sae.formats.tensor_file import Sizes, TensorFile
from saekit_core.sae.layout import MAX_CFG_BYTES
from saekit_core.sae.npz_file import read_npz_file
from saekit_core.sae.safetensors_file import read_mapped
from saekit_core.sae.torch_file import read_torch_file

TENSOR_SUFFIXES: Final = (".safetensors", ".npz", ".pt", ".pth")


class Files(ABC):
    """The content of the files that determine one SAE, by their names relative to its folder."""

    def __init__(self, names: tuple[str, ...], file: str | None) -> None:
        """Args: all names; the one among them that is the SAE, where a folder may hold several."""
        self.names = names
        self.file = file
        self.sizes: Sizes = {}
        self.facts: Mapping[str, Any] = {}
        """What `Format.facts` told, and what the origin states otherwise."""
        self._tensors: dict[str, Mapping[str, Any]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.names

    @abstractmethod
    def text(self, name: str) -> bytes:
        """The content of a small file."""

    @abstractmethod
    def load(self, name: str) -> Mapping[str, Any]:
        """What a file of tensors holds."""

    @property
    @abstractmethod
    def finite(self) -> bool:
        """Whether values that are not finite are to be refused."""

    def settings(self, name: str) -> Settings:
        """A configuration file."""
        return Settings.parse(name, self.text(name))

    def tensors(self, name: str | None = None) -> TensorFile:
        """A file of tensors, none of them taken yet; without a name, the one that is the SAE."""
        name = name or self.file
        if name is None:
            raise ValueError("an SAE that has its folder to itself has files of several names")
        if name not in self._tensors:
            self._tensors[name] = self.load(name)
        return TensorFile(name, self._tensors[name], self.sizes, finite=self.finite)


class MappedFiles(Files):
    """Files read as they are needed; safetensors and torch files are mapped, not copied."""

    def __init__(self, folder: Path, names: tuple[str, ...], file: str | None = None) -> None:
        super().__init__(names, file)
        self._folder = folder

    @property
    def finite(self) -> bool:
        return False

    def text(self, name: str) -> bytes:
        try:
            _check_length(name, (self._folder / name).stat().st_size)
            return (self._folder / name).read_bytes()
        except OSError as error:
            raise SAEFormatError(f"{name}: {error.strerror}", field=name) from None

    def load(self, name: str) -> Mapping[str, Any]:
        path = self._folder / name
        if name.endswith(".safetensors"):
            return read_mapped(path)
        return decode_tensors(name, path)


class OwnedFiles(Files):
    """Files that were read into memory of one's own."""

    def __init__(
        self,
        texts: Mapping[str, bytes],
        tensors: Mapping[str, Tensor | Mapping[str, Tensor]],
        file: str | None = None,
    ) -> None:
        """Args: small files; the others' content (uint8), or the tensors of safetensors files."""
        super().__init__((*texts, *tensors), file)
        self._texts = texts
        self._content = tensors

    @property
    def finite(self) -> bool:
        return True

    def text(self, name: str) -> bytes:
        _check_length(name, len(self._texts[name]))
        return self._texts[name]

    def load(self, name: str) -> Mapping[str, Any]:
        content = self._content[name]
        return decode_tensors(name, content) if isinstance(content, Tensor) else content


def decode_tensors(name: str, file: Path | Tensor) -> dict[str, Any]:
    """What a .npz, .pt or .pth file holds, given as a path or as its content."""
    if name.endswith(".npz"):
        return dict(read_npz_file(file, where=name))
    return read_torch_file(file, where=name)


def _check_length(name: str, length: int) -> None:
    if length > MAX_CFG_BYTES:
        raise SAEFormatError(
            f"{name}: {length} bytes, at most {MAX_CFG_BYTES} are read", field=name
        )
