"""A task -> its records: properties of an image set, or training and what is measured on the trained network."""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

from intrinsic import images
from intrinsic.campaigns import records
from intrinsic.campaigns.plan import Task
from intrinsic.campaigns.records import Record, Store
from intrinsic.networks import attacks, checkpoints, models, representations, slope, training
from intrinsic.properties import measurement

TRAINING = ("until", "epochs", "batch_size", "learning_rate", "weight_decay", "seed", "precision")
TRAINED = ("epochs", "steps", "train_accuracy", "running_accuracy", "train_loss_nats")


def complete(task: Task, store: Store) -> None:
    """Compute a task and store each record as it comes; its checkpoint goes when all are stored."""
    for record in compute(task, store):
        store.write(record)
    if task.kind == "training":
        checkpoints.discard(store.path("checkpoints", task.keys[0][1]))


def compute(task: Task, store: Store) -> Iterator[Record]:
    """The records of a task that are not there yet, as they come.

    The store also keeps the checkpoint of a run in training, and its weights where the task says so.
    """
    p = task.params
    data = measurement.matched(task.source, p["size"], p["channels"], p["pixel_range"])
    if task.kind == "training":
        yield from _Run(task, data, store).records()
        return
    started = time.perf_counter()
    how = {key: p[key] for key in ("per_class", "draws", "k", "seed")}
    metrics, reasons, series = measurement.properties(data, **how)
    facts = records.provenance(seconds=time.perf_counter() - started, domain=data.images.domain)
    yield Record("properties", p, *records.finite(metrics, reasons), series, facts)


@dataclass
class _Run:
    """A training run at work; `_attacked`, `_steepest` and `_mapped` yield params, metrics and reasons of records."""

    task: Task
    data: measurement.Matched
    store: Store

    def __post_init__(self):
        p = self.task.params
        self.split = images.split(self.data.images, p["n_train"], p["seed"], groups=self.data.groups)
        self.train_set = self.data.images[self.split.train]
        test_set = self.data.images[self.split.test]
        self.x, self.y = images.as_unit(self.train_set), self.train_set.labels
        self.x_test, self.y_test = images.as_unit(test_set), test_set.labels
        self.todo = {key for key in self.task.keys if key not in self.store and key not in self.task.have}
        self.facts: dict = {}  # of the provenance of what hangs on the run

    def records(self) -> Iterator[Record]:
        """Its own record, attacks, slope and dimensions, those that are not there yet."""
        yield from self._trained()
        for kind, measured in (("attack", self._attacked), ("slope", self._steepest), ("representation", self._mapped)):
            hung = self.task.hanging[kind]
            todo = [wanted for wanted in hung if (kind, records.record_id(kind, wanted)) in self.todo]
            started = time.perf_counter()
            for wanted, metrics, reasons in measured(todo) if todo else ():
                facts = records.provenance(seconds=time.perf_counter() - started, **self.facts)
                yield Record(kind, wanted, *records.finite(metrics, reasons), {}, facts)
                started = time.perf_counter()

    def _created(self):
        p, n_classes = self.task.params, len(self.data.images.classes)
        return models.create(p["model"], channels=p["channels"], n_classes=n_classes, seed=p["seed"])

    def _trained(self) -> Iterator[Record]:
        """Train the network, or take its kept weights where its own record is stored."""
        started, key, network = time.perf_counter(), self.task.keys[0], self._created()
        weights = self.store.path("weights", key[1])
        if key not in self.todo and weights.exists():
            with contextlib.suppress(checkpoints.DamagedFile):  # then it is trained again
                checkpoints.load_weights(network, weights)
                self.network, self.facts = network.eval(), {"weights": "kept"}
                return
        self.facts = {} if key in self.todo else {"retrained": True}
        p = self.task.params
        result = training.train(
            network,
            self.x,
            self.y,
            **{name: p[name] for name in TRAINING},
            min_steps=p["min_steps"] or 0,
            warmup_steps=p.get("warmup_steps", 0),
            checkpoint=self.store.path("checkpoints", key[1]),
            checkpoint_minutes=self.task.checkpoint_minutes,
        )
        self.network = network
        if key in self.todo:
            yield self._own_record(result, started)
        if self.task.keep_weights:
            checkpoints.save(weights, network.state_dict(), {"parent": key[1]})

    def _own_record(self, result, started: float) -> Record:
        scores, reasons = training.held_out_scores(self.network, self.x_test, self.y_test)
        metrics = {"fitted": float(result.fitted), **{key: getattr(result, key) for key in TRAINED}, **scores}
        metrics |= {"n_groups": self.split.n_groups_train, "n_groups_test": self.split.n_groups_test}
        series = {
            key: [float(v) for v in values][: records.MAX_SERIES]
            for key, values in result.history.items()
            if all(isinstance(v, int | float) and math.isfinite(v) for v in values)
        }
        facts = {"training_seconds": result.seconds, "stopped": result.reason, "domain": self.data.images.domain}
        facts = records.provenance(seconds=time.perf_counter() - started, **facts)
        return Record("training", self.task.params, *records.finite(metrics, reasons), series, facts)

    def _attacked(self, todo: list[dict]) -> Iterator[tuple[dict, dict, dict]]:
        for wanted in todo:
            n = wanted["n_images"]  # the test set alternates between the classes, so its beginning is balanced
            how, seed = {**wanted, "pgd_steps": wanted["pgd_steps"] or 1}, self.task.params["seed"]
            metrics, reasons = attacks.record_metrics(self.network, self.x_test[:n], self.y_test[:n], how, seed)
            yield wanted, {**metrics, "n_attacked": len(self.y_test[:n])}, reasons

    def _steepest(self, todo: list[dict]) -> Iterator[tuple[dict, dict, dict]]:
        for wanted in todo:
            how = {key: wanted[key] for key in ("points", "pairs")}
            try:
                yield wanted, slope.measure(self.network, self.x, self.y, **how), {}
            except slope.BadSlope as error:  # equal images with different labels have no segment between them
                yield wanted, {"slope_max": None}, {"slope_max": str(error)}

    def _mapped(self, todo: list[dict]) -> Iterator[tuple[dict, dict, dict]]:
        """Dimensions of each layer, of the pixels of the same images, and of the null maps, at one k.

        The nulls are an untrained network of the same architecture and a random linear map of the same width.
        """
        k, group, seed = todo[0]["k"], self.train_set.group, self.task.params["seed"]
        points = self.train_set.images.reshape(len(self.train_set), -1)

        def of_layers(network):
            found = representations.activations(network, self.x, [wanted["layer"] for wanted in todo])
            return {layer: (one.shape[1], representations.dimensions(one, k, group)) for layer, one in found.items()}

        trained, untrained = of_layers(self.network), of_layers(self._created())
        pixels = representations.dimensions(points, k, group)
        for wanted in todo:
            width, own = trained[wanted["layer"]]
            mapped = representations.dimensions(representations.random_linear_map(points, width, seed), k, group)
            clouds = {"d_repr": own, "d_data_same_images": pixels}
            clouds |= {"d_repr_untrained": untrained[wanted["layer"]][1], "d_repr_random_map": mapped}
            metrics, reasons = {"width": width, "n_images": len(self.x)}, {}
            for name, (values, why) in clouds.items():
                metrics |= {f"{name}_{key}".replace("_mle", ""): value for key, value in values.items()}
                reasons |= {f"{name}_{key}".replace("_mle", ""): text for key, text in why.items()}
            yield wanted, metrics, reasons
