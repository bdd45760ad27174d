"""Finding a checkpoint's shards, and the tensor in them that holds a matrix."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from neuropatch.checkpoint.location import Location
from neuropatch.checkpoint.quantised import refuse_quantised
from neuropatch.checkpoint.scales import MXFP4_BLOCK, Scaled, find_scaled, mxfp4
from neuropatch.errors import CheckpointError
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.layout import Layout
from neuropatch.patch.metadata import BaseModel
from neuropatch.storage.dtypes import FLOAT_DTYPES, SCALE_SUFFIXES, float_dtype
from neuropatch.storage.safetensors_file import (
    MAX_HEADER_BYTES,
    SafetensorsHeader,
    TensorInfo,
    parse_json,
    read_header,
)

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_BLOCKS = "_blocks"
"""How the name of a tensor of MXFP4 numbers ends."""


@dataclass(frozen=True)
class Checkpoint:
    """A model's folder: its config, and the headers of all its shards.

    Attributes:
        folder: The folder, as it was named.
        config: The document in ``config.json``.
        layout: Where the architecture keeps its matrices.
        headers: Header of each shard, by file name.
        tensors: The shard of each tensor, by name.
        stamps: Size and modification time (ns) of each shard when its header was read.
    """

    folder: Path
    config: Mapping[str, Any]
    layout: Layout
    headers: Mapping[str, SafetensorsHeader]
    tensors: Mapping[str, str]
    stamps: Mapping[str, tuple[int, int]]

    @classmethod
    def open(cls, folder: str | Path) -> Checkpoint:
        """Read the config and every header of a checkpoint; no weight is read.

        Raises:
            CheckpointError: If the folder is no safetensors checkpoint, or its files do not
                belong together.
            ArchitectureError: If the architecture is unknown.
        """
        with reading():
            return cls._open(Path(folder))

    @classmethod
    def _open(cls, folder: Path) -> Checkpoint:
        config, headers, tensors, stamps = _read_headers(folder)
        return cls(folder, config, Layout.from_config(config), headers, tensors, stamps)

    def path(self, shard: str) -> Path:
        """Path of a shard."""
        return self.folder / shard

    def tensor(self, name: str) -> TensorInfo:
        """A tensor by its name, which must be in :attr:`tensors`."""
        return self.headers[self.tensors[name]].tensors[name]

    @property
    def source(self) -> BaseModel:
        """What a patch calls this model: its Hub id and commit, or else its folder's name.

        Never a path: that would tell others about this machine.
        """
        folder = self.folder.resolve()
        if folder.parent.name == "snapshots" and folder.parents[1].name.startswith("models--"):
            repo = folder.parents[1].name.removeprefix("models--").replace("--", "/")
            return BaseModel(repo, folder.name)
        return BaseModel(folder.name)

    @property
    def quantization(self) -> str | None:
        """Name of the quantisation that the config declares, if it declares one."""
        declared = self.config.get("quantization_config")
        if not isinstance(declared, dict):
            return None
        return str(declared.get("quant_method", "quantised"))

    def locate(self, matrix: MatrixId) -> Location:
        """Find the tensor of a matrix, and check that its values can be edited.

        Raises:
            ArchitectureError: If the architecture has no such matrix.
            CheckpointError: If the tensor is missing, misshapen, or in a format whose values
                cannot be edited one by one.
        """
        slots = self.layout.on_disk(matrix)
        found = [(name, slot) for slot in slots for name in slot.names if name in self.tensors]
        if len(found) != 1:
            if not found:
                self._refuse_quantised([name for slot in slots for name in slot.names])
            problem = (
                f"holds {matrix} twice, as '{found[0][0]}' and as '{found[1][0]}'"
                if found
                else f"has no tensor '{slots[0].names[0]}' for {matrix}"
            )
            raise CheckpointError(f"{self.folder} {problem}", hint=self._hint())
        name, slot = found[0]
        info = self.tensor(name)
        shape = slot.stored_shape
        if name.endswith(_BLOCKS) and info.dtype == "U8":
            shape = (*shape[:-1], shape[-1] // MXFP4_BLOCK, MXFP4_BLOCK // 2)
        elif info.dtype not in FLOAT_DTYPES:
            self._refuse_quantised([name])
            float_dtype(info.dtype, what=f"tensor '{info.name}'")
        if info.shape != shape:
            raise CheckpointError(
                f"tensor '{info.name}' has shape {info.shape}, its config says {shape}",
                hint=self._hint(),
            )
        scaled = self._scaled(info, slot.stored_shape)
        dtype = np.dtype(np.float32) if scaled else FLOAT_DTYPES[info.dtype]
        return Location(matrix, self.tensors[name], info, slot, dtype, scaled)

    def _scaled(self, info: TensorInfo, shape: tuple[int, ...]) -> Scaled | None:
        """The scales of a tensor's numbers; None if it holds the weights themselves.

        Raises:
            CheckpointError: If there should be scales, or there are some that are not understood.
        """
        blocks = info.dtype == "U8"
        stem = info.name.removesuffix(_BLOCKS)
        names = [f"{stem}_scales"] if blocks else [info.name + suffix for suffix in SCALE_SUFFIXES]
        name = next((name for name in names if name in self.tensors), None)
        if name is not None:
            scales, shard = self.tensor(name), self.tensors[name]
            if blocks:
                return mxfp4(self.folder, scales, shape, shard=shard)
            return find_scaled(self.folder, info, shape, scales, self.config, shard=shard)
        # Float8 weights without scales are themselves, unless the config says that there are some.
        if blocks or (info.dtype.startswith("F8") and self.quantization):
            raise CheckpointError(
                f"{self.folder} has no tensor '{names[0]}', so what the numbers of '{info.name}' "
                f"({info.dtype}) stand for is not known",
                hint=self._hint(),
            )
        return None

    def _refuse_quantised(self, names: Iterable[str]) -> None:
        """Refuse a matrix that is quantised under one of the names of its tensor.

        Raises:
            CheckpointError: If it is.
        """
        dtypes = {name: self.tensor(name).dtype for name in self.tensors}
        for name in names:
            refuse_quantised(self.folder, name, dtypes, self.quantization)

    def _hint(self) -> str:
        if self.quantization:
            return "edit the checkpoint from before quantisation, then quantise the result"
        return "check config.json, and that the folder holds a plain transformers checkpoint"


def shapes_of(folder: str | Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """The config of a checkpoint of any architecture, and the shapes of its tensors by name.

    Raises:
        CheckpointError: As :meth:`Checkpoint.open`.
    """
    with reading():
        config, headers, tensors, _ = _read_headers(Path(folder))
    return config, {name: headers[tensors[name]].tensors[name].shape for name in sorted(tensors)}


def _read_headers(
    folder: Path,
) -> tuple[
    dict[str, Any], dict[str, SafetensorsHeader], dict[str, str], dict[str, tuple[int, int]]
]:
    """Config, headers by shard, shards by tensor, and stamps by shard."""
    _check_folder(folder)
    config = read_config(folder)
    shards, weight_map = _find_shards(folder, config)
    stamps = {name: stamp(folder / name) for name in shards}
    headers = {name: read_header(folder / name) for name in shards}
    tensors = _join(headers)
    for tensor, shard in weight_map.items():
        if tensors.get(tensor) != shard:
            raise CheckpointError(
                f"{folder / INDEX} says that '{tensor}' is in {shard}, and it is not",
                hint="download or export the checkpoint again",
            )
    return config, headers, tensors, stamps


@contextmanager
def reading() -> Iterator[None]:
    """Turn what the system says while a checkpoint is read into an error that a user can act on.

    Raises:
        CheckpointError: If a file cannot be read.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or 'the checkpoint'} cannot be read: {error.strerror}",
            hint="check its permissions and its disk",
        ) from error


def stamp(path: Path) -> tuple[int, int]:
    """Size and modification time of a file; another program's write changes them."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _check_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    if not folder.exists():
        raise CheckpointError(
            f"{folder}: no such folder", hint="name the folder that holds config.json"
        )
    if folder.suffix == ".gguf":
        raise _gguf(folder)
    raise CheckpointError(
        f"{folder} is a file, not a checkpoint folder",
        hint=f"name the folder that holds config.json, perhaps {folder.parent}",
    )


def _gguf(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} is a GGUF file, not a checkpoint folder",
        hint="name the file itself to apply a patch to it; otherwise the checkpoint from before "
        "it was converted",
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The document in a folder's ``config.json``.

    Raises:
        CheckpointError: If there is none that can be read.
    """
    path = folder / CONFIG
    if not path.is_file():
        gguf = next(iter(sorted(folder.glob("*.gguf"))), None)
        if gguf is not None:
            raise _gguf(gguf)
        if (folder / "adapter_config.json").is_file():
            raise CheckpointError(
                f"{folder} holds an adapter, not a model",
                hint="merge it into its base model with peft's merge_and_unload() and save that",
            )
        raise CheckpointError(
            f"{folder} has no {CONFIG}", hint="name the folder of a transformers checkpoint"
        )
    try:
        # Python's own reader: configs of real models hold Infinity, which strict JSON refuses.
        config = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not readable JSON: {error}", hint="download or export it again"
        ) from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is not a JSON object", hint="download or export it again")
    return config


def _read_text(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_HEADER_BYTES + 1)
    if len(data) > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{path} is larger than {MAX_HEADER_BYTES} bytes", hint="check what the file is"
        )
    return data


def _find_shards(folder: Path, config: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """Names of the weight files, and the index's shard of each tensor (empty without index)."""
    single, index = folder / SINGLE, folder / INDEX
    # An index that is a broken link counts as there, so that reading it fails by name.
    weight_map = _read_index(index) if index.is_file() or index.is_symlink() else {}
    shards = sorted(set(weight_map.values()))
    if single.is_file() and weight_map and SINGLE not in shards:
        raise CheckpointError(
            f"{folder} has both {SINGLE} and {INDEX}, which names other files",
            hint="move away the one that is not the model: loaders disagree about which to read",
        )
    if not weight_map:
        if not single.is_file():
            raise _no_weights(folder, config)
        return [SINGLE], {}
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}: "
            f"{len(missing)} of {len(shards)} shards that {INDEX} names",
            hint="download the missing files",
        )
    return shards, weight_map


def _read_index(path: Path) -> dict[str, str]:
    try:
        weight_map = parse_json(_read_text(path)).get("weight_map")
    except (ValueError, FileNotFoundError) as error:
        raise CheckpointError(
            f"{path} is not a readable index: {error}", hint="download or export it again"
        ) from None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} has no weight_map", hint="download or export it again")
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not _is_plain(shard):
            raise CheckpointError(
                f"{path} puts '{tensor}' in {shard!r}, which is not the name of a safetensors file "
                "in this folder",
                hint="do not trust this checkpoint; download it again",
            )
    return weight_map


def _is_plain(name: str) -> bool:
    """Whether a file name stays in its folder, on every system."""
    plain = name == PurePosixPath(name).name == PureWindowsPath(name).name
    return plain and name.endswith(".safetensors") and "\0" not in name


def _join(headers: Mapping[str, SafetensorsHeader]) -> dict[str, str]:
    tensors: dict[str, str] = {}
    for shard, header in headers.items():
        for name in header.tensors:
            other = tensors.setdefault(name, shard)
            if other != shard:
                raise CheckpointError(
                    f"tensor '{name}' is in two shards, {other} and {shard}",
                    hint="download or export the checkpoint again",
                )
    return tensors


def _no_weights(folder: Path, config: Mapping[str, Any]) -> CheckpointError:
    for name in ("pytorch_model.bin", "pytorch_model.bin.index.json"):
        if (folder / name).is_file():
            return CheckpointError(
                f"{folder} has its weights in {name}, a pickle that neuropatch does not open",
                hint=f"if you trust it, convert it: {_conversion(folder, config)}",
            )
    gguf = next(iter(sorted(folder.glob("*.gguf"))), None)
    if gguf is not None:
        return _gguf(gguf)
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    seen = f"; it has {', '.join(others[:3])}" if others else ""
    return CheckpointError(
        f"{folder} has neither {SINGLE} nor {INDEX}{seen}",
        hint="name a folder with the weights of a transformers checkpoint",
    )


def _conversion(folder: Path, config: Mapping[str, Any]) -> str:
    """The shell command that writes the checkpoint again as safetensors."""
    names = config.get("architectures")
    first = names[0] if isinstance(names, list) and names else None
    # The name lands in a command to be copied, and a config is untrusted.
    model = first if isinstance(first, str) and first.isidentifier() else "AutoModelForCausalLM"
    # JSON writes double quotes, which need no escapes between the single ones of the shell.
    source, target = json.dumps(str(folder)), json.dumps(f"{folder}-safetensors")
    code = (
        f"import transformers as t; "
        f't.{model}.from_pretrained({source}, dtype="auto").save_pretrained({target}); '
        f"t.AutoTokenizer.from_pretrained({source}).save_pretrained({target})"
    )
    return f"python -c {shlex.quote(code)}"
