"""A mirror of a search in a storage of Optuna, for optuna-dashboard; it is only written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState, create_trial

from hyperpruning.search.samplers import contains, distribution_of
from hyperpruning.search.space import Config, space_from_identity


@dataclass
class Mirror:
    """A study of Optuna into which the candidates of a search are written; nothing is read from it for the search."""

    storage: Any
    study: int
    trials: dict[str, tuple[int, bool]]  # number in the storage, and whether it has ended, by candidate
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)

    def begin(self, space: Mapping[str, Any]) -> None:
        """The search space, as `SearchSpace.identity` has it."""
        dimensions = space_from_identity(space).dimensions
        self.distributions = {name: distribution_of(one) for name, one in dimensions.items()}

    def start(self, candidate: str, config: Config) -> None:
        """A candidate begins; settings that are not in the space are attributes of its trial."""
        if candidate in self.trials:
            return
        params = {name: value for name, value in config.items() if contains(self.distributions, name, value)}
        trial = create_trial(
            state=TrialState.RUNNING,
            params=params,
            distributions={name: self.distributions[name] for name in params},
            user_attrs={"candidate": candidate, **{k: v for k, v in config.items() if k not in params}},
        )
        self.trials[candidate] = self.storage.create_new_trial(self.study, template_trial=trial), False

    def report(self, candidate: str, epoch: int, loss: float) -> None:
        """The validation loss after an epoch."""
        number, ended = self.trials.get(candidate, (0, True))
        if not ended:
            self.storage.set_trial_intermediate_value(number, epoch, loss)

    def end(self, candidate: str, state: str, value: float | None = None) -> None:
        """A candidate is "complete" with a value, "pruned", or it did "fail"."""
        number, ended = self.trials.get(candidate, (0, True))
        if not ended:
            states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "fail": TrialState.FAIL}
            values = None if value is None else [value]
            self.storage.set_trial_state_values(number, states[state], values=values)
            self.trials[candidate] = number, True


def mirror_of(url: str, name: str) -> Mirror:
    """The mirror of a search in a storage of Optuna, a new one or one that was interrupted.

    Args:
        url: of the storage, e.g. "sqlite:///optuna.db".
        name: of the study.

    Raises:
        ValueError: the storage cannot be opened.
    """
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage = optuna.storages.get_storage(url)
        study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
        number = storage.get_study_id_from_name(study.study_name)
        known = {
            str(trial.user_attrs.get("candidate")): (trial._trial_id, trial.state.is_finished())
            for trial in storage.get_all_trials(number)
        }
    except Exception as error:  # each database has its own
        reason = str(error).splitlines()[0]
        raise ValueError(f"The storage of Optuna must be a database, got {url!r} ({reason}). Correct it.") from None
    finally:
        optuna.logging.set_verbosity(verbosity)
    return Mirror(storage, number, known)
