"""The fast gradient sign method over many budgets from one gradient, and what it costs a network."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from intrinsic import models, training


class OutOfRange(ValueError):
    """Images outside [0, 1], where a budget in grey levels has no meaning."""


class BadAttack(ValueError):
    """A budget, a network or a number type that the attack is not defined for."""


def fgsm(model: nn.Module, x, y, eps: Sequence[float], batch_size: int = 128) -> list[torch.Tensor]:
    """Adversarial images at several L-infinity budgets, from one gradient an image; one tensor a budget.

        x_eps = clamp( x + eps * sign( grad_x loss(x, y) ), 0, 1 )       loss: cross-entropy

    x     (n, C, H, W) floats in [0, 1], or uint8 (divided by 255)
    y     (n,) true labels: images that the network gets wrong are attacked like all others
    eps   budgets in units of x: 2/255 is two grey levels
    The gradient is of the sum over images, so batches do not matter. Evaluation mode, plain float32 (no TF32,
    no autocast); the network's mode and gradients stay as they were. The sign needs the loss gradient at the
    outputs, p_c - 1(c = y), only up to a positive factor; it is divided by 1 - p_y, in closed form:

        -1 at the true class,   p_c / (1 - p_y) = softmax over the wrong classes elsewhere

    This is of order 1 however sure the network is, while p_y - 1 itself is 0 in float32 once the true class
    leads by about 17 nats. Pixels with gradient 0 are not changed.
    Raises OutOfRange, BadAttack, models.BadInput.
    Source: Goodfellow, Shlens & Szegedy 2015, eq. in section 4.
    """
    x, y = _checked(model, x, y)
    budgets = [_budget(e) for e in eps]
    out = [torch.empty_like(x) for _ in budgets]
    with models.evaluating(model):
        for start in range(0, len(x), batch_size):
            rows = slice(start, start + batch_size)
            pixels, labels = _placed(model, x[rows], y[rows])
            direction, _ = _direction(model, pixels, labels)
            for budget, images in zip(budgets, out, strict=True):
                images[rows] = _step(pixels, direction, budget).to(x.device)
    return out


def fgsm_penalties(
    model: nn.Module, x, y, grey_levels: Sequence[float] = (1, 2, 4, 8), batch_size: int = 128
) -> dict[str, float]:
    """What FGSM costs a network at each budget of g grey levels (g/255), over all images given.

    Keys, with {g} the grey levels:
        clean_loss_nats, clean_accuracy      without an attack, as training.evaluate gives them
        loss_penalty_nats_eps{g}             mean attacked loss - clean loss
        accuracy_penalty_eps{g}              clean accuracy - accuracy under attack
        ..._correct                          the same two over the images that are right without an attack;
                                             NaN where there is none. All other keys keep the wrong ones
        misclassified_fraction               share of images wrong without an attack (their radius is 0)
        accuracy_eps255                      accuracy at budget 1.0, the whole range: a sanity check, near 0
                                             wherever the direction is of use
        gradient_zero_fraction               share of images whose gradient is 0 at every pixel: FGSM leaves
                                             them as they are, which is no robustness
        saturated_fraction                   share of images with p_y = 1 in float32, where a cross-entropy in
                                             float32 loses the true class's part of its gradient (not here)
    Losses are summed in float64 over images. A network with outputs that are not finite gives NaN losses.
    x, y, errors and source as in `fgsm`; one gradient and one pass a budget for each image.
    """
    x, y = _checked(model, x, y)
    budgets = {f"eps{g:g}": _budget(g / 255) for g in (*grey_levels, 255)}
    clean, facts, attacked = [], [], {name: [] for name in budgets}
    with models.evaluating(model):
        for pixels, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
            pixels, labels = _placed(model, pixels, labels)  # noqa: PLW2901
            direction, logits = _direction(model, pixels, labels)
            clean.append(_loss_and_right(logits, labels))
            zero = ~direction.flatten(1).any(1)
            sure = logits.float().softmax(1).gather(1, labels[:, None])[:, 0] == 1
            facts.append(torch.stack([zero, sure]))
            with torch.no_grad():
                for name, budget in budgets.items():
                    attacked[name].append(_loss_and_right(model(_step(pixels, direction, budget)), labels))
    loss, right = torch.cat(clean, 1)
    zero, sure = torch.cat(facts, 1).double().mean(1).tolist()
    correct = right == 1
    out = {
        "clean_loss_nats": float(loss.mean()),
        "clean_accuracy": float(right.mean()),
        "misclassified_fraction": float((1 - right).mean()),
        "gradient_zero_fraction": zero,
        "saturated_fraction": sure,
    }
    for name, parts in attacked.items():
        loss_then, right_then = torch.cat(parts, 1)
        if name == "eps255":
            out["accuracy_eps255"] = float(right_then.mean())
        if name in {f"eps{g:g}" for g in grey_levels}:
            lost = {
                f"loss_penalty_nats_{name}": loss_then - loss,
                f"accuracy_penalty_{name}": right - right_then,
            }
            for key, value in lost.items():
                out[key] = float(value.mean())
                out[f"{key}_correct"] = float(value[correct].mean())
    return out


def _direction(model, pixels, labels) -> tuple[torch.Tensor, torch.Tensor]:
    """(sign of the loss gradient at each pixel, outputs). One forward and one backward pass."""
    with torch.inference_mode(False), torch.enable_grad():
        pixels = pixels.detach().clone().requires_grad_(True)
        logits = model(pixels)
        training.check_outputs(logits, int(labels.max()))
        if logits.shape[1] < 2:
            raise BadAttack("the network has one output, and a cross-entropy needs two; give it one output a class")
        true = functional.one_hot(labels, logits.shape[1]).bool()
        wrong = logits.detach().masked_fill(true, -torch.inf).softmax(1)
        (gradient,) = torch.autograd.grad(logits, pixels, grad_outputs=wrong - true.to(wrong.dtype))
    return gradient.sign(), logits.detach()


def _step(pixels, direction, budget) -> torch.Tensor:
    return (pixels + budget * direction).clamp(0, 1)


def _loss_and_right(logits, labels) -> torch.Tensor:
    loss, _, right = training.image_scores(logits, labels)
    return torch.stack([loss, right])


def _placed(model, pixels, labels):
    device, dtype = models.placement(model)
    layout = models.memory_format(pixels.shape[-2:])
    return pixels.to(device, dtype, memory_format=layout), labels.to(device)


def _budget(eps: float) -> float:
    if not 0 <= eps <= 1:
        raise BadAttack(f"a budget is {eps:g}, but pixels lie in [0, 1]; give budgets from 0 to 1, as 2/255")
    return float(eps)


def _checked(model, x, y):
    x = models.network_input(x)
    y = models.network_labels(y, len(x))
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        raise OutOfRange(
            f"pixels reach from {low:.4g} to {high:.4g}, but budgets and limits of the attack are in units "
            "of [0, 1]; scale the images first, as images.as_unit does"
        )
    _, dtype = models.placement(model)
    if dtype not in (torch.float32, torch.float64):
        raise BadAttack(
            f"the network computes in {dtype}, which rounds by as much as an attack; use model.float() first"
        )
    return x.to(dtype), y
