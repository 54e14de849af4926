"""Old names of this room, for modules that have not moved yet; it goes with the last of them."""

from intrinsic.campaigns import execution, frames, records
from intrinsic.campaigns.execution import run  # noqa: F401
from intrinsic.campaigns.frames import coverage  # noqa: F401
from intrinsic.campaigns.parameters import CampaignError, Params, params, read  # noqa: F401
from intrinsic.campaigns.plan import SETTING, cells, plan, run_label  # noqa: F401
from intrinsic.campaigns.records import default_store

n_workers = execution.n_workers


def runs_frame(p, *, store=None):
    frame = frames.runs_frame(p, store or default_store())
    if frame.empty:
        raise CampaignError(f"no run of the campaign {p.name!r} is stored yet: intrinsic run params/{p.name}.yaml")
    return frame


def properties_frame(p, *, store=None):
    return frames.properties_frame(p, store or default_store())


def layers_frame(p, *, store=None):
    return frames.layers_frame(p, store or default_store())


def missing(p, *, store=None):
    return frames.missing(p, frames.runs_frame(p, store or default_store()))


def store_state(p=None, store=None):
    return records.state(store or default_store())


def published_file(p):
    return records.published_file(p.name)


def run_labels(p):
    return frames.missing(p, frames.runs_frame(p)[:0])
