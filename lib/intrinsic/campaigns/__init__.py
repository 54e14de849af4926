"""Campaigns: a parameter file, the plan of its runs, their records, and the frames that pages read.

parameters    the schema, parameter files, parameters of a page
records       one file a record, the working store, published files
plan          the grid of runs, and the ids of their records
runs          a task -> its records
execution     a campaign on processes of this machine, a scheduler, or jobs of a queue
frames        records -> tidy frames; `open`, which a page calls
status        what is done, how long the rest takes, and publishing
"""

__all__ = ["Campaign", "open"]


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from intrinsic.campaigns import frames

    return getattr(frames, name)
