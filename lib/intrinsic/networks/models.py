"""The paper's six networks by name and others, what they read, and the layer that d_repr is measured at."""

from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from intrinsic.networks import convolutions

MODELS = ("resnet18", "resnet34", "resnet50", "vgg13", "vgg16", "vgg19")

#: The paper's protocol (section 5 and its code): batch sizes, epochs, pixels a side, decay
PAPER_BATCH = {"resnet18": 40, "resnet34": 25, "resnet50": 12, "vgg13": 6, "vgg16": 6, "vgg19": 6}
PAPER_EPOCHS = 100
PAPER_SIZE = 224
PAPER_WEIGHT_DECAY = 1e-4

TIMM = "timm:"  # before the name of a network of the package timm


class UnknownModel(ValueError):
    """A name of no network, or of one whose package is not installed."""


class BadInput(ValueError):
    """Images or labels that a network cannot read."""


def create(name: str, *, channels: int = 1, n_classes: int = 2, seed: int = 0) -> nn.Module:
    """A network by name, weights drawn at `seed`.

    name        one of MODELS, in torchvision's architecture and initialization; another classification network of
                torchvision, such as "efficientnet_b0"; or "timm:NAME" where timm is installed
    channels    of the images. Where it is not 3 the first convolution of 3 channels is replaced, with the rule of
                initialization of the six (normal, variance 2 / (outputs x kernel area), bias 0); all other weights
                are those of the 3-channel network of the same seed
    n_classes   outputs: one a class, so that the loss is over the classes that exist
    Reads (n, channels, H, W) in [0, 1], at least 32 pixels a side for a VGG (it halves five times). The
    pooling to 7 x 7 of a VGG and to 1 x 1 of a ResNet is torchvision's at every size. The caller's random
    numbers are not disturbed. Raises UnknownModel, BadInput.
    Source: He et al. 2016 (ResNet); Simonyan & Zisserman 2015 (VGG, without batch normalization); trained
    from scratch, as in Konz & Mazurowski 2024, section 5.
    """
    known(name)
    if channels < 1 or n_classes < 2:
        raise BadInput(
            f"{name} was asked for {channels} channels and {n_classes} classes, and there is nothing to "
            "learn; give at least 1 channel and 2 classes"
        )
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        network = _created(name, n_classes)
        if channels != 3:
            _replace_first_convolution(network, name, channels)
    return convolutions.replace(network)


def known(name: str) -> str:
    """The name, where `create` makes a network of it. Raises UnknownModel."""
    if name in MODELS:
        return name
    if name.startswith(TIMM):
        if not _timm(name).is_model(name.removeprefix(TIMM)):
            raise UnknownModel(f"'{name}' is no network of the installed timm; timm.list_models() names those it has")
        return name
    import torchvision  # takes a second, which pages that only read records are spared

    if name not in torchvision.models.list_models(module=torchvision.models):
        raise UnknownModel(
            f"'{name}' is not a network of this book, nor of torchvision; choose one of {', '.join(MODELS)}, another "
            "of torchvision.models.list_models(module=torchvision.models), or timm:NAME"
        )
    return name


def smallest_size(name: str) -> int:
    """Pixels a side that a network reads at least: 32 for a VGG, which halves five times; 1 where none is known."""
    return 32 if name.removeprefix(TIMM).startswith("vgg") else 1


def representation_layer(name: str) -> str:
    """The layer of d_repr in the paper: a ResNet's last block, a VGG's second-to-last linear layer.

    The first is taken before the average over positions, 512 (ResNet-50: 2048) x H/32 x W/32 numbers; the
    second before its ReLU, 4096 numbers. For networks that are not the paper's: the last part with weights before
    the one that holds the outputs, among the network's direct parts.
    """
    if known(name) in MODELS:
        return "classifier.3" if name.startswith("vgg") else "layer4"
    with torch.device("meta"):
        network = create(name, channels=3)
    parts = [key for key, part in network.named_children() if any(True for _ in part.parameters())]
    return parts[-2] if len(parts) > 1 else parts[0]


def default_learning_rate(model: str | nn.Module) -> float:
    """The paper's rate for Adam: 1e-4 for a VGG, 1e-3 for a ResNet and for every other network."""
    return 1e-4 if _is_vgg(model) else 1e-3


def paper_learning_rate(name: str, dataset: str = "") -> float:
    """`default_learning_rate`, except for a VGG on the set "svhn": 1e-6."""
    return 1e-6 if _is_vgg(name) and dataset.startswith("svhn") else default_learning_rate(name)


def default_batch_size(model: str | nn.Module) -> int:
    """16 for a VGG, which has no batch normalization and hardly moves at 64; 64 for every other network."""
    return 16 if _is_vgg(model) else 64


def default_warmup_steps(model: str | nn.Module) -> int:
    """Steps over which the rate rises to its value: 2,000 for a VGG, which has no batch normalization; 0 for others.

    2 / (1 - beta2) of Adam's beta2 = 0.999, the rule of Ma & Yarats 2021. Without it VGG-16 did not fit
    500 knee X-rays and VGG-19 did not fit 500 chest X-rays in 100 epochs (params/warmup.yaml).
    """
    return 2000 if _is_vgg(model) else 0


def parameter_count(model: nn.Module) -> int:
    """Weights and biases; not the running statistics of batch normalization."""
    return sum(parameter.numel() for parameter in model.parameters())


def operations(name: str, *, size: int, channels: int = 1, n_classes: int = 2) -> float:
    """Floating-point operations of one image's forward pass: two for each product of its layers. No weight is made."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = create(name, channels=channels, n_classes=n_classes).eval()
        network(torch.empty(1, channels, size, size))
    return float(counter.get_total_flops())


def network_input(x) -> torch.Tensor:
    """Images as a network reads them: floating tensor (n, C, H, W); uint8 is divided by 255, as in `as_unit`.

    x   array or tensor (n, C, H, W), uint8 or floating. Raises BadInput.
    """
    x = x if isinstance(x, torch.Tensor) else torch.from_numpy(np.array(x, order="C"))
    if x.ndim != 4 or len(x) == 0:
        raise BadInput(
            f"images have shape {tuple(x.shape)}, and a network reads (n, C, H, W) with n >= 1; "
            "images.as_unit(images) makes it so"
        )
    if x.dtype == torch.uint8:
        return x.to(torch.float32).div_(255)
    if not x.dtype.is_floating_point:
        raise BadInput(
            f"images are {x.dtype}, whose range is not known; give uint8, or floats in [0, 1] as images.as_unit does"
        )
    if not torch.isfinite(x).all():
        raise BadInput("some pixels are NaN or infinite, and so would be every weight after a step; remove them")
    return x


def network_labels(y, n: int) -> torch.Tensor:
    """Labels as int64 tensor (n,), counted from 0. Raises BadInput where they are anything else."""
    y = np.asarray(y.detach().cpu() if isinstance(y, torch.Tensor) else y)
    if y.shape != (n,) or y.dtype.kind not in "iub":
        raise BadInput(
            f"labels are {y.dtype} of shape {y.shape} for {n} images, so they name no class of each image; "
            f"give {n} integers"
        )
    if y.min() < 0:
        raise BadInput(f"the smallest label is {y.min()}, and classes are counted from 0; renumber the labels")
    return torch.from_numpy(y.astype(np.int64))


def memory_format(size) -> torch.memory_format:
    """The layout in which convolutions are fastest at this image size (H, W): channels-last from 48 pixels.

    Measured with ResNet-18 on a CPU, batch 64: at 32 pixels the plain layout is 4 to 10 % faster, at 64
    pixels channels-last by 1 to 9 %.
    """
    return torch.channels_last if min(size) >= 48 else torch.contiguous_format


def placement(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and floating type of a network's weights; CPU and float32 for one that has none."""
    for parameter in model.parameters():
        return parameter.device, parameter.dtype
    return torch.device("cpu"), torch.float32


@contextmanager
def evaluating(model: nn.Module):
    """Evaluation mode and plain float32 inside the block; afterwards every part is in the mode it had.

    Plain: no autocast and, on a GPU, no TF32, both of which round by as much as a small attack changes.
    The weights ask for no gradient inside: convolutions of our own compute what a weight asks for, even where
    autograd is asked for the image's gradient alone. Measured on a CPU at 64 pixels, gradients of 64 images: 25 %
    less time with ResNet-18, 40 % with VGG-13. The image's gradient is the same to the bit.
    """
    modes = [(module, module.training) for module in model.modules()]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    tf32, matmul = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        model.eval()
        for parameter in learning:
            parameter.requires_grad_(False)
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
        with torch.autocast(placement(model)[0].type, enabled=False):
            yield model
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
        torch.set_float32_matmul_precision(matmul)
        for parameter in learning:
            parameter.requires_grad_(True)
        for module, mode in modes:
            module.training = mode


def _created(name: str, n_classes: int) -> nn.Module:
    if name.startswith(TIMM):
        return _timm(name).create_model(name.removeprefix(TIMM), pretrained=False, num_classes=n_classes)
    import torchvision

    # these two would return the outputs of auxiliary heads beside their own
    more = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, num_classes=n_classes, **more)


def _timm(name: str):
    try:
        import timm
    except ImportError:
        raise UnknownModel(
            f"'{name}' is a network of the package timm, which is not installed; install it: pip install timm"
        ) from None
    return timm


def _is_vgg(model: str | nn.Module) -> bool:
    """A VGG without batch normalization."""
    if isinstance(model, str):
        return known(model).removeprefix(TIMM).startswith("vgg") and not model.endswith("_bn")
    import torchvision

    plain = not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    return isinstance(model, torchvision.models.VGG) and plain


def _replace_first_convolution(network: nn.Module, name: str, channels: int) -> None:
    for key, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            network.set_submodule(key, _first_convolution(module, channels))
            return
    raise BadInput(
        f"{name} has no convolution that reads 3 channels, so it cannot be made to read {channels}; give the images "
        "3 channels"
    )


def _first_convolution(like: nn.Conv2d, channels: int) -> nn.Conv2d:
    new = nn.Conv2d(
        channels,
        like.out_channels,
        like.kernel_size,
        stride=like.stride,
        padding=like.padding,
        bias=like.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    return new
