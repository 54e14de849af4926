"""Attacks on a network, the nearest adversarial image, and what they cost: images in [0, 1], plain float32.

    fgsm, fgsm_penalties              many budgets from one gradient
    pgd, pgd_penalties                projected gradient ascent, never weaker than FGSM
    attack                            all attacks by name, torchattacks' among them
    minimal_radius                    distance to the nearest adversarial image found
    radius_by_bisection               the same by PGD at bisected budgets: slower, a check
    sanity, record_metrics            what stands in an attack record

Gradients are of sums over images and random numbers are drawn for all images of a call at once, so batches do not
matter, up to the rounding of the network itself; only torchattacks draws its numbers batch by batch.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from intrinsic.networks import models, training

NORMS = ("linf", "l2")
ATTACKS = ("fgsm", "pgd", "apgd_ce", "apgd_margin", "fab", "square", "autoattack")
RAY = (8, 4, 2, 1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)  # points on the way to the linearized boundary, and beyond
_TINY = 1e-30  # in place of 0 in a denominator
SMALLEST = 1e-6  # radius from which the search of step 2 starts at least: a fraction of a grey level


class OutOfRange(ValueError):
    """Images outside [0, 1], where a budget in grey levels has no meaning."""


class BadAttack(ValueError):
    """A budget, a network or a number type that the attack is not defined for."""


class NoTorchattacks(ValueError):
    """An attack of torchattacks, where it is not installed."""


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
        for rows, pixels, labels in _batches(model, x, y, batch_size):
            direction = _gradient(model, pixels, labels)[0].sign()
            for budget, images in zip(budgets, out, strict=True):
                images[rows] = (pixels + budget * direction).clamp(0, 1).to(x.device)
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
        for _, pixels, labels in _batches(model, x, y, batch_size):
            gradient, logits = _gradient(model, pixels, labels)
            direction = gradient.sign()
            clean.append(_loss_and_right(logits, labels))
            zero = ~direction.flatten(1).any(1)
            sure = logits.float().softmax(1).gather(1, labels[:, None])[:, 0] == 1
            facts.append(torch.stack([zero, sure]))
            with torch.no_grad():
                for name, budget in budgets.items():
                    then = model((pixels + budget * direction).clamp(0, 1))
                    attacked[name].append(_loss_and_right(then, labels))
    loss, right = torch.cat(clean, 1)
    zero, sure = torch.cat(facts, 1).double().mean(1).tolist()
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
            out |= _penalties(name, loss_then - loss, right - right_then, right == 1)
    return out


# ------------------------------------------------------------------------------------------------------- PGD


def pgd(
    model: nn.Module,
    x,
    y,
    eps: float,
    *,
    norm: str = "linf",
    steps: int = 40,
    step_size: float | None = None,
    restarts: int = 1,
    seed: int = 0,
    stop: bool = False,
    batch_size: int = 128,
) -> torch.Tensor:
    """Adversarial images by projected gradient ascent of the loss within a budget: (n, C, H, W).

        x_0 = x,   x_1 = P( x + eps u(x_0) ),   x_{t+1} = P( x_t + step_size u(x_t) )

    u(x)        sign of the loss gradient (norm="linf"), or the gradient over its L2 norm ("l2"); from the gradient
                divided by 1 - p_y, as in `fgsm`, which changes neither, and does not vanish for a sure network
    P           projection on the ball of radius eps, then on [0, 1], which leaves a point in the ball
    eps         budget in units of x, at most 1 for "linf" and sqrt(CHW) for "l2"
    steps       gradients an image and restart
    step_size   in units of x; None: 2.5 eps / steps, enough to cross the ball
    restarts    the first begins at x itself, and with a step of the whole budget, so that its second point is that
                of FGSM; each other one begins at random, uniformly in the ball
    seed        of the random beginnings, drawn for all n images at once
    stop        leave an image alone once it is misclassified: enough for accuracy under attack, and cheaper
    Returned is the best of all points visited, x and FGSM's included: a misclassified one before one that is not,
    then the highest loss. So PGD is never weaker than FGSM at the same budget, and a budget never helps a network.
    Mode, precision, x and y as in `fgsm`. Raises OutOfRange, BadAttack, models.BadInput.
    Source: Madry et al. 2018, section 2.1.
    """
    settings = {"norm": norm, "steps": steps, "step_size": step_size, "restarts": restarts, "seed": seed, "stop": stop}
    return _pgd(model, *_checked(model, x, y), eps, **settings, batch_size=batch_size).images


def pgd_penalties(
    model: nn.Module,
    x,
    y,
    grey_levels: Sequence[float] = (2,),
    *,
    steps: int = 40,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = 128,
) -> dict[str, float]:
    """What L-infinity PGD costs a network at each budget of g grey levels (g/255), over all images given.

    Keys, with {g} the grey levels; as in `fgsm_penalties`, which has the clean scores:
        loss_penalty_nats_pgd_eps{g}     mean highest loss over all points visited - clean loss
        accuracy_penalty_pgd_eps{g}      share of images right without an attack and wrong at some point visited
        ..._correct                      the same two over the images that are right without an attack
    One run gives both: the highest loss of an image and whether any point was misclassified are kept apart.
    x, y, errors, settings and source as in `pgd`.
    """
    x, y = _checked(model, x, y)
    out = {}
    for level in grey_levels:
        settings = {"steps": steps, "restarts": restarts, "seed": seed, "batch_size": batch_size}
        found = _pgd(model, x, y, level / 255, **settings)
        lost = found.clean_right.double() - found.right.double()
        out |= _penalties(f"pgd_eps{level:g}", found.loss - found.clean_loss, lost, found.clean_right)
    return out


class _Found(NamedTuple):
    """The best points (n, C, H, W), highest losses, no point wrong; and loss and right at x: each (n,)."""

    images: torch.Tensor
    loss: torch.Tensor
    right: torch.Tensor
    clean_loss: torch.Tensor
    clean_right: torch.Tensor


def _pgd(
    model, x, y, eps, *, norm="linf", steps=40, step_size=None, restarts=1, seed=0, stop=False, batch_size=128
) -> _Found:
    """PGD on checked images; eps a number, or a tensor with one budget an image."""
    if steps < 1 or restarts < 1:
        raise BadAttack(f"{steps} steps and {restarts} restarts leave nothing to do; give at least 1 of each")
    if not isinstance(eps, torch.Tensor):
        eps = _budget(eps, norm, x[0].numel())
    budget = torch.as_tensor(eps, dtype=x.dtype).expand(len(x))
    step = 2.5 * budget / steps if step_size is None else torch.full_like(budget, step_size)
    generator = torch.Generator().manual_seed(seed)
    noise = [_in_ball(x, norm, generator) for _ in range(restarts - 1)]
    parts = []
    with models.evaluating(model):
        for rows, pixels, labels in _batches(model, x, y, batch_size):
            starts = [None, *(_placed(model, start[rows], labels)[0] for start in noise)]
            near = _each(budget[rows].to(pixels.device), pixels)
            far = _each(step[rows].to(pixels.device), pixels)
            found = _ascend(model, pixels, labels, near, far, norm=norm, steps=steps, starts=starts, stop=stop)
            parts.append(_Found(*(part.to(x.device) for part in found)))
    return _Found(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _ascend(model, pixels, labels, budget, step, *, norm, steps, starts, stop) -> _Found:
    """One batch of PGD from each start, budget and step (n, 1, 1, 1); a start is noise in the unit ball, or None: x."""
    best, right = pixels.clone(), None
    for turn, start in enumerate(starts):
        rows = torch.arange(len(pixels), device=pixels.device)
        if turn and stop:
            rows = rows[right[rows]]
        points = pixels if start is None else _within(pixels, pixels + budget * start, budget, norm)
        points = points if len(rows) == len(pixels) else points[rows]
        for k in range(steps + 1):
            if not len(rows):
                break
            if k < steps:
                gradient, logits = _gradient(model, points, labels[rows])
            else:
                with torch.no_grad():
                    gradient, logits = points, _outputs(model, points, labels[rows])
            loss_now, right_now = _loss_and_right(logits, labels[rows])
            right_now = right_now.bool()
            if turn == k == 0:
                clean_loss, clean_right = loss_now, right_now
                highest, loss, right = loss_now.clone(), loss_now.clone(), right_now.clone()
            else:
                fools = right[rows] & ~right_now
                same = right[rows] == right_now
                better = fools | (same & (loss_now > loss[rows]))
                best[rows[better]], loss[rows[better]] = points[better], loss_now[better]
                right[rows] &= right_now
                highest[rows] = torch.fmax(highest[rows], loss_now)
            if stop and not right_now.all():
                rows, points, gradient = rows[right_now], points[right_now], gradient[right_now]
            length = budget[rows] if start is None and k == 0 else step[rows]
            points = _within(pixels[rows], points + length * _uphill(gradient, norm), budget[rows], norm)
    return _Found(best, highest, right, clean_loss, clean_right)


# ------------------------------------------------------------------------------------------ all of them by name


def attack(
    model: nn.Module,
    x,
    y,
    name: str,
    eps: float,
    *,
    norm: str = "linf",
    steps: int | None = None,
    queries: int = 5000,
    seed: int = 0,
    batch_size: int = 128,
) -> torch.Tensor:
    """Adversarial images (n, C, H, W) at budget eps by the attack of that name, one of ATTACKS.

    fgsm          the one step of `fgsm`; norm="l2": the step along the gradient
    pgd           as `pgd`: the highest loss found. 40 steps
    apgd_ce       PGD with a step size that adapts, on the cross-entropy: in float32, where its gradient is lost for a
                  network that is sure of an image by about 17 nats
    apgd_margin   the same on the margin, largest wrong output - true output, which is not lost. (The usual choice, the
                  difference of logits ratio, needs the third largest output)
    fab           steps to the linearized boundary; only images inside the budget count
    square        random squares, `queries` forward passes, no gradient
    autoattack    the worst case of four, each on the images that those before left: APGD on the cross-entropy, targeted
                  APGD, targeted FAB and Square from 4 classes on ("standard"); with 2 or 3 classes, where the targeted
                  loss has no meaning, APGD on the cross-entropy, APGD on the margin, FAB and Square
    steps         gradients; None: 40 for pgd, and 100 for APGD and FAB, as their authors have it
    All but the first two are torchattacks' and made to be wrong, not to have a high loss: an image that is wrong
    already, or that they cannot change the answer of, comes back as it is. Their random numbers are drawn anew from
    `seed` for each batch, so for them batch_size is part of the seed. The caller's random numbers, the network's mode
    and gradients stay as they were. Raises OutOfRange, BadAttack, NoTorchattacks, models.BadInput.
    Source: Croce & Hein 2020 (APGD, AutoAttack; FAB), Andriushchenko et al. 2020 (Square); else as above.
    """
    if name not in ATTACKS:
        raise BadAttack(f"there is no attack '{name}'; choose one of {', '.join(ATTACKS)}")
    x, y = _checked(model, x, y)
    eps = _budget(eps, norm, x[0].numel())
    if name == "pgd":
        return _pgd(model, x, y, eps, norm=norm, steps=steps or 40, seed=seed, batch_size=batch_size).images
    if name in ("square", "autoattack") and norm == "l2" and min(x.shape[-2:]) < 5:
        raise BadAttack(f"images are {x.shape[-2]} x {x.shape[-1]}, and Square in l2 needs 5 pixels a side; use linf")
    torchattacks = None if name == "fgsm" else _torchattacks()
    out = torch.empty_like(x)
    with models.evaluating(model):
        for rows, pixels, labels in _batches(model, x, y, batch_size):
            if name == "fgsm":
                moved = pixels + eps * _uphill(_gradient(model, pixels, labels)[0], norm)
                found = _within(pixels, moved, torch.full_like(_each(labels, pixels), eps, dtype=x.dtype), norm)
            else:
                settings = {"norm": norm, "steps": steps or 100, "queries": queries, "seed": seed}
                found = _borrowed(torchattacks, model, pixels, labels, name, eps, **settings)
            out[rows] = found.to(x.device)
    return out


def _borrowed(torchattacks, model, pixels, labels, name, eps, *, norm, steps, queries, seed) -> torch.Tensor:
    """Images attacked by torchattacks: in the budget and the range, without a gradient, changed only where wrong."""
    gpu = [pixels.device] if pixels.device.type == "cuda" else []
    with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=gpu):
        pixels, labels = pixels.clone(), labels.clone()
        logits = _outputs(model, pixels, labels)
        right = _loss_and_right(logits, labels)[1].bool()
        n_classes = logits.shape[1]
        if name == "autoattack":
            names = ("apgd_ce", "apgd_margin", "fab", "square")
            if n_classes >= 4:
                names = ("apgd_ce", "apgd_targeted", "fab_targeted", "square")
        else:
            names = (name,)
        out, budget = pixels.clone(), pixels.new_full((1, 1, 1, 1), eps)
        network = _Float32(model).eval()  # torchattacks puts back the mode it finds
        common = {"norm": {"linf": "Linf", "l2": "L2"}[norm], "eps": eps, "seed": seed}
        targets = {"n_classes": min(n_classes, 10)}  # nine targets at most, as its authors have it
        for part in names:
            if eps == 0 or not right.any():
                break
            made = {
                "apgd_ce": lambda: torchattacks.APGD(network, steps=steps, loss="ce", **common),
                "apgd_margin": lambda: _margin_apgd(torchattacks)(network, steps=steps, loss="dlr", **common),
                "apgd_targeted": lambda: torchattacks.APGDT(network, steps=steps, **targets, **common),
                "fab": lambda: torchattacks.FAB(network, steps=steps, **common),
                "fab_targeted": lambda: torchattacks.FAB(
                    network, steps=steps, multi_targeted=True, **targets, **common
                ),
                "square": lambda: torchattacks.Square(network, n_queries=queries, **common),
            }[part]()
            rows = right.nonzero()[:, 0]
            with torch.enable_grad():
                found = made(pixels[rows].float(), labels[rows]).detach().to(pixels.dtype)
            found = _within(pixels[rows], found, budget, norm)
            fooled = model(found).argmax(1) != labels[rows]
            out[rows[fooled]], right[rows[fooled]] = found[fooled], False
    return out


class _Float32(nn.Module):
    """A network for torchattacks, which computes in float32 alone."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels):
        pixels = pixels.to(models.placement(self.model)[1], memory_format=models.memory_format(pixels.shape[-2:]))
        return self.model(pixels).float()


def _margin_apgd(torchattacks):
    class MarginAPGD(torchattacks.APGD):
        def dlr_loss(self, x, y):
            true = functional.one_hot(y, x.shape[1]).bool()
            return x.masked_fill(true, -torch.inf).max(1).values - x[true]

    return MarginAPGD


def _torchattacks():
    try:
        import torchattacks
    except ImportError as error:
        raise NoTorchattacks(
            "torchattacks is not installed, and APGD, FAB, Square and AutoAttack are its own; "
            "install it by itself, pip install --no-deps torchattacks, since it pins an old package that it never uses"
        ) from error
    return torchattacks


# ---------------------------------------------------------------------------------------------- minimal radius


def minimal_radius(
    model: nn.Module,
    x,
    y,
    *,
    norm: str = "l2",
    gradients: int = 100,
    batch_size: int = 128,
    return_images: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Distance from each image to the nearest adversarial image found: float64 (n,), in units of x.

        r(x) = min { |x' - x| : x' in [0, 1], the network's answer at x' is not y }

    What is found is an upper bound of it.
    norm           "l2", or "linf"
    gradients      at most so many an image
    return_images  give (radius, images): the adversarial images, or the image itself where none was found
    0 where the network is wrong at x; infinity where nothing was found, as for a network that ignores its input.

    1. One gradient: the nearest point in [0, 1] of the linearized boundary, exactly so for two classes (for more, along
       the gradient of the loss, which mixes the wrong classes); and the first of nine points on the ray to it that is
       misclassified.
    2. PGD in a ball whose radius e is the image's own: from an eighth of the distance in 1 it grows by a tenth each
       step until a point is misclassified; then it shrinks by a factor 1 - g while points are misclassified and grows
       by 1 + g while they are not, never beyond the best radius. Steps are a e long, and half the last step is added.
       a falls from 1/4 to 1/100 and g from 1/20 to 1/1000, each as a half period of a cosine.
    3. Bisection of the segment from x to the best point: forward passes only.
    Exact on a linear network of two classes, at the range's ends too: |w.x + b| / |w|_2, or |w.x + b| / |w|_1, where
    no pixel reaches 0 or 1. No number is drawn. Mode, precision, x, y and errors as in `fgsm`.
    Source: Rony et al. 2019 (the radius that grows and shrinks); Pintor et al. 2021 (cosines, and both norms);
    Croce & Hein 2020 (the linearized boundary in a box).
    """
    x, y = _checked(model, x, y)
    _budget(0, norm)
    if gradients < 1:
        raise BadAttack(f"{gradients} gradients find nothing; give at least 1")
    radius, images = torch.empty(len(x), dtype=torch.float64), torch.empty_like(x)
    with models.evaluating(model):
        for rows, pixels, labels in _batches(model, x, y, batch_size):
            found, near = _nearest(model, pixels, labels, norm, gradients)
            radius[rows], images[rows] = found.cpu(), near.to(x.device)
    return (radius, images) if return_images else radius


def _nearest(model, pixels, labels, norm, gradients) -> tuple[torch.Tensor, torch.Tensor]:
    """(radius, adversarial image) of one batch."""
    gradient, logits = _gradient(model, pixels, labels)
    wrong = ~_loss_and_right(logits, labels)[1].bool()
    images = pixels.clone()
    best = torch.where(wrong, 0.0, torch.inf).double()

    def look(rows, points, logits):
        """Keep points that are misclassified and nearer; which ones are misclassified."""
        fools = ~_loss_and_right(logits, labels[rows])[1].bool()
        length = _distance(points, pixels[rows], norm)
        nearer = fools & (length < best[rows])
        best[rows[nearer]], images[rows[nearer]] = length[nearer], points[nearer]
        return fools

    rows = (~wrong).nonzero()[:, 0]
    if not len(rows):
        return best, images
    start, aim, gradient = pixels[rows], labels[rows], gradient[rows]
    step = _to_boundary(start, gradient, _margin(logits[rows], aim), norm)
    with torch.no_grad():
        for t in RAY:
            points = (start + t * step).clamp(0, 1)
            look(rows, points, model(points))
    radius = torch.minimum(best[rows], _distance(start + step, start, norm)) / 8
    radius = radius.clamp_min(SMALLEST)  # of two equal outputs the boundary is here, and no rate enlarges 0
    points, last, found = start, torch.zeros_like(start), torch.zeros_like(wrong[rows])
    for k in range(1, gradients + 1):
        fall = (1 + math.cos(math.pi * k / gradients)) / 2
        size, change = 0.01 + 0.24 * fall, 0.001 + 0.049 * fall
        e = _each(radius.to(start.dtype), start)
        ahead = points + (e if k == 1 else size * e) * _uphill(gradient, norm) + last / 2
        ahead = _within(start, ahead, e, norm)
        points, last = ahead, ahead - points
        if k < gradients:
            gradient, logits = _gradient(model, points, aim)
        else:
            with torch.no_grad():
                logits = model(points)
        fools = look(rows, points, logits)
        found |= fools
        rate = torch.where(fools, 1 - change, torch.where(found, 1 + change, 1.1))
        radius = torch.minimum(radius * rate, torch.where(fools, best[rows] * rate, best[rows]))
    rows = rows[torch.isfinite(best[rows])]
    best[rows], images[rows] = _back(model, pixels[rows], images[rows], labels[rows], norm)
    return best, images


def _back(model, pixels, images, labels, norm, halvings=16) -> tuple[torch.Tensor, torch.Tensor]:
    """(radius, images) after bisecting each segment from pixels, right, to images, misclassified."""
    if not len(pixels):
        return pixels.new_zeros(0, dtype=torch.float64), images
    low, high = torch.zeros_like(labels, dtype=pixels.dtype), torch.ones_like(labels, dtype=pixels.dtype)
    best = images
    with torch.no_grad():
        for _ in range(halvings):
            middle = (low + high) / 2
            points = pixels + _each(middle, pixels) * (images - pixels)
            wrong = ~_loss_and_right(model(points), labels)[1].bool()
            low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
            best = torch.where(_each(wrong, pixels), points, best)
    return _distance(best, pixels, norm), best


def _margin(logits, labels) -> torch.Tensor:
    """True output - largest wrong output."""
    true = functional.one_hot(labels, logits.shape[1]).bool()
    return logits[true] - logits.masked_fill(true, -torch.inf).amax(1)


def _to_boundary(pixels, gradient, margin, norm) -> torch.Tensor:
    """The least step d that a linear network needs, and a thousandth more: gradient . d = 1.001 margin.

    With pixels + d in [0, 1]; all the way to its ends where even that does not do. In sorted order of how far a
    pixel can go along its own direction, the gain is linear between one pixel's end and the next.
    """
    w, x = gradient.double().flatten(1), pixels.double().flatten(1)
    room = torch.where(w > 0, 1 - x, x)
    pace = w.abs() if norm == "l2" else (w != 0).double()
    until, order = torch.where(pace > 0, room / pace.clamp_min(_TINY), 0.0).sort(1)
    rate = (w.abs() * pace).gather(1, order)
    spent = (w.abs() * room).gather(1, order)
    before = spent.cumsum(1) - spent
    left = rate.flip(1).cumsum(1).flip(1)
    need = 1.001 * margin.double()[:, None]
    stage = torch.searchsorted(before + until * left, need).clamp_max(w.shape[1] - 1)
    t = ((need - before.gather(1, stage)) / left.gather(1, stage).clamp_min(_TINY)).clamp_min(0)
    return (w.sign() * torch.minimum(t * pace, room)).view_as(pixels).to(pixels.dtype)


def radius_by_bisection(
    model: nn.Module,
    x,
    y,
    *,
    norm: str = "l2",
    rounds: int = 12,
    steps: int = 40,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = 128,
) -> torch.Tensor:
    """The same radius by PGD at `rounds` budgets an image, bisected: float64 (n,), an upper bound of it too.

    A budget at which PGD finds something is replaced by that image's distance, after bisection of the segment to
    it. The first budget is the whole range. rounds x steps gradients at most: a check of `minimal_radius`, and slow.
    0, infinity, mode, precision, x, y and errors as there; PGD as in `pgd`.
    """
    x, y = _checked(model, x, y)
    _budget(0, norm)
    whole = 1.0 if norm == "linf" else math.sqrt(x[0].numel())
    low, high = torch.zeros(len(x), dtype=torch.float64), torch.full((len(x),), torch.inf, dtype=torch.float64)
    settings = {"norm": norm, "steps": steps, "restarts": restarts, "seed": seed, "stop": True}
    todo = torch.arange(len(x))
    for _ in range(rounds):
        budget = torch.where(torch.isfinite(high), (low + high) / 2, whole)[todo]
        found = _pgd(model, x[todo], y[todo], budget.to(x.dtype), **settings, batch_size=batch_size)
        fooled = ~found.right.cpu()
        low[todo[~fooled]] = budget[~fooled]
        rows, images = todo[fooled], found.images[fooled]
        with models.evaluating(model):
            for part, pixels, labels in _batches(model, x[rows], y[rows], batch_size):
                points = _placed(model, images[part], labels)[0]
                high[rows[part]] = torch.minimum(high[rows[part]], _back(model, pixels, points, labels, norm)[0].cpu())
        todo = (torch.isfinite(high) & (high > 0)).nonzero()[:, 0]
        if not len(todo):
            break
    return high


# ------------------------------------------------------------------------------------------- an attack record


def sanity(
    model: nn.Module,
    x,
    y,
    *,
    grey_levels: Sequence[float] = (1, 2, 4, 8),
    level: float = 2,
    steps: int = 10,
    queries: int = 100,
    seed: int = 0,
    batch_size: int = 128,
) -> dict[str, float]:
    """What shows that an attack works, on a few images: each number with the value it should have.

        sanity_accuracy_rise             0: the largest rise of the accuracy under PGD from one budget to the next
                                         larger one, over no attack, the grey levels and the whole range
        sanity_accuracy_pgd_eps255       0: accuracy under PGD at budget 1.0
        sanity_square_only_fraction      0: share of images that Square fools at `level` grey levels, in `queries`
                                         queries, and PGD does not: a sign that gradients are masked. Without
                                         queries it is left out
        gradient_zero_fraction           0, as in `fgsm_penalties`
        saturated_fraction               no value is wrong; the attacks of this module do not suffer from it
        sanity_images                    how many images that is: 16 or so are enough
    All L-infinity. x, y and errors as in `pgd`; NoTorchattacks, since Square is torchattacks' own.
    """
    plain = fgsm_penalties(model, x, y, (), batch_size)
    levels = sorted({*grey_levels, level, 255})
    settings = {"steps": steps, "seed": seed, "batch_size": batch_size}
    right = {g: _pgd(model, *_checked(model, x, y), g / 255, stop=True, **settings).right for g in levels}
    accuracy = [plain["clean_accuracy"], *(float(r.double().mean()) for r in right.values())]
    out = {
        "sanity_accuracy_rise": max(0.0, *(b - a for a, b in itertools.pairwise(accuracy))),
        "sanity_accuracy_pgd_eps255": accuracy[-1],
        "gradient_zero_fraction": plain["gradient_zero_fraction"],
        "saturated_fraction": plain["saturated_fraction"],
        "sanity_images": float(len(x)),
    }
    if queries:
        tried = attack(model, x, y, "square", level / 255, queries=queries, seed=seed, batch_size=batch_size)
        only = right[level] & ~_right(model, tried, y, batch_size)
        out["sanity_square_only_fraction"] = float(only.double().mean())
    return out


def record_metrics(
    model: nn.Module,
    x,
    y,
    *,
    grey_levels: Sequence[float] = (1, 2, 4, 8),
    pgd_levels: Sequence[float] = (2,),
    pgd_steps: int = 20,
    radius_images: int = 0,
    sanity_images: int = 16,
    seed: int = 0,
    batch_size: int = 128,
) -> tuple[dict[str, float | None], dict[str, str]]:
    """All metrics of one attack record: (metrics, reasons), finite numbers, or None with a reason.

    1. `fgsm_penalties` at the grey levels and `pgd_penalties` at the PGD levels, over all images;
    2. `minimal_radius` of the first `radius_images` images, for "l2" and "linf":
           radius_{norm}_mean, _q25, _median, _q75         over those images, the misclassified ones with radius 0
           ..._correct                                     over the ones that are right without an attack
           radius_{norm}_none_fraction                     share of images where no adversarial image was found: one
                                                           of them makes a mean None, and a quantile above it
           radius_images                                   how many
    3. `sanity` of the first `sanity_images` images; 0: none.
    x, y and errors as in `pgd`. An image costs 1 + (PGD levels) x pgd_steps gradients, 200 more for its radii, and
    at most 10 a budget in the sanity checks, with 100 queries.
    """
    settings = {"seed": seed, "batch_size": batch_size}
    metrics, reasons = {}, {}
    few = min(sanity_images, len(x))
    if few:
        queries = 100
        try:
            _torchattacks()
        except NoTorchattacks as missing:
            queries = 0
            metrics["sanity_square_only_fraction"] = None
            reasons["sanity_square_only_fraction"] = str(missing)
        metrics |= sanity(model, x[:few], y[:few], grey_levels=grey_levels, queries=queries, **settings)
    metrics |= fgsm_penalties(model, x, y, grey_levels, batch_size)
    metrics |= pgd_penalties(model, x, y, pgd_levels, steps=pgd_steps, **settings)
    if radius_images:
        few = min(radius_images, len(x))
        right = _right(model, x[:few], y[:few], batch_size)
        metrics["radius_images"] = float(few)
        for norm in NORMS:
            radius = minimal_radius(model, x[:few], y[:few], norm=norm, batch_size=batch_size)
            metrics |= _radii(norm, radius, right)
    for key, value in metrics.items():
        if value is None or math.isfinite(value):
            continue
        metrics[key] = None
        if (
            key.endswith("_correct")
            and math.isnan(value)
            and (key.startswith("radius") or metrics["clean_accuracy"] == 0)
        ):
            reasons[key] = "no image is right without an attack"
        elif key.startswith("radius"):
            reasons[key] = "no adversarial image was found for some of the images"
        else:
            reasons[key] = f"the network's outputs are not finite: the value is {value}"
    return metrics, reasons


def _radii(norm, radius, right) -> dict[str, float]:
    """Mean and quartiles of radii, over all images and over the right ones."""
    out = {f"radius_{norm}_none_fraction": float(torch.isinf(radius).double().mean())}
    for end, some in (("", radius), ("_correct", radius[right])):
        out[f"radius_{norm}_mean{end}"] = float(some.mean())
        for name, q in (("q25", 0.25), ("median", 0.5), ("q75", 0.75)):
            value = float(some.quantile(q)) if len(some) else math.nan
            between = len(some) > 0 and math.isnan(value)  # torch has NaN between a number and infinity
            out[f"radius_{norm}_{name}{end}"] = math.inf if between else value
    return out


def _right(model, x, y, batch_size) -> torch.Tensor:
    """Whether each image's answer is y: bool (n,)."""
    x, y = _checked(model, x, y)
    with models.evaluating(model), torch.no_grad():
        parts = [_loss_and_right(model(p), labels)[1].cpu() for _, p, labels in _batches(model, x, y, batch_size)]
    return torch.cat(parts).bool()


# ---------------------------------------------------------------------------------------------------- parts


def _gradient(model, pixels, labels) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss gradient / (1 - p_y) at each pixel, outputs). One forward and one backward pass."""
    with torch.inference_mode(False), torch.enable_grad():
        pixels = pixels.detach().clone().requires_grad_(True)
        logits = _outputs(model, pixels, labels)
        true = functional.one_hot(labels, logits.shape[1]).bool()
        wrong = logits.detach().masked_fill(true, -torch.inf).softmax(1)
        (gradient,) = torch.autograd.grad(logits, pixels, grad_outputs=wrong - true.to(wrong.dtype))
    return gradient, logits.detach()


def _outputs(model, pixels, labels) -> torch.Tensor:
    logits = model(pixels)
    training.check_outputs(logits, int(labels.max()))
    if logits.shape[1] < 2:
        raise BadAttack("the network has one output, and a cross-entropy needs two; give it one output a class")
    return logits


def _penalties(name, loss, accuracy, correct) -> dict[str, float]:
    """Means of what is lost over all images, and over those that are right without an attack."""
    lost = {f"loss_penalty_nats_{name}": loss, f"accuracy_penalty_{name}": accuracy}
    return {
        key: float(part.mean())
        for name, value in lost.items()
        for key, part in ((name, value), (f"{name}_correct", value[correct]))
    }


def _loss_and_right(logits, labels) -> torch.Tensor:
    loss, _, right = training.image_scores(logits, labels)
    return torch.stack([loss, right])


def _uphill(gradient, norm) -> torch.Tensor:
    """The step of norm 1 that raises the loss fastest; 0 where the gradient is."""
    if norm == "linf":
        return gradient.sign()
    gradient = gradient / _each(gradient.flatten(1).abs().amax(1), gradient).clamp_min(_TINY)  # no square underflows
    return gradient / _each(gradient.flatten(1).norm(dim=1), gradient).clamp_min(_TINY)


def _within(pixels, points, budget, norm) -> torch.Tensor:
    """Points moved into the ball of radius budget (n, 1, 1, 1) around pixels, then into [0, 1]."""
    if norm == "linf":
        return torch.clamp(points, pixels - budget, pixels + budget).clamp_(0, 1)
    away = points - pixels
    length = _each(away.flatten(1).norm(dim=1), away).clamp_min(_TINY)
    return (pixels + away * (budget / length).clamp_max(1)).clamp_(0, 1)


def _in_ball(x, norm, generator) -> torch.Tensor:
    """Uniform noise in the unit ball, one point an image."""
    if norm == "linf":
        return 2 * torch.rand(x.shape, generator=generator, dtype=x.dtype) - 1
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    radius = torch.rand(len(x), generator=generator, dtype=x.dtype) ** (1 / x[0].numel())
    return noise * _each(radius, x) / _each(noise.flatten(1).norm(dim=1), x)


def _distance(a, b, norm) -> torch.Tensor:
    """Distance between images, float64 (n,)."""
    away = (a.double() - b.double()).flatten(1)
    return away.norm(dim=1) if norm == "l2" else away.abs().amax(1)


def _each(values, like) -> torch.Tensor:
    """One value an image, shaped to multiply images."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _batches(model, x, y, batch_size):
    """(rows, images, labels) of each batch, where the network is."""
    for start in range(0, len(x), batch_size):
        rows = slice(start, start + batch_size)
        yield rows, *_placed(model, x[rows], y[rows])


def _placed(model, pixels, labels):
    device, dtype = models.placement(model)
    layout = models.memory_format(pixels.shape[-2:])
    return pixels.to(device, dtype, memory_format=layout), labels.to(device)


def _budget(eps: float, norm: str = "linf", pixels: int = 1) -> float:
    if norm not in NORMS:
        raise BadAttack(f"the norm is {norm!r}, and distances are measured in 'linf' or 'l2'; give one of these")
    largest = 1 if norm == "linf" else math.sqrt(pixels)
    if not 0 <= eps <= largest:
        raise BadAttack(
            f"a budget is {eps:g}, but images in [0, 1] are at most {largest:g} apart in {norm}; give budgets "
            f"from 0 to {largest:g}, in units of x, as 2/255"
        )
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
