"""Evaluates a candidate rung by rung: build → latency (→ memory → energy) → one-shot accuracy → short training.

Latency comes first because it needs no training: a candidate that is too slow is stopped after seconds. The one-shot
accuracy decides whether a candidate is trained.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ...errors import InfeasibleError, blaming
from ...files import write_atomically
from ..device_lock import training
from ..evaluator import Host, Request
from ..measurement import Deployment, Infeasible, Measurement, Measurements, Outcome, ranked, slowest
from ..runtime import Runtime
from ..scores import Accuracy, accuracy
from .build import RuntimeFile, ScoredModel, build_candidate
from .deployments import time_deployments
from .engines import Engines
from .failure import UNTRAINED, why
from .precision import in_low_precision
from .resources import ResourceLimits, within_target
from .rungs import Rungs
from .trial_files import ANCESTOR, ANSWERS, model_file, suffixed, write_trial_files

if TYPE_CHECKING:
    from ...compressors.inherited_weights import Ancestor
    from ...compressors.pipeline import Begun, Compressed
    from ...compressors.technique import Supplies
    from ...studies.counted import Part
    from ...studies.task import Task

AGREEMENT = 0.95
"""Share of examples that must have the same class in PyTorch and in the runtime, without a warning."""


@dataclass(frozen=True, eq=False)
class Ladder:
    """Evaluates candidates with real measurements: builds, times, scores and trains each, and keeps its files.

    Attributes:
        task: the network and its data.
        supplies: example inputs and calibration data.
        runtimes: serve the exported models; the meters' baseline is the first one's.
        compact: whether each model is also kept as a compact file, whose bytes are its size.

    """

    task: Task
    supplies: Supplies
    runtimes: Sequence[Runtime]
    _: KW_ONLY
    compact: bool = False

    def evaluate(self, request: Request, host: Host) -> Outcome:
        """Evaluate a request; an error becomes the reason why the candidate is infeasible.

        If the training fails, the outcome is what was measured before it.

        Raises:
            LostError: the disk is full, which is not the candidate's fault.
        """
        evaluation = _Evaluation(self, request, host)
        try:
            with training(), evaluation.engines:
                return evaluation.run()
        except Exception as error:  # a user's loss, metric or forward may fail in any way
            return evaluation.stopped(why(error, evaluation.rungs.current, evaluation.folder))


class _Evaluation:
    """The evaluation of one request."""

    def __init__(self, ladder: Ladder, request: Request, host: Host) -> None:
        self.ladder = ladder
        self.request = request
        self.host = host
        self.folder = host.folder / request.folder
        self.rungs = Rungs(self.folder, request.timeout_s)
        self.engines = Engines(lambda: self.rungs.left_s)
        self.latencies = {latency.deployment: latency for latency in request.latencies}
        self.resources = ResourceLimits(request, host.meters, compact=ladder.compact)
        self.one_shot: dict[str, float] = {}
        self.doubted = ""
        self.failure: Infeasible | None = None

    def run(self) -> Outcome:
        """Return a measurement for each deployment that is within the limits, the deciding one first."""
        from ...studies.counted import part_of_validation  # noqa: PLC0415  # start-up time: torch is slow to import

        ancestor = self._inherit()
        compressed, files = self._build(ancestor, epochs=0.0)
        begun, compressed = compressed.begun, replace(compressed, begun=None)
        deployments = self._within_limits(files)
        if self.request.known:
            return self._completed(self.request.known, deployments)
        served = {deployment.runtime for deployment in deployments}
        part = part_of_validation(self.ladder.task) if self.request.epochs else None
        with self.rungs.on("one-shot"):
            best = self._scored(compressed, [file for file in files if file.runtime.name in served], part=part)
        self.one_shot = {name: model.accuracy.value for name, model in best.items()}
        self._promote(best)
        trained = self._trained(best, ancestor, begun, part) if self._gains_by_training(best.values(), part) else {}
        best = {name: trained.get(name) or self._on_all_data(model) for name, model in best.items()}
        measurements = [m for model in best.values() for m in self._measurements(model, deployments)]
        self._write(list(best.values()))
        return ranked(measurements)

    def stopped(self, reason: Infeasible) -> Infeasible:
        """Add to a reason what was measured before the evaluation stopped."""
        latency = slowest(list(self.latencies.values())) if self.latencies else None
        one_shot = max(self.one_shot.values(), default=None)
        return self.resources.least(replace(reason, latency=latency, one_shot_accuracy=one_shot))

    def _inherit(self) -> Ancestor | None:
        """Read the weights to start from, and keep a copy: the ancestor's folder may be deleted."""
        from ...compressors.inherited_weights import Ancestor  # noqa: PLC0415  # start-up time: torch is slow to import

        if not self.request.ancestor:
            return None
        ancestor = Ancestor.read(self.host.folder / self.request.ancestor)
        if ancestor is not None and not self.request.test:
            write_atomically(self.folder / ANCESTOR, ancestor.to_bytes())
        return ancestor

    def _build(
        self, ancestor: Ancestor | None, begun: Begun | None = None, *, epochs: float
    ) -> tuple[Compressed, list[RuntimeFile]]:
        ladder, supplies = self.ladder, self.ladder.supplies
        if epochs < self.request.epochs:  # its statistics are taken again after the training
            supplies = replace(supplies, statistics=supplies.calibration)
        return build_candidate(
            self.request,
            replace(ladder.task, student=None) if self.request.unchanged else ladder.task,
            supplies,
            ladder.runtimes,
            epochs=epochs,
            ancestor=ancestor,
            begun=begun,
            answers=self.host.answers or self.host.folder / ANSWERS,
            rungs=self.rungs,
            engines=self.engines,
            compact=ladder.compact,
        )

    def _within_limits(self, files: Sequence[RuntimeFile]) -> tuple[Deployment, ...]:
        """Measure what a network costs on each deployment, and return those that are not surely over a limit.

        Raises:
            InfeasibleError: all of them are over a limit, or a device cannot measure it.
        """
        by_deployment = {Deployment(file.runtime.name, device): file for file in files for device in self.host.meters}
        if self.request.max_size_bytes is not None or not self.ladder.compact:  # packing takes a while
            self.resources.weigh({at: file.size_bytes for at, file in by_deployment.items()})
        artefacts = {at: file.artefact for at, file in by_deployment.items()}
        if artefacts.keys() - self.latencies.keys():
            with self.rungs.on("latency"):
                self.latencies |= time_deployments(
                    self.host.meters, artefacts, self.latencies, self.rungs.left_s, self.request.target_ms
                )
        timed = {at: self.latencies[at] for at in artefacts if at in self.latencies}
        fast = within_target(timed, self.request.target_ms)
        return self.resources.within({at: artefacts[at] for at in fast}, self.rungs.on)

    def _completed(self, known: Measurements, deployments: Collection[Deployment]) -> Measurements:
        """Return earlier measurements with the costs that they lacked."""
        return ranked(self.resources.added(m) for m in known if m.deployment in deployments)

    def _scored(
        self, compressed: Compressed, files: Sequence[RuntimeFile], *, epochs: float = 0.0, part: Part | None = None
    ) -> dict[str, ScoredModel]:
        """Return each runtime's model with its accuracy on the validation data or a part, by the runtime's name."""
        return {
            file.runtime.name: ScoredModel(
                compressed, file, self._accuracy(file, "validation", part), epochs, partly=part is not None
            )
            for file in files
        }

    def _accuracy(self, file: RuntimeFile, split: str, part: Part | None = None) -> Accuracy:
        from .served import Served  # noqa: PLC0415  # start-up time: torch is slow to import

        task, data = self.ladder.task, getattr(self.ladder.task, split) if part is None else part.batches
        served = Served(self.engines.of(file.runtime, file.artefact), self.ladder.supplies.piece)
        with blaming("metric"):
            found = accuracy(task.metric, task.each, served, data)
        if not np.isfinite(found.value):
            reason = f"the metric must be a finite number; on the {split} data it is {found.value}"
            raise InfeasibleError(reason, rung=self.rungs.current)
        return found

    def _promote(self, models: Mapping[str, ScoredModel]) -> None:
        """Continue to the training, if the candidate may reach the front.

        Raises:
            InfeasibleError: even an optimistic estimate leaves the candidate behind the front.
        """
        promotion = self.request.promotion
        if promotion is None or not self.request.epochs:
            return
        doubts = [
            promotion.doubt(models[at.runtime].accuracy.value, latency, models[at.runtime].file.size_bytes)
            for at, latency in self.latencies.items()
            if at.runtime in models
        ]
        if all(doubts):
            self.doubted = doubts[0]
            if not promotion.spared:
                raise InfeasibleError(doubts[0], rung="one-shot")

    def _gains_by_training(self, models: Collection[ScoredModel], part: Part | None) -> bool:
        """Return whether the candidate is to be trained, and is not as accurate already as a training would make it."""
        if not self.request.epochs:
            return False
        promotion, places = self.request.promotion, None if part is None else part.places
        return promotion is None or any(promotion.gains(model.accuracy, places) for model in models)

    def _trained(
        self, before: Mapping[str, ScoredModel], ancestor: Ancestor | None, begun: Begun | None, part: Part | None
    ) -> dict[str, ScoredModel]:
        """Train the candidate; return the models that are no worse after it, none if the training fails.

        Both are scored on the same data, and only the better one on all of them.
        """
        self.engines.close()  # training needs their memory
        try:
            compressed, files = self._build(ancestor, begun, epochs=self.request.epochs)
            with self.rungs.on("accuracy"):
                wanted = [file for file in files if file.runtime.name in before]
                after = self._scored(compressed, wanted, epochs=self.request.epochs, part=part)
            better = [name for name in after if after[name].accuracy.value >= before[name].accuracy.value]
            return {name: self._on_all_data(after[name]) for name in better}
        except Exception as error:
            self.failure = why(error, self.rungs.current, self.folder)
            return {}

    def _on_all_data(self, model: ScoredModel) -> ScoredModel:
        """Return a model with its accuracy on all validation data; its training may have taken all the time."""
        if not model.partly:
            return model
        with self.rungs.on("accuracy" if model.epochs else "one-shot", late=True):
            return replace(model, accuracy=self._accuracy(model.file, "validation"), partly=False)

    def _measurements(self, model: ScoredModel, deployments: Sequence[Deployment]) -> list[Measurement]:
        """Return a model's measurements, one for each device on which its runtime is within the limits."""
        file, compressed = model.file, model.compressed
        here = [at for at in deployments if at.runtime == file.runtime.name]
        test: Accuracy | None = None
        if self.request.test and self.ladder.task.test is not None:
            with self.rungs.on("test"):
                test = self._accuracy(file, "test")
        shared = Measurement(
            accuracy=model.accuracy.value,
            latency=self.latencies[here[0]],
            size_bytes=file.size_bytes,
            params=compressed.params,
            macs=compressed.macs,
            test_accuracy=test and test.value,
            one_shot_accuracy=self.one_shot[file.runtime.name],
            doubted=self.doubted,
            failure=self.failure,
            rung="trained" if self.request.test else "short",
            epochs=model.epochs,
            parity=file.parity.difference,
            agreement=file.parity.agreement,
            seconds=self.rungs.seconds,
            file=model_file(file.runtime, self.ladder.runtimes),
            scores=model.accuracy.scores,
            test_scores=test.scores if test else "",
        )
        return [self._measured_at(at, shared, model) for at in here]

    def _measured_at(self, at: Deployment, shared: Measurement, model: ScoredModel) -> Measurement:
        """Add a deployment's latency, costs and warnings to what all deployments of a model share."""
        executed, warnings = None, [] if self.request.test else [*self.latencies[at].doubts]
        if self.request.test:
            macs = model.compressed.low_precision * model.compressed.macs * len(self.ladder.supplies.examples[0])
            executed = in_low_precision(self.host.meters[at.device], model.file.artefact, at, macs, warnings)
        if self.failure is not None:
            warnings.append(UNTRAINED.format(self.failure.reason))
        agreement = model.file.parity.agreement
        if self.request.test and agreement is not None and agreement < AGREEMENT:
            warnings.append(
                f"on {at.runtime} it has another class than in PyTorch for {1 - agreement:.0%} of the examples compared"
            )
        measured = replace(shared, latency=self.latencies[at], low_precision=executed, warnings=tuple(warnings))
        return self.resources.added(measured)

    def _write(self, models: Sequence[ScoredModel]) -> None:
        """Write the trial's files: the first model's network, and each runtime's own file and outputs."""
        supplies, runtimes = self.ladder.supplies, self.ladder.runtimes
        inputs = [x[: supplies.piece].numpy() for x in supplies.calibration[0]]
        predictions = {f"input{i}": x for i, x in enumerate(inputs)}
        files: dict[str, bytes] = {}
        for file in (model.file for model in models):
            built = self.engines.of(file.runtime, file.artefact)
            predictions[suffixed("output", file.runtime, runtimes)] = np.asarray(built.infer(inputs)[0])
            name = model_file(file.runtime, runtimes)
            files[name] = file.artefact
            if self.ladder.compact:
                files[f"{name.rpartition('.')[0]}.acz"] = file.packed
        first = models[0].compressed
        shapes = not self.request.test
        write_trial_files(self.folder, self.request.candidate, first, files, predictions, shapes=shapes)
