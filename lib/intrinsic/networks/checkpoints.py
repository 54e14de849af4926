"""Tensors in files: written whole or not at all, verified when read, never unpickled.

A file of this package is in the format safetensors, whose metadata hold `facts` (JSON) and a SHA-256 of facts, names,
types, shapes and bytes.
"""

import hashlib
import json
import os
import threading
from pathlib import Path

import torch
from torch import nn

from intrinsic.campaigns.records import remove

FORMAT = "intrinsic-tensors-1"
MEMORY = torch.contiguous_format


class DamagedFile(ValueError):
    """A file of tensors that cannot be read, or whose content is not what was written."""


class BadWeights(ValueError):
    """Weights that do not belong to the network."""


def content_hash(tensors: dict[str, torch.Tensor], facts=None) -> str:
    """SHA-256, in hexadecimal, of tensors by name and of facts, whatever their order, device and layout."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu", memory_format=MEMORY)
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save(path: Path | str, tensors: dict[str, torch.Tensor], facts=None) -> None:
    """Write tensors and facts (what JSON holds) to a draft beside `path`, then rename: the file is whole or untouched.

    The draft is a folder, since safetensors writes to a file of another name first, which a killed process leaves.
    Raises OSError where the disk does not take them.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # a copy of each: the format takes neither another layout nor memory that two tensors share
    held = {name: tensor.detach().to("cpu").clone(memory_format=MEMORY) for name, tensor in tensors.items()}
    about = {"format": FORMAT, "facts": json.dumps(facts), "sha256": content_hash(held, facts)}
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
        remove(draft)


def load(path: Path | str) -> tuple[dict[str, torch.Tensor], object]:
    """(tensors, facts) that `save` wrote, verified. Raises DamagedFile, FileNotFoundError."""
    tensors, about = _read(path)
    if about.get("format") != FORMAT:
        raise DamagedFile(f"{path} was not written by this package, so its content cannot be verified; delete it")
    try:
        facts = json.loads(about["facts"])
    except (KeyError, json.JSONDecodeError) as error:
        raise DamagedFile(f"{path} holds no readable facts ({error}); delete it") from error
    if content_hash(tensors, facts) != about.get("sha256"):
        raise DamagedFile(f"{path} is damaged: its content is not what was written; delete it")
    return tensors, facts


def discard(path: Path | str) -> None:
    """Delete a file of `save`, where it exists, and the drafts that killed processes left of it."""
    path = Path(path)
    path.unlink(missing_ok=True)
    for draft in path.parent.glob(f".{path.name}.*.draft"):
        remove(draft)


def save_weights(model: nn.Module, path: Path | str, facts=None) -> None:
    """Write a network's weights and statistics by their names in `state_dict`, as any safetensors reader takes them."""
    save(path, model.state_dict(), facts)


def load_weights(model: nn.Module, path: Path | str):
    """Put the weights of `save_weights` into a network of the same architecture, in place; returns their facts.

    Raises DamagedFile, BadWeights, FileNotFoundError; the network is then as it was.
    """
    tensors, facts = load(path)
    own = model.state_dict()
    odd = sorted(own.keys() ^ tensors.keys()) or [n for n, v in own.items() if v.shape != tensors[n].shape]
    if odd:
        raise BadWeights(
            f"{path} holds weights of another network than this {type(model).__name__} ({len(odd)} names or shapes "
            f"differ, the first is {odd[0]}); create the network that they were saved from"
        )
    model.load_state_dict(tensors)
    return facts


def load_pretrained(model: nn.Module, path: Path | str) -> list[str]:
    """Put pretrained weights from a local file into a network, in place; returns the names that keep their own.

    path   safetensors, or a state dict of torch.save (read with weights_only=True: no code of the file is run), on
           its own or under "state_dict" or "model"; a prefix "module." is dropped
    The head (the last layer with weights) keeps its own where the file's has another number of outputs. Where the
    first convolution reads other channels than the file's, it takes the file's summed over its channels and divided
    by its own number: its output is then that of the file's on a picture whose channels are all equal.
    The images that a network of this package reads are in [0, 1], and not normalized by the mean and standard
    deviation of the images of pretraining.
    Raises DamagedFile, BadWeights (any other difference in names or shapes), FileNotFoundError; the network is then
    as it was.
    """
    found = _state_dict(path)
    own = model.state_dict()
    first, head = _first_and_head(model)
    kept = [name for name in own if head and name.rpartition(".")[0] == head]
    if all(name in found and found[name].shape == own[name].shape for name in kept):
        kept = []
    loaded = {}
    for name, value in own.items():
        given = found.get(name)
        if name in kept or (given is None and name.endswith("num_batches_tracked")):
            given = value
        elif name == f"{first}.weight" and given is not None and given.shape[1:2] != value.shape[1:2]:
            given = _for_channels(given, value)
        if given is None or given.shape != value.shape:
            what = "is absent from" if given is None else f"has the shape {tuple(given.shape)} in"
            raise BadWeights(
                f"'{name}' {what} {path}, and {tuple(value.shape)} in this {type(model).__name__}, so the file is of "
                "another architecture; give weights of the same network"
            )
        loaded[name] = given
    extra = sorted(found.keys() - own.keys())
    if extra:
        raise BadWeights(
            f"{path} holds {len(extra)} weights that this {type(model).__name__} lacks, the first is '{extra[0]}', so "
            "it is of another architecture; give weights of the same network"
        )
    model.load_state_dict(loaded)
    return kept


def _state_dict(path) -> dict[str, torch.Tensor]:
    path = Path(path)
    if path.suffix == ".safetensors":
        return _read(path)[0]
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises many kinds: of zip files, of pickles, of sizes
        reason = " ".join(str(error).split())[:200]
        raise DamagedFile(f"{path} cannot be read as weights ({reason}); give safetensors or a state dict") from error
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise DamagedFile(f"{path} holds no state dict (tensors by name); save one with torch.save(model.state_dict())")
    return {name.removeprefix("module."): value for name, value in found.items()}


def _for_channels(weight, like):
    """A convolution's weight for the channels of `like`, where nothing else differs; otherwise as it is."""
    if weight[:, :1].shape != like[:, :1].shape:
        return weight
    return weight.sum(1, keepdim=True).expand_as(like) / like.shape[1]


def _first_and_head(model) -> tuple[str, str]:
    """Names of the first convolution and of the last layer with weights; empty where there is none."""
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    first = next((name for name, layer in layers if isinstance(layer, nn.Conv2d)), "")
    return first, layers[-1][0] if layers else ""


def _read(path) -> tuple[dict[str, torch.Tensor], dict]:
    from safetensors import SafetensorError, safe_open

    if not Path(path).exists():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise DamagedFile(f"{path} cannot be read as safetensors ({error}); delete it") from error
