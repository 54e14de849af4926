"""Intrinsic properties of image sets: what makes them hard to learn, measured before and after training.

>>> import intrinsic
>>> found = intrinsic.measure("digits")  # doctest: +SKIP
>>> found.d_data, found.label_sharpness, found.warnings  # doctest: +SKIP

Rooms, in import order; each imports only from those above it:

images      image sets: where they come from, matching, splits
properties  what is measured before training: neighbors, dimension, label sharpness, soundness
networks    what is trained: models, training, attacks, representations
campaigns   many runs: parameters, plan, records, execution
inference   what runs say: tests, intervals, verdicts, forecast
publishing  charts, tables, the book
cli         the command `intrinsic`
"""

from importlib import import_module

__version__ = "0.1.0"

_PUBLIC = {
    "measure": "properties.measure",
    "load": "images",
    "ImageSet": "images",
    "neighbors": "properties.neighbors",
    "mle_dimension": "properties.dimension",
    "twonn_dimension": "properties.dimension",
    "label_sharpness": "properties.sharpness",
    "mean_sharpness": "properties.sharpness",
    "growth": "properties.growth",
    "soundness": "properties.soundness",
    "train": "networks.training",
    "evaluate": "networks.training",
    "attack": "networks.attacks",
    "activations": "networks.representations",
    "forecast": "inference.forecast",
}

__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604  (names that load when they are asked for)


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_PUBLIC})
