"""The final evaluation: trains the front longer, scores it on the test data, and measures it again, carefully."""

from __future__ import annotations

import logging
import shutil
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from ..errors import LostError, StudyError
from ..evaluators.evaluator import Request
from ..evaluators.ladder.failure import UNFINISHED, UNTRAINED
from ..evaluators.ladder.trial_files import SHAPES
from ..evaluators.measurement import Infeasible, Measurement, Measurements, Outcome
from ..evaluators.meters.latency import Meter
from ..evaluators.outcome_json import to_json
from ..evaluators.runtimes import load
from ..files import copy_atomically, write_atomically
from ..pareto.model import BASELINE, Model, no_worse
from ..storage.run_directory import RECORD, RunDirectory, read_record
from ..storage.study_store import ATTEMPTS
from .careful_measurement import measure_carefully
from .dispatch import RunContext, run_requests
from .finalists import too_slow_for_sure
from .progress import Progress
from .requests import final_request, repeated_request
from .workers.base import LostTrial

logger = logging.getLogger(__name__)


class FinalEvaluation:
    """Gives models their final training and measurement; what an interrupted run has finished is not done again.

    Args:
        context: the run; models go to the ``models`` folder of its directory, the baseline to ``baseline``.
        meters: measure them while nothing trains, one for each device, by its name.
    """

    def __init__(self, context: RunContext, meters: Mapping[str, Meter]) -> None:
        self.context = context
        self.rundir = context.rundir
        self.meters = meters
        self.options = context.options
        self.progress = context.progress
        self._failures: dict[str, Infeasible] = {}

    def run(
        self,
        models: Sequence[Model],
        then: Callable[[Mapping[str, float]], Sequence[Model]] = lambda accuracies: (),
    ) -> list[Model]:
        """Return models with their final measurements, without those that cannot be built or measured any more.

        A model whose training fails stays as the search left it, and says so.

        Those that are `too_slow_for_sure` keep their trial's measurement, unless an earlier run with other limits
        finished them.

        Args:
            models: the models to start with.
            then: returns more of them, given the accuracies of the first ones by their ids.

        Raises:
            Interrupted: the user wants to stop.
            StudyError: the unchanged network cannot be scored any more.
        """
        logger.info("the final evaluation begins with %d models", len(models))
        late = too_slow_for_sure(models, self.options.limits)
        chosen = [replace(m, path=_folder(m)) for m in models if m not in late]
        ended = self._trained(chosen)
        more = then({name: measured[0].accuracy for name, measured in ended.items()})
        more = [replace(m, path=_folder(m)) for m in more if all(m.id != first.id for first in models)]
        ended |= self._trained(more)
        chosen += more
        lack = self.options.limits.lacks_measurement
        done = {name: record for name, record in ended.items() if record[0].rung == "final" and not lack(record)}

        def finish(model: Model, measurements: Measurements) -> None:
            self._write(model, measurements)
            done[model.id] = measurements

        to_measure = [replace(m, measurements=ended[m.id]) for m in chosen if m.id in ended.keys() - done.keys()]
        measure_carefully(self.context, self.meters, to_measure, finish)
        found = [replace(m, measurements=done[m.id]) for m in chosen if m.id in done]
        found += with_trial_results(self.rundir, late, self.progress)
        self._report_failures()
        order = [m.id for m in (*models, *more)]
        return sorted(found, key=lambda m: order.index(m.id))

    def _trained(self, models: Sequence[Model]) -> dict[str, Measurements]:
        """Return the outcomes of models after the longer training; those with a record are not trained again.

        The exception is a model whose longer training failed and whose trial's did not: the cause may have been fixed.
        """
        runtimes = {load(name).name for name in self.options.runtimes}
        found = {m.id: read_record(self.rundir.path / m.path, runtimes) for m in models}
        again = {m.id for m in models if m.measurement.failure is None}
        records = {name: record for name, record in found.items() if record is not None}
        ended = {
            name: record
            for name, record in records.items()
            if record[0].rung in ("trained", "final") and (record[0].failure is None or name not in again)
        }
        return ended | self._train([m for m in models if m.id not in ended])

    def _train(self, models: Sequence[Model]) -> dict[str, Measurements]:
        """Train models with the longer schedule and score them on the test data, in any order."""
        waiting = deque(final_request(self.context, model) for model in models)
        by_folder = {model.path: model for model in models}
        trained: dict[str, Measurements] = {}

        def take(request: Request, outcome: Outcome | LostTrial) -> None:
            model = by_folder[request.folder]
            outcome = _with_the_trials_passes(outcome, model) if request.ancestor.endswith(SHAPES) else outcome
            again = self._again(request, outcome, model)
            if again is not None:
                waiting.append(again)
                return
            record = self._record(model, outcome)
            if record is not None:
                trained[model.id] = record
                self._write(model, record)
                logger.info("model %s: final training finished", model.id)

        def show() -> None:
            done = f"final training · {len(trained)} of {len(models)} models done"
            self.progress.notice(" · ".join(filter(None, (done, self.context.workers.blocked_reason()))))

        run_requests(
            self.context,
            lambda: waiting.popleft() if waiting else None,
            take,
            expects_more=lambda: bool(waiting),
            each_round=show,
            retries=ATTEMPTS - 1,
        )
        return trained

    def _again(self, request: Request, outcome: Outcome | LostTrial, model: Model) -> Request | None:
        """Return what to try next with a model: to train it as in its trial, if training it longer was worse.

        Longer is worse if it loses more than one standard error. Simply taking the better of two trainings on the
        validation data would take the luckier one.
        """
        failure = _failure(outcome)
        if failure is not None and request.epochs:
            self._failures.setdefault(model.id, failure)
        if isinstance(outcome, tuple) and failure is None and no_worse(outcome[0], model.measurement):
            return None
        if not isinstance(outcome, LostTrial) and request.epochs > model.measurement.epochs:
            return repeated_request(self.context, model, request)
        return None

    def _record(self, model: Model, outcome: Outcome | LostTrial) -> Measurements | None:
        """Return the outcome of a model: that of its trial if it cannot be trained; None if that is gone.

        A retry with its trial's training is the same model, and was scored on the test data.

        Raises:
            StudyError: it is the unchanged network, without which there is no result.
        """
        failure = model.measurement.failure or self._failures.get(model.id)
        said = UNFINISHED if model.measurement.failure is None else UNTRAINED
        if isinstance(outcome, tuple) and outcome[0].failure is None:
            return outcome if failure is None else _warned(outcome, failure, said)
        found = f"trials/{model.id}"
        if failure is not None:
            with suppress(LostError):
                self.rundir.artifacts.get(self.rundir.path, found)
            if (self.rundir.path / found).is_dir():
                (self.rundir.path / model.path / RECORD).unlink(missing_ok=True)
                with_trial_results(self.rundir, [replace(model, path=found)], self.progress)
                return _warned([replace(each, rung="trained") for each in model.measurements], failure, said)
        wrong = _failure(outcome)
        if model.role == BASELINE:
            raise StudyError(
                f"the unchanged network must be scored at the end too, because all models are compared with it; that "
                f"failed: {'' if wrong is None else wrong.reason}. Fix that in the study, and run the same "
                "command to resume"
            )
        self.progress.warning(f"model {model.id} failed at the end: {'' if wrong is None else wrong.reason}")
        return None

    def _report_failures(self) -> None:
        """Report why longer trainings failed, once for each reason."""
        named: defaultdict[str, list[str]] = defaultdict(list)
        for name, failure in self._failures.items():
            named[failure.reason].append(name)
        for reason, names in named.items():
            self.progress.warning(
                f"the final training of {', '.join(names)} failed: {reason}. Their results from the "
                "search stand; once this is fixed in the study, the same command trains them again"
            )

    def _write(self, model: Model, measurements: Measurements) -> None:
        write_atomically(self.rundir.path / model.path / RECORD, to_json(measurements).encode())


def _failure(outcome: Outcome | LostTrial) -> Infeasible | None:
    """Return why a training failed; None if it succeeded."""
    if isinstance(outcome, LostTrial):
        return Infeasible(reason=outcome.why, rung="train")
    return outcome if isinstance(outcome, Infeasible) else outcome[0].failure


def _with_the_trials_passes(outcome: Outcome | LostTrial, model: Model) -> Outcome | LostTrial:
    """Return the outcome of a training that began from a trial's weights, with the passes of both."""
    if not isinstance(outcome, tuple):
        return outcome
    return tuple(replace(each, epochs=each.epochs + model.measurement.epochs) for each in outcome)


def _warned(measurements: Iterable[Measurement], failure: Infeasible, said: str) -> Measurements:
    """Return a model's measurements with the reason why it was not trained."""
    warning = said.format(failure.reason)
    return tuple(
        replace(each, failure=failure, warnings=tuple(dict.fromkeys([*each.warnings, warning])))
        for each in measurements
    )


def with_trial_results(rundir: RunDirectory, models: Sequence[Model], progress: Progress) -> list[Model]:
    """Return models as their trials left them, with their files copied to the final folders."""
    found = []
    for model in models:
        folder = rundir.path / _folder(model)
        record = read_record(folder)
        try:
            if record is None:
                rundir.artifacts.get(rundir.path, model.path)
        except LostError as error:
            progress.warning(f"model {model.id} is not in the run directory: {error}")
        if record is None and (rundir.path / model.path).is_dir():
            shutil.copytree(rundir.path / model.path, folder, dirs_exist_ok=True, copy_function=copy_atomically)
            write_atomically(folder / RECORD, to_json(model.measurements).encode())
        found.append(replace(model, measurements=record or model.measurements, path=_folder(model)))
    return found


def _folder(model: Model) -> str:
    return BASELINE if model.id == BASELINE else f"models/{model.id}"
