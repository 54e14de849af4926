"""Campaigns: a parameter file, the plan of its runs, their records, and the frames that pages read.

Submodules in order: parameters, records, plan, runs, execution, frames. A page calls `open`.
"""

import json
import shlex
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

__all__ = ["Campaign", "open"]


@dataclass(frozen=True)
class Campaign:
    """The records of a campaign as a page shows them.

    Attributes
    ----------
    params : Params
        The campaign's parameters with those of the page.
    runs, sets, layers : DataFrame
        One row a run, an image set, a run and layer: `frames.runs_frame`, `properties_frame`, `layers_frame`.
    coverage : DataFrame
        One row an image set: planned, stored and fitted runs.
    missing : list of str
        Runs that are planned, can be reached, and are not stored.
    shown : str
        Whose runs these are, in a sentence.
    command : str
        The shell command that makes what is missing.
    """

    params: object
    file: str
    changed: dict = field(default_factory=dict)
    store: object = None

    @cached_property
    def runs(self):
        from intrinsic.campaigns import frames

        return frames.runs_frame(self.params, self.store)

    @cached_property
    def sets(self):
        from intrinsic.campaigns import frames

        return frames.properties_frame(self.params, self.store)

    @cached_property
    def layers(self):
        from intrinsic.campaigns import frames

        return frames.layers_frame(self.params, self.store)

    @cached_property
    def coverage(self):
        from intrinsic.campaigns import frames

        return frames.coverage(self.params, self.runs)

    @cached_property
    def missing(self) -> list[str]:
        from intrinsic.campaigns import frames, records

        unreachable = records.read_unreachable(records.published_file(self.params.name))
        return [label for label in frames.missing(self.params, self.runs) if label not in unreachable]

    @property
    def shown(self) -> str:
        planned = len(self.runs) + len(self.missing)
        where = "the published records (book/records)" if self.store is None else "the records of this machine"
        of = f"{self.file} on {', '.join(self.params.datasets)}" if "datasets" in self.changed else self.file
        return f"{len(self.runs)} of {planned} planned runs of {of} are shown, from {where}."

    @property
    def command(self) -> str:
        changes = [f"-p {key} {shlex.quote(json.dumps(value))}" for key, value in self.changed.items()]
        return " ".join(["intrinsic run", shlex.quote(self.file), *changes])


def open(namespace: dict) -> Campaign:
    """Open the campaign that a page shows, by the parameters of the page.

    Parameters
    ----------
    namespace : dict
        `globals()` of the page. Every key of the schema in it counts, and `campaign`, the parameter file (default:
        params/published.yaml). `datasets` that is not empty replaces the campaign's image sets.

    Returns
    -------
    Campaign
        Of published records alone where the campaign has any and the page asks for no other image sets. Otherwise the
        records of this machine count too. With `compute = True` what is missing is trained first.

    Raises
    ------
    CampaignError
        For a misspelled key that papermill injected, a wrong value, and runs that fail.

    Examples
    --------
    >>> from intrinsic import campaigns
    >>> run = campaigns.open({"campaign": "params/published.yaml", "grey_level": 4})
    >>> run.params.grey_level, "k_f" in run.sets
    (4, True)
    """
    from intrinsic.campaigns import parameters, records

    file, given = parameters.of_page(namespace)
    p = parameters.read(file, given)
    if "runs" in given and Path(file).stem != p.name:  # papermill injected a whole file
        file = f"params/{p.name}.yaml"
    changed = parameters.changed(p, file, given)
    local = p.compute or "datasets" in changed or not records.published_file(p.name).exists()
    found = Campaign(p, parameters.shown(file), changed, records.default_store() if local else None)
    if p.compute:
        from intrinsic.campaigns import execution

        outcome = execution.run(p, store=found.store)
        for label, reason in outcome.failed[:1]:
            raise parameters.CampaignError(f"{len(outcome.failed)} runs failed, the first: {label}: {reason}")
    return found
