"""Files of tensors: read without running code from them, written whole or not at all."""

from __future__ import annotations

import pickle
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kdcore.atomic import replacing
from kdcore.errors import RunError

State: TypeAlias = "dict[str, Any]"
"""What a file holds: tensors by name, or a checkpoint that nests them under ``state_dict``, ``model``, ..."""

NESTS = ("state_dict", "model_state_dict", "model", "ema", "module")
"""Keys under which training scripts usually store the tensors."""

CONVERT = """\
import torch
from safetensors.torch import save_file

found = torch.load({source!r}, map_location="cpu", weights_only=False)
for key in {nests!r}:
    if isinstance(found, dict) and key in found:
        found = found[key]
state = found if isinstance(found, dict) else found.state_dict()
save_file({{k: v.detach().clone().contiguous() for k, v in state.items() if torch.is_tensor(v)}}, {target!r})
"""


def read_state(path: Path) -> State:
    """Reads one file without running any code that it may hold.

    Raises:
        RunError: it cannot be read; where only an unsafe load could, the message holds a script that converts it.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        # a Namespace is what training scripts keep their arguments in; making one runs no code of the file
        with torch.serialization.safe_globals([Namespace]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RunError(_refused(path, error)) from None
    except Exception as error:  # a truncated zip, a text file: torch raises whatever its parser met
        raise RunError(f"{path} is no checkpoint that torch can read: {type(error).__name__}: {error}") from error
    if not isinstance(found, Mapping):
        raise RunError(f"{path} holds a {type(found).__name__}, not a dictionary of tensors: save model.state_dict()")
    return dict(found)


def save_state(state: Mapping[str, Tensor], path: Path) -> None:
    """Writes a safetensors file whole or not at all; a tensor with several names is stored once.

    The other names go into the file's metadata (name -> stored name, as safetensors' own ``save_model`` does),
    from where :func:`read_state` brings them back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors, aliases = _untied(state)
    try:
        with replacing(path) as beside:
            save_file(tensors, beside, metadata=aliases | {"format": "pt"})
    except SafetensorError as error:
        raise RunError(f"{path} cannot be written: {error}") from error


def _untied(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors that share no memory, and the further names of those that had several."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    names: dict[tuple[Any, ...], str] = {}
    storages: set[int] = set()
    for name, value in state.items():
        tensor = value.detach()
        storage = tensor.untyped_storage()
        same = (storage.data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if tensor.numel() and same in names:
            aliases[name] = names[same]
            continue
        names[same] = name
        # a view of something larger would drag the whole along, and safetensors refuses memory that is shared
        lone = storage.nbytes() == tensor.nbytes and storage.data_ptr() not in storages
        storages.add(storage.data_ptr())
        tensors[name] = (tensor if lone else tensor.clone()).cpu().contiguous()
    return tensors, aliases


def _read_safetensors(path: Path) -> State:
    try:
        with safe_open(path, framework="pt") as file:
            state: State = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is no safetensors file that can be read: {error}") from error
    state |= {alias: state[name] for alias, name in metadata.items() if name in state and alias not in state}
    return state


def _refused(path: Path, error: Exception) -> str:
    script = CONVERT.format(source=str(path), target=str(path.with_suffix(".safetensors")), nests=NESTS)
    indented = "".join(f"    {line}" for line in script.splitlines(keepends=True))
    reason = str(error).partition("WeightsUnpickler error: ")[2].partition(". Please use")[0].splitlines()
    return (
        f"{path} holds more than tensors{f' ({reason[0].strip()})' if reason else ''}: reading it could run code from "
        f"the file, so it was not read.\nIf you trust where it comes from, convert it once with this script and name "
        f"the new file:\n\n{indented}"
    )
