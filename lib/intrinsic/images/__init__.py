"""Image sets: what one is, where it comes from, matching, duplicates and splits.

Submodules in order; each imports only those above it:

    sets        ImageSet, duplicates, errors
    matching    one size, channels, range and M for a comparison
    downloads   one file from a web address, whole and checked
    rules       labels and groups by rule
    cache       decoded images on disk
    files       pictures, DICOM and NIfTI to arrays
    adapters    what a folder, a table, an archive or a package holds
    embedded    sets built from installed packages
    packaged    sets of torchvision and MedMNIST, downloaded when first read
    published   the paper's sets as its code gives them, defects included
    catalogue   entries, catalogue files, load
    splits      training and test sets without a leak
"""

from intrinsic.images.catalogue import Entry, catalogue, catalogue_files, draft, find, load, name_of, of_path, written
from intrinsic.images.matching import Matching, Unmatched, check_matched, match, smallest_class
from intrinsic.images.published import (
    PUBLISHED_OUTPUTS,
    published_pairs,
    published_slip,
    published_split,
    published_subset,
)
from intrinsic.images.rules import BadRule, GroupRule, LabelRule
from intrinsic.images.sets import (
    DOMAINS,
    REPOSITORY,
    BadCatalogue,
    BadImageFile,
    BadImages,
    BadSource,
    Duplicates,
    ImageSet,
    Leak,
    MixedSizes,
    TooFewImages,
    UnknownImageSet,
    as_unit,
    plain_yaml,
    regroup,
    yaml_reason,
)
from intrinsic.images.splits import Split, balanced_draws, check_split, reachable, split

__all__ = [
    "DOMAINS",
    "PUBLISHED_OUTPUTS",
    "REPOSITORY",
    "BadCatalogue",
    "BadImageFile",
    "BadImages",
    "BadRule",
    "BadSource",
    "Duplicates",
    "Entry",
    "GroupRule",
    "ImageSet",
    "LabelRule",
    "Leak",
    "Matching",
    "MixedSizes",
    "Split",
    "TooFewImages",
    "UnknownImageSet",
    "Unmatched",
    "as_unit",
    "balanced_draws",
    "catalogue",
    "catalogue_files",
    "check_matched",
    "check_split",
    "draft",
    "find",
    "load",
    "match",
    "name_of",
    "of_path",
    "plain_yaml",
    "published_pairs",
    "published_slip",
    "published_split",
    "published_subset",
    "reachable",
    "regroup",
    "smallest_class",
    "split",
    "written",
    "yaml_reason",
]
