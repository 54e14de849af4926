"""Attacks on a network, the nearest adversarial image, and their cost: images in [0, 1], plain float32.

Gradients are of sums over images, so batches do not matter, except to attacks of torchattacks, which draw numbers.
"""

import copy
import inspect
import itertools
import math
from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import nn
from torch.nn import functional

from intrinsic.networks import models, training

NORMS = ("linf", "l2")
RAY = (8, 4, 2, 1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)  # points on the way to the linearized boundary, and beyond
TINY = 1e-30  # in place of 0 in a denominator
SMALLEST = 1e-6  # the least radius that the search for a minimal one starts from
HALVINGS = 16  # of the last segment of that search
PGD_STEPS = 40


class BadAttack(ValueError):
    """A budget, a network or a number type that the attack is not defined for."""


def attack(
    network: nn.Module, images, labels, budgets: Sequence[float] = (2 / 255,), method="fgsm", *, norm="linf", **options
) -> torch.Tensor:
    r"""Adversarial images of a network at several budgets.

    FGSM is one step, so that all its budgets come from one gradient an image:

    .. math:: x_\epsilon = \mathrm{clamp}(x + \epsilon\, \mathrm{sign}\, \nabla_x L(x, y),\ 0,\ 1)

    At the outputs the gradient is :math:`p_c - 1(c = y)`. We divide it by :math:`1 - p_y` in closed form, which keeps
    the sign: -1 at the true class, a softmax over the wrong ones elsewhere. So it does not vanish for a sure network.

    Parameters
    ----------
    network : torch.nn.Module
        In float32. It stays as it was.
    images : array or tensor
        uint8, or floats in [0, 1]: (n, H, W), (n, C, H, W) or (n, H, W, C).
    labels : array or tensor, shape (n,)
        True labels. FGSM and PGD also attack images that the network gets wrong.
    budgets : sequence of float
        Largest distances from the image, in units of the range [0, 1]: 2/255 is two grey levels.
    method : str
        "fgsm"; "pgd", many small steps, of which the best point counts; or the name of an attack of torchattacks with
        budgets, such as "square", "apgd", "fab", "autoattack".
    norm : {"linf", "l2"}
        Of the budgets.
    **options
        For "pgd": steps (40). For others, the arguments of torchattacks.

    Returns
    -------
    torch.Tensor, shape (budgets, n, C, H, W)

    Raises
    ------
    BadAttack, models.BadInput

    References
    ----------
    Goodfellow et al. 2015 (FGSM); Madry et al. 2018 (PGD); Kim 2020 (torchattacks).

    Examples
    --------
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> images = torch.full((3, 1, 2, 2), 0.5)
    >>> near = attack(network, images, [0, 1, 1], [0.1, 0.2])
    >>> (near - images).abs().amax((1, 2, 3, 4))
    tensor([0.1000, 0.2000])
    """
    x, y = _checked(network, images, labels)
    budgets = [_budget(eps, norm, x[0].numel()) for eps in budgets]
    out = x.new_empty((len(budgets), *x.shape))
    with models.evaluating(network):
        for rows, pixels, aim in _batches(network, x, y):
            uphill = _uphill(_gradient(network, pixels, aim)[0], norm) if method == "fgsm" else None
            for images_at, eps in zip(out, budgets, strict=True):
                if method == "fgsm":
                    found = _within(pixels, pixels + eps * uphill, eps, norm)
                elif method == "pgd":
                    found = _ascend(network, pixels, aim, eps, norm, **options)[0]
                else:
                    found = _borrowed(network, pixels, aim, eps, method, norm, options)
                images_at[rows] = found.to(x.device)
    return out


def _borrowed(network, x, y, eps, method, norm, options) -> torch.Tensor:
    """One batch attacked by torchattacks, which changes only images that are right."""
    import torchattacks

    made = {name.lower(): getattr(torchattacks, name) for name in torchattacks.__all__}.get(method.lower())
    if made is None or "eps" not in inspect.signature(made).parameters:
        raise BadAttack(f"there is no attack '{method}' with budgets; give 'fgsm', 'pgd' or one of torchattacks")
    logits, side = _outputs(network, x, y), x.shape[-1]
    if method.lower() in ("autoattack", "apgdt") and logits.shape[1] < 4:
        raise BadAttack(f"{method} needs 4 classes and the network has {logits.shape[1]}; use 'apgd', 'fab', 'square'")
    tile = max(side // 5, 1)
    fits = side >= 5 and (side - 5 * tile) // 2 + side // tile * tile <= side
    if method.lower() == "square" and norm == "l2" and not fits:
        raise BadAttack(f"Square cannot tile {side} x {side} pixels in l2; resize the images, or use linf")
    if "norm" in inspect.signature(made).parameters:
        options = options | {"norm": {"linf": "Linf", "l2": "L2"}[norm]}
    right = _scores(logits, y)[1].bool()
    out = x.clone()
    if eps and right.any():
        frozen = copy.deepcopy(network).requires_grad_(False)  # some leave gradients behind
        with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []), torch.enable_grad():
            found = made(frozen, eps=eps, **options)(x[right], y[right]).detach()
        out[right] = _within(x[right], found, eps, norm)
    return out


def fgsm_penalties(network: nn.Module, images, labels, grey_levels: Sequence[float] = (1, 2, 4, 8)) -> dict[str, float]:
    """What FGSM costs a network at each budget of g grey levels (g/255), over all images given.

    Keys, with {g} the grey levels; losses are in float64, and NaN where outputs are not finite:
        clean_loss_nats, clean_accuracy, misclassified_fraction     without an attack
        loss_penalty_nats_eps{g}, accuracy_penalty_eps{g}           mean loss gained, mean accuracy lost
        ..._correct                 the same two over images that are right without an attack; NaN without any
        accuracy_eps255             accuracy at budget 1, the whole range: a sanity check, near 0
        gradient_zero_fraction      share of images that FGSM leaves alone: no gradient at any pixel
        saturated_fraction          share of images with p_y = 1 in float32
    """
    x, y = _checked(network, images, labels)
    budgets = {f"eps{g:g}": _budget(g / 255) for g in (*grey_levels, 255)}
    parts = {name: [] for name in ("clean", "facts", *budgets)}
    with models.evaluating(network):
        for _, pixels, aim in _batches(network, x, y):
            gradient, logits = _gradient(network, pixels, aim)
            direction = gradient.sign()
            sure = logits.float().softmax(1).gather(1, aim[:, None])[:, 0] == 1
            parts["clean"].append(_scores(logits, aim))
            parts["facts"].append(torch.stack([~direction.flatten(1).any(1), sure]).double())
            for name, eps in budgets.items():
                parts[name].append(_scores(_outputs(network, (pixels + eps * direction).clamp(0, 1), aim), aim))
    found = {name: torch.cat(each, 1) for name, each in parts.items()}
    loss, right = found["clean"]
    out = {
        "clean_loss_nats": float(loss.mean()),
        "clean_accuracy": float(right.mean()),
        "misclassified_fraction": float((1 - right).mean()),
        "gradient_zero_fraction": float(found["facts"][0].mean()),
        "saturated_fraction": float(found["facts"][1].mean()),
        "accuracy_eps255": float(found["eps255"][1].mean()),
    }
    for name in (f"eps{g:g}" for g in grey_levels):
        out |= _penalties(name, found[name][0] - loss, right - found[name][1], right == 1)
    return out


def pgd_penalties(network: nn.Module, images, labels, grey_levels: Sequence[float] = (2,), steps=PGD_STEPS) -> dict:
    """What L-infinity PGD costs a network: loss_penalty_nats_pgd_eps{g}, accuracy_penalty_pgd_eps{g}, ..._correct.

    The loss is the highest of all points visited; the accuracy counts images that are right at all of them.
    """
    out = {}
    for level in grey_levels:
        loss, right, clean_loss, clean_right = _pgd(network, images, labels, level / 255, steps)
        lost = clean_right.double() - right.double()
        out |= _penalties(f"pgd_eps{level:g}", loss - clean_loss, lost, clean_right)
    return out


def _penalties(name, loss, accuracy, correct) -> dict[str, float]:
    """Means of what is lost over all images, and over those that are right without an attack."""
    lost = {f"loss_penalty_nats_{name}": loss, f"accuracy_penalty_{name}": accuracy}
    lost |= {f"{key}_correct": value[correct] for key, value in lost.items()}
    return {key: float(value.mean()) for key, value in lost.items()}


def _pgd(network, images, labels, eps, steps) -> list[torch.Tensor]:
    """Of L-infinity PGD, each (n,): highest loss, whether all points are right, and both at x; without steps at x."""
    x, y = _checked(network, images, labels)
    eps = _budget(eps)
    with models.evaluating(network):
        parts = [_ascend(network, pixels, aim, eps, "linf", steps)[1:] for _, pixels, aim in _batches(network, x, y)]
    return [torch.cat(part).cpu() for part in zip(*parts, strict=True)]


def _ascend(network, x, y, eps, norm, steps=PGD_STEPS):
    """Projected gradient ascent of one batch: (best points, highest loss, all points right; loss and right at x).

    The first step is of the whole budget, so its point is that of FGSM; the others are 2.5 eps / steps long. The best
    point is a misclassified one before one that is not, then the one of highest loss.
    """
    budget, points = x.new_tensor(eps), x
    for k in range(steps + 1):
        gradient, logits = _gradient(network, points, y) if k < steps else (None, _outputs(network, points, y))
        loss, right = _scores(logits, y)
        right = right.bool()
        if k == 0:
            best, best_loss, highest, all_right = x, loss, loss, right
            clean_loss, clean_right = loss, right
        better = (all_right & ~right) | ((all_right == right) & (loss > best_loss))
        best, best_loss = torch.where(_each(better, x), points, best), torch.where(better, loss, best_loss)
        highest, all_right = torch.fmax(highest, loss), all_right & right
        if k < steps:
            length = budget if k == 0 else 2.5 * budget / steps
            points = _within(x, points + length * _uphill(gradient, norm), budget, norm)
    return best, highest, all_right, clean_loss, clean_right


def minimal_radius(network: nn.Module, images, labels, *, norm: str = "l2", gradients: int = 100) -> torch.Tensor:
    """Distance from each image to the nearest adversarial image found: an upper bound of the minimal radius.

    One gradient gives the nearest point in [0, 1] of the linearized boundary; nine points on the ray to it are tried.
    PGD then runs in a ball that shrinks while points are misclassified and grows while they are not, and the segment
    to the best point is bisected. The result is exact on a linear network of two classes.

    Parameters
    ----------
    network, images, labels
        As in `attack`.
    norm : {"l2", "linf"}
        Of the distance, in units of the range [0, 1].
    gradients : int
        At most so many an image.

    Returns
    -------
    torch.Tensor, shape (n,), float64
        0 where the network is wrong at x, infinity where nothing was found.

    References
    ----------
    Rony et al. 2019 (the ball); Pintor et al. 2021 (cosine schedules); Croce & Hein 2020 (the boundary in a box).
    """
    x, y = _checked(network, images, labels)
    _budget(0, norm)
    if gradients < 1:
        raise BadAttack(f"{gradients} gradients find nothing; give at least 1")
    with models.evaluating(network):
        found = [_nearest(network, pixels, aim, norm, gradients)[0].cpu() for _, pixels, aim in _batches(network, x, y)]
    return torch.cat(found)


def _nearest(network, pixels, labels, norm, gradients) -> tuple[torch.Tensor, torch.Tensor]:
    """(radius, adversarial image) of one batch."""
    gradient, logits = _gradient(network, pixels, labels)
    wrong = ~_scores(logits, labels)[1].bool()
    images = pixels.clone()
    best = torch.where(wrong, 0.0, torch.inf).double()
    rows = (~wrong).nonzero()[:, 0]
    if not len(rows):
        return best, images
    start, aim, gradient = pixels[rows], labels[rows], gradient[rows]

    def look(points, logits):
        """Keep points that are misclassified and nearer; return which are misclassified."""
        fools = ~_scores(logits, aim)[1].bool()
        length = _distance(points, start, norm)
        nearer = fools & (length < best[rows])
        best[rows[nearer]], images[rows[nearer]] = length[nearer], points[nearer]
        return fools

    step = _to_boundary(start, gradient, _margin(logits[rows], aim), norm)
    for t in RAY:
        points = (start + t * step).clamp(0, 1)
        look(points, _outputs(network, points, aim))
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
        gradient, logits = _gradient(network, points, aim) if k < gradients else (None, _outputs(network, points, aim))
        fools = look(points, logits)
        found |= fools
        rate = torch.where(fools, 1 - change, torch.where(found, 1 + change, 1.1))
        radius = torch.minimum(radius * rate, torch.where(fools, best[rows] * rate, best[rows]))
    rows = rows[torch.isfinite(best[rows])]
    if len(rows):
        best[rows], images[rows] = _bisected(network, pixels[rows], images[rows], labels[rows], norm)
    return best, images


def _bisected(network, pixels, images, labels, norm) -> tuple[torch.Tensor, torch.Tensor]:
    """(radius, images) after bisecting each segment from pixels, right, to images, misclassified."""
    low, high = torch.zeros_like(labels, dtype=pixels.dtype), torch.ones_like(labels, dtype=pixels.dtype)
    best = images
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        points = pixels + _each(middle, pixels) * (images - pixels)
        wrong = ~_scores(_outputs(network, points, labels), labels)[1].bool()
        low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
        best = torch.where(_each(wrong, pixels), points, best)
    return _distance(best, pixels, norm), best


def _to_boundary(pixels, gradient, margin, norm) -> torch.Tensor:
    """The least step d that a linear network needs, and a thousandth more: gradient . d = 1.001 margin.

    With pixels + d in [0, 1], to its ends where even that is too little. In sorted order of how far a pixel can go,
    the gain is linear between one pixel's end and the next.
    """
    w, x = gradient.double().flatten(1), pixels.double().flatten(1)
    room = torch.where(w > 0, 1 - x, x)
    pace = w.abs() if norm == "l2" else (w != 0).double()
    until, order = torch.where(pace > 0, room / pace.clamp_min(TINY), 0.0).sort(1)
    rate = (w.abs() * pace).gather(1, order)
    spent = (w.abs() * room).gather(1, order)
    before = spent.cumsum(1) - spent
    left = rate.flip(1).cumsum(1).flip(1)
    need = 1.001 * margin.double()[:, None]
    stage = torch.searchsorted(before + until * left, need).clamp_max(w.shape[1] - 1)
    t = ((need - before.gather(1, stage)) / left.gather(1, stage).clamp_min(TINY)).clamp_min(0)
    return (w.sign() * torch.minimum(t * pace, room)).view_as(pixels).to(pixels.dtype)


def sanity(network: nn.Module, images, labels, grey_levels=(1, 2, 4, 8), seed: int = 0) -> dict:
    """Whether the attacks work, on a few images: each number with the value it should have.

    sanity_accuracy_rise             0: largest rise of the accuracy under PGD from one budget to the next larger
    sanity_accuracy_pgd_eps255       0: accuracy under PGD at budget 1
    sanity_square_only_fraction      0: images that Square fools at 2 grey levels and PGD does not: masked gradients;
                                     only where torchattacks is installed
    gradient_zero_fraction           0, as in `fgsm_penalties`, whose saturated_fraction is there too
    """
    plain = fgsm_penalties(network, images, labels, ())
    right = {g: _pgd(network, images, labels, g / 255, 10)[1] for g in sorted({*grey_levels, 2, 255})}
    accuracy = [plain["clean_accuracy"], *(float(r.double().mean()) for r in right.values())]
    out = {key: plain[key] for key in ("gradient_zero_fraction", "saturated_fraction")} | {
        "sanity_accuracy_rise": max(0.0, *(b - a for a, b in itertools.pairwise(accuracy))),
        "sanity_accuracy_pgd_eps255": accuracy[-1],
        "sanity_images": float(len(images)),
    }
    if find_spec("torchattacks"):
        tried = attack(network, images, labels, [2 / 255], "square", n_queries=100, seed=seed)[0]
        only = right[2] & ~_pgd(network, tried, labels, 0, 0)[1]
        out["sanity_square_only_fraction"] = float(only.double().mean())
    return out


def record_metrics(network: nn.Module, images, labels, settings: dict, seed: int = 0) -> tuple[dict, dict[str, str]]:
    """All metrics of one attack record: (metrics, reasons), finite numbers, or None with a reason.

    settings   of the record: grey_levels, pgd_levels, pgd_steps, radius_images, sanity_images
    1. `fgsm_penalties` at grey_levels, `pgd_penalties` at pgd_levels, over all images.
    2. Of the first radius_images images, in both norms: radius_{norm}_mean, _q25, _median, _q75; the same over images
       that are right without an attack, ..._correct; radius_{norm}_none_fraction, the share without a radius.
    3. `sanity` of the first sanity_images images.
    """
    metrics, reasons = {}, {}
    if few := min(settings["sanity_images"], len(images)):
        metrics |= sanity(network, images[:few], labels[:few], settings["grey_levels"], seed)
        if (key := "sanity_square_only_fraction") not in metrics:
            metrics[key], reasons[key] = None, "torchattacks is not installed"
    metrics |= fgsm_penalties(network, images, labels, settings["grey_levels"])
    metrics |= pgd_penalties(network, images, labels, settings["pgd_levels"], settings["pgd_steps"])
    if few := min(settings["radius_images"], len(images)):
        right = _pgd(network, images[:few], labels[:few], 0, 0)[1]
        metrics["radius_images"] = float(few)
        for norm in NORMS:
            metrics |= _radii(norm, minimal_radius(network, images[:few], labels[:few], norm=norm), right)
    for key, value in metrics.items():
        if value is None or math.isfinite(value):
            continue
        metrics[key] = None
        none_right = key.endswith("_correct") and math.isnan(value)
        if none_right and (key.startswith("radius") or metrics["clean_accuracy"] == 0):
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


def _gradient(network, pixels, labels) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss gradient / (1 - p_y) at each pixel, outputs). One forward and one backward pass."""
    pixels = pixels.detach().clone().requires_grad_(True)
    logits = _outputs(network, pixels, labels, differentiable=True)
    with torch.no_grad():
        true = functional.one_hot(labels, logits.shape[1]).bool()
        wrong = logits.masked_fill(true, -torch.inf).softmax(1)
    (gradient,) = torch.autograd.grad(logits, pixels, grad_outputs=wrong - true.to(wrong.dtype))
    return gradient, logits.detach()


def _outputs(network, pixels, labels, differentiable=False) -> torch.Tensor:
    with torch.set_grad_enabled(differentiable):
        logits = network(pixels)
    models.check_outputs(logits, int(labels.max()))
    if logits.shape[1] < 2:
        raise BadAttack("the network has one output, and a cross-entropy needs two; give it one output a class")
    return logits


def _scores(logits, labels) -> torch.Tensor:
    """Losses, and 1 where right: float64 (2, n)."""
    loss, _, right = training.image_scores(logits, labels)
    return torch.stack([loss, right])


def _margin(logits, labels) -> torch.Tensor:
    """True output - largest wrong output."""
    true = functional.one_hot(labels, logits.shape[1]).bool()
    return logits[true] - logits.masked_fill(true, -torch.inf).amax(1)


def _uphill(gradient, norm) -> torch.Tensor:
    """The step of norm 1 that raises the loss fastest; 0 where the gradient is."""
    if norm == "linf":
        return gradient.sign()
    gradient = gradient / _each(gradient.flatten(1).abs().amax(1), gradient).clamp_min(TINY)  # no square underflows
    return gradient / _each(gradient.flatten(1).norm(dim=1), gradient).clamp_min(TINY)


def _within(pixels, points, budget, norm) -> torch.Tensor:
    """Points moved into the ball of radius `budget` around pixels, then into [0, 1]."""
    if norm == "linf":
        return torch.clamp(points, pixels - budget, pixels + budget).clamp_(0, 1)
    away = points - pixels
    length = _each(away.flatten(1).norm(dim=1), away).clamp_min(TINY)
    return (pixels + away * (budget / length).clamp_max(1)).clamp_(0, 1)


def _distance(a, b, norm) -> torch.Tensor:
    """Distance between images, float64 (n,)."""
    away = (a.double() - b.double()).flatten(1)
    return away.norm(dim=1) if norm == "l2" else away.abs().amax(1)


def _each(values, like) -> torch.Tensor:
    """One value an image, shaped to multiply images."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _batches(network, x, y, size=128):
    """(rows, images, labels) of each batch, where the network is."""
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        pixels = models.placed(network, x[rows])
        yield rows, pixels, y[rows].to(pixels.device)


def _budget(eps: float, norm: str = "linf", pixels: int = 1) -> float:
    if norm not in NORMS:
        raise BadAttack(f"the norm is {norm!r}, and distances are measured in 'linf' or 'l2'; give one of these")
    largest = 1 if norm == "linf" else math.sqrt(pixels)
    if not 0 <= eps <= largest:
        raise BadAttack(f"a budget is {eps:g}, and images are at most {largest:g} apart in {norm}; give less, as 2/255")
    return float(eps)


def _checked(network, images, labels):
    x = models.unit_images(images).float()
    y = models.network_labels(labels, len(x))
    if (dtype := models.placement(network)[1]) != torch.float32:
        raise BadAttack(f"the network computes in {dtype}, and attacks in float32; use network.float() first")
    return x, y
