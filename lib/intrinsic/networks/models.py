"""The paper's six networks by name and others of torchvision, and the images that they read."""

from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

MODELS = ("resnet18", "resnet34", "resnet50", "vgg13", "vgg16", "vgg19")


class BadInput(ValueError):
    """A name of no network, or images or labels that a network cannot read."""


def create(name: str, *, channels: int = 1, n_classes: int = 2, seed: int = 0) -> nn.Module:
    """A network of torchvision by name, untrained, with weights drawn at `seed`.

    name        one of MODELS, or another classification network of torchvision, such as "efficientnet_b0"
    channels    of the images. Where it is not 3, a first convolution is drawn anew by the rule of the six networks
                (normal, variance 2 / (outputs x kernel area), bias 0); other weights stay those of the seed
    n_classes   outputs, one a class
    It reads (n, channels, H, W) in [0, 1]. Random numbers of the caller stay. Raises BadInput.
    Source: He et al. 2016 (ResNet); Simonyan & Zisserman 2015 (VGG, without batch normalization).

    >>> create("resnet18")(torch.zeros(3, 1, 32, 32)).shape
    torch.Size([3, 2])
    """
    known(name)
    if channels < 1 or n_classes < 2:
        raise BadInput(f"{channels} channels and {n_classes} classes leave nothing to learn; give at least 1 and 2")
    import torchvision

    # these two would return the outputs of auxiliary heads beside their own
    more = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        network = torchvision.models.get_model(name, weights=None, num_classes=n_classes, **more)
        if channels != 3:
            _replace_first_convolution(network, channels)
    return network


def _replace_first_convolution(network: nn.Module, channels: int) -> None:
    name, old = next(
        (key, part) for key, part in network.named_modules() if isinstance(part, nn.Conv2d) and part.in_channels == 3
    )
    new = nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    network.set_submodule(name, new)


def known(name: str) -> str:
    """The name, where `create` makes a network of it. Raises BadInput."""
    if name in MODELS:
        return name
    import torchvision  # takes a second, which pages that only read records are spared

    if name not in torchvision.models.list_models(module=torchvision.models):
        raise BadInput(f"'{name}' is no network of torchvision; choose {', '.join(MODELS)}, or one of its others")
    return name


def smallest_size(name: str) -> int:
    """The least pixels a side that a network reads: 32 for a VGG, 1 where no limit is known."""
    return 32 if name.startswith("vgg") else 1


def representation_layer(name: str) -> str:
    """The layer of d_repr in the paper: a ResNet's last block, a VGG's second-to-last linear layer before its ReLU.

    For other networks it is the last part with weights before the part that holds the outputs.
    """
    if known(name) in MODELS:
        return "classifier.3" if name.startswith("vgg") else "layer4"
    with torch.device("meta"):
        network = create(name, channels=3)
    parts = [key for key, part in network.named_children() if any(True for _ in part.parameters())]
    return parts[-2] if len(parts) > 1 else parts[0]


def is_vgg(model: str | nn.Module) -> bool:
    """Whether this is a VGG without batch normalization."""
    if isinstance(model, str):
        return known(model).startswith("vgg") and not model.endswith("_bn")
    plain = not any(isinstance(part, nn.BatchNorm2d) for part in model.modules())
    return type(model).__name__ == "VGG" and plain


# ----------------------------------------------------------------------------------------- images and labels


def network_input(images) -> torch.Tensor:
    """Images as a tensor (n, C, H, W), still in their own type: `placed` makes the floats that a network reads.

    images   array or tensor of uint8, or of floats in [0, 1]: (n, H, W), (n, C, H, W), or (n, H, W, C) with C 1 or 3
    Raises BadInput.
    """
    images = images if isinstance(images, torch.Tensor) else torch.from_numpy(np.array(images, order="C"))
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        images = images.permute(0, 3, 1, 2)
    if images.ndim != 4 or len(images) == 0:
        raise BadInput(f"images have shape {tuple(images.shape)}; give (n, H, W) or (n, C, H, W), n >= 1")
    if images.dtype == torch.uint8:
        return images
    if not images.dtype.is_floating_point:
        raise BadInput(f"images are {images.dtype}, whose range is not known; give uint8 or floats in [0, 1]")
    if not torch.isfinite(images).all():
        raise BadInput("some pixels are NaN or infinite, and so would be every weight; remove these images")
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise BadInput(f"pixels reach from {low:.4g} to {high:.4g}; scale them to [0, 1], or give uint8")
    return images


def network_labels(labels, n: int) -> torch.Tensor:
    """Labels as int64 tensor (n,), counted from 0. Raises BadInput where they are anything else."""
    labels = np.asarray(labels.detach().cpu() if isinstance(labels, torch.Tensor) else labels)
    if labels.shape != (n,) or labels.dtype.kind not in "iub":
        raise BadInput(f"labels are {labels.dtype} of shape {labels.shape} for {n} images; give {n} integers")
    if labels.min() < 0:
        raise BadInput(f"the smallest label is {labels.min()}, and classes are counted from 0; renumber the labels")
    return torch.from_numpy(labels.astype(np.int64))


def unit_images(images) -> torch.Tensor:
    """Images of `network_input` as floats: uint8 is divided by 255, in float32."""
    images = network_input(images)
    return images.float() / 255 if images.dtype == torch.uint8 else images


def placed(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Images where the network is, in its number type, channels-last; uint8 is divided by 255."""
    device, dtype = placement(network)
    pixels = images.to(device).to(dtype, memory_format=torch.channels_last)
    return pixels / 255 if images.dtype == torch.uint8 else pixels


def placement(network: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and number type of a network's weights; CPU and float32 for one that has none."""
    for parameter in network.parameters():
        return parameter.device, parameter.dtype
    return torch.device("cpu"), torch.float32


def check_outputs(logits: torch.Tensor, largest: int) -> None:
    """Raise BadInput unless outputs are (n, classes) with one for each label up to `largest`."""
    if logits.ndim != 2 or logits.shape[1] <= largest:
        found = f"a label is {largest} and the network's outputs have shape {tuple(logits.shape)}"
        raise BadInput(f"{found}; create the network with n_classes = number of classes")


@contextmanager
def evaluating(network: nn.Module):
    """Evaluation mode and plain float32 inside the block; afterwards every part is in the mode it had.

    Plain: no autocast and no TF32, which round by as much as a small attack changes.
    """
    modes = [(module, module.training) for module in network.modules()]
    tf32, matmul = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        network.eval()
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
        with torch.autocast(placement(network)[0].type, enabled=False):
            yield network
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
        torch.set_float32_matmul_precision(matmul)
        for module, mode in modes:
            module.training = mode
