"""Image sets: what one is, where it comes from, matching, duplicates and splits.

Submodules in order, each of which imports only from those before it: sets, matching, splits; manifolds, interventions
(images of known properties); rules; pictures, scans, cache, files (from files to arrays); tables, adapters (what a
table, a folder or an archive holds); embedded, packaged; entries (the catalogue); loading.

Names are imported when they are first used, so that arrays can be split and measured without any reader of files.
"""

import importlib

_NAMES = {
    "sets": "DOMAINS REPOSITORY BadCatalogue BadImageFile BadImages BadSource Duplicates ImageSet Leak "
    "TooFewImages UnknownImageSet as_unit",
    "matching": "match",
    "splits": "Split balanced_draws check_split split",
    "rules": "BadRule GroupRule LabelRule",
    "entries": "Entry catalogue catalogue_files plain_yaml yaml_reason",
    "loading": "find load name_of of_path",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_HOME)  # noqa: PLE0605 - a list


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__():
    return [*globals(), *_HOME]
