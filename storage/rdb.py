"""A database with a study, which several drivers share and which may be away for a while.

It extends Optuna's own storage: thousands of trials are read at once and not as objects, drivers send heartbeats, and
calls wait for a database that is away.
"""

from __future__ import annotations

import json
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache, wraps
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError

from ..errors import StorageError, gist

PATIENCE_S = 600.0
"""Seconds that a database may be away before the run ends."""

FIRST_S, MOST_S = 0.2, 5.0
"""The first and the longest pause between two tries."""

POLL_S = 0.5

WAITING = (
    "create_new_study",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_all_studies",
    "get_study_user_attrs",
    "set_study_user_attr",
    "get_study_system_attrs",
    "set_study_system_attr",
    "_create_new_trial",
    "get_trial",
    "_get_trials",
    "get_trial_id_from_study_id_trial_number",
    "_set_trial_param",
    "set_trial_state_values",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "stale",
)
"""The methods that wait for a database that is away: all that the search calls, except heartbeats."""


def is_disconnected(error: BaseException) -> bool:
    """Return whether an error says that the database does not answer, rather than that a query was wrong.

    If the connection breaks while Optuna reads trials, Optuna queries again in the broken transaction.
    """
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    gone = isinstance(cause, DBAPIError) and cause.connection_invalidated
    return gone or isinstance(cause, OperationalError | InterfaceError | PendingRollbackError)


class PatientRDBStorage(RDBStorage):
    """Optuna's storage in a database.

    Args:
        url: URL in SQLAlchemy's form.
        reads: whether it only reads, and creates nothing.

    Attributes:
        notice: called while the database is away.
        patience_s: how long the database may be away.

    """

    def __init__(self, url: str, *, reads: bool = False) -> None:
        self.patience_s = 0.0  # a database that is away is reported at once
        self.notice: Callable[[str], object] = lambda text: None
        options: dict[str, Any] = {"pool_pre_ping": True}
        try:
            super().__init__(url, engine_kwargs=options, skip_table_creation=reads)
        except BaseException:
            if hasattr(self, "engine"):
                self.engine.dispose()
            raise
        self.patience_s = PATIENCE_S

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Hold a named lock that all drivers share, until the end or until this process dies.

        Only PostgreSQL has such a lock; for other databases nothing is held.
        """
        if self.engine.dialect.name != "postgresql":
            yield
            return
        key = {"key": zlib.crc32(f"autocompress {name}".encode())}
        with self.engine.connect() as connection:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            while not connection.execute(sqlalchemy.text("SELECT pg_try_advisory_lock(:key)"), key).scalar():
                self.notice("another driver of the study is preparing it")
                time.sleep(POLL_S)
            try:
                yield
            finally:
                connection.invalidate()  # the server lets go with the connection, also where it broke meanwhile

    def stale(self, study_id: int, grace_s: float) -> tuple[set[int], set[int]]:
        """Return the running trials whose driver has sent no heartbeat for this long, and those that never had one.

        Uses the database's clock, as Optuna does.
        """
        trials, beats = models.TrialModel.__table__, models.TrialHeartbeatModel.__table__
        query = (
            sqlalchemy.select(trials.c.trial_id, beats.c.heartbeat, sqlalchemy.func.now())
            .select_from(trials.outerjoin(beats, trials.c.trial_id == beats.c.trial_id))
            .where(trials.c.study_id == study_id, trials.c.state == TrialState.RUNNING)
        )
        silent, never = set(), set()
        with self.engine.connect() as connection:
            for trial_id, beat, now in connection.execute(query):
                if beat is None:
                    never.add(trial_id)
                elif now.replace(tzinfo=None) - beat.replace(tzinfo=None) > timedelta(seconds=grace_s):
                    silent.add(trial_id)
        return silent, never

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """Read trials like Optuna; when reading all of them, without an object for each parameter."""
        if states is not None or trial_id_greater_than > -1:
            return super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)
        with self.engine.connect() as connection:
            return _everything(connection, study_id)


def _everything(connection: sqlalchemy.Connection, study_id: int) -> list[FrozenTrial]:
    """Read all trials of a study. States come first: a finished trial's state was written after everything else."""
    trials = models.TrialModel.__table__
    query = sqlalchemy.select(trials).where(trials.c.study_id == study_id).order_by(trials.c.trial_id)
    rows = connection.execute(query).all()

    def belonging(model: Any, *columns: str) -> dict[int, list[Any]]:
        table = model.__table__
        mine = table.join(trials, table.c.trial_id == trials.c.trial_id)
        chosen = [table.c[name] for name in ("trial_id", *columns)]
        found = sqlalchemy.select(*chosen).select_from(mine).where(trials.c.study_id == study_id)
        grouped = defaultdict(list)
        for trial_id, *fields in connection.execute(found.order_by(table.c[table.primary_key.columns.keys()[0]])):
            grouped[trial_id].append(fields)
        return grouped

    params = belonging(models.TrialParamModel, "param_name", "param_value", "distribution_json")
    values = belonging(models.TrialValueModel, "objective", "value", "value_type")
    users = belonging(models.TrialUserAttributeModel, "key", "value_json")
    systems = belonging(models.TrialSystemAttributeModel, "key", "value_json")
    steps = belonging(models.TrialIntermediateValueModel, "step", "intermediate_value", "intermediate_value_type")
    read, number = models.TrialValueModel.stored_repr_to_value, models.TrialIntermediateValueModel
    return [
        FrozenTrial(
            number=row.number,
            state=row.state,
            value=None,
            values=[read(value, kind) for _, value, kind in sorted(values[row.trial_id])] or None,
            datetime_start=row.datetime_start,
            datetime_complete=row.datetime_complete,
            params={name: _distribution(kind).to_external_repr(x) for name, x, kind in params[row.trial_id]},
            distributions={name: _distribution(kind) for name, _, kind in params[row.trial_id]},
            user_attrs={key: json.loads(text) for key, text in users[row.trial_id]},
            system_attrs={key: json.loads(text) for key, text in systems[row.trial_id]},
            intermediate_values={
                step: number.stored_repr_to_intermediate_value(x, kind) for step, x, kind in steps[row.trial_id]
            },
            trial_id=row.trial_id,
        )
        for row in rows
    ]


@lru_cache(maxsize=10_000)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _patient(name: str) -> Callable[..., Any]:
    """Return a method of Optuna's storage that waits while the database is away.

    A call whose answer was lost is repeated. A second trial that this creates has no owner and is given up; writing the
    same value twice changes nothing.
    """
    method = getattr(PatientRDBStorage, name)

    @wraps(method)
    def call(self: PatientRDBStorage, *args: Any, **kwargs: Any) -> Any:
        began, pause_s = time.monotonic(), FIRST_S
        while True:
            try:
                return method(self, *args, **kwargs)
            except Exception as error:
                gone_s = time.monotonic() - began
                if not is_disconnected(error) or not self.patience_s:
                    raise
                if gone_s > self.patience_s:
                    cause = gist(error.__cause__ or error)
                    raise StorageError(
                        f"a study's database must answer; it has not for {gone_s:.0f} s ({cause}). "
                        "No finished trial is lost: when it answers again, run the same command to resume."
                    ) from error
                self.notice(f"the database does not answer, trying again ({gone_s:.0f} s)")
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, MOST_S)

    return call


for _name in WAITING:
    setattr(PatientRDBStorage, _name, _patient(_name))
