"""Tensors in files: written whole or not at all, verified when read, never unpickled.

A file is safetensors. Its metadata hold `facts` (JSON) and a SHA-256 of facts, names, types, shapes and bytes.
"""

import hashlib
import json
import os
import shutil
import threading
from pathlib import Path

import torch
from torch import nn


class DamagedFile(ValueError):
    """A file of tensors that cannot be read, whose content is not what was written, or that is of another network."""


def content_hash(tensors: dict[str, torch.Tensor], facts=None) -> str:
    """SHA-256, in hexadecimal, of tensors by name and of facts, whatever their order, device and layout."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu", memory_format=torch.contiguous_format)
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save(path: Path | str, tensors: dict[str, torch.Tensor], facts=None) -> None:
    """Write tensors and facts (what JSON holds) to a draft beside `path`, then rename it: all or nothing.

    The draft is a folder, since safetensors first writes to a name of its own. Raises OSError for a full disk.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # a copy of each: the format takes neither another layout nor memory that two tensors share
    held = {
        name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    about = {"facts": json.dumps(facts), "sha256": content_hash(held, facts)}
    draft = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.draft")
    try:
        draft.mkdir(exist_ok=True)
        made = draft / path.name
        try:
            save_file(held, made, metadata=about)
        except SafetensorError as error:
            raise OSError(f"{made} cannot be written: {error}") from error
        with open(made, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(made, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def load(path: Path | str) -> tuple[dict[str, torch.Tensor], object]:
    """(tensors, facts) of a file that `save` wrote, verified. Raises DamagedFile, FileNotFoundError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors, about = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise DamagedFile(f"{path} cannot be read as safetensors ({error}); delete it") from error
    facts = json.loads(about.get("facts", "null"))
    if content_hash(tensors, facts) != about.get("sha256"):
        raise DamagedFile(f"{path} is damaged or not of this package: its content is not what was written; delete it")
    return tensors, facts


def discard(path: Path | str) -> None:
    """Delete a file of `save`, where it exists, and the drafts that killed processes left of it."""
    path = Path(path)
    path.unlink(missing_ok=True)
    for draft in path.parent.glob(f".{path.name}.*.draft"):
        shutil.rmtree(draft, ignore_errors=True)


def load_weights(network: nn.Module, path: Path | str):
    """Put weights into a network of the same architecture, in place; returns their facts.

    Raises DamagedFile, FileNotFoundError; the network is then as it was.
    """
    tensors, facts = load(path)
    own = network.state_dict()
    odd = sorted(own.keys() ^ tensors.keys()) or [name for name in own if own[name].shape != tensors[name].shape]
    if odd:
        found = f"{len(odd)} names or shapes differ, the first is {odd[0]}"
        raise DamagedFile(f"{path} holds weights of another network than this {type(network).__name__}: {found}")
    network.load_state_dict(tensors)
    return facts
