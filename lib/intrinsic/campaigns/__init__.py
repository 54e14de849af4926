"""Campaigns: parameters, plan, records, runs, execution, frames (`open`, which a page calls), status."""

__all__ = ["Campaign", "check", "open"]


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from intrinsic.campaigns import frames, parameters

    return getattr(parameters if name == "check" else frames, name)
