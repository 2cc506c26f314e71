"""Contract suites: each checks in one call that an extension does what the package expects of it.

Every suite returns None if all holds. Otherwise it raises an AssertionError, or the ValueError of the part that refused
what it was given: one sentence that says what must hold, what was found and what to do. A name is imported from its
module when it is first used (PEP 562), so that a suite imports only what it needs.
"""

import importlib
import typing

if typing.TYPE_CHECKING:  # for editors and type checkers, which do not follow __getattr__
    from hyperpruning.testing.criterion import check_criterion
    from hyperpruning.testing.driven_layer import check_driven_layer
    from hyperpruning.testing.executor import check_executor
    from hyperpruning.testing.method import check_method
    from hyperpruning.testing.sampler import check_sampler
    from hyperpruning.testing.task import check_task

__all__ = ["check_criterion", "check_driven_layer", "check_executor", "check_method", "check_sampler", "check_task"]


def __getattr__(name: str) -> typing.Any:
    """Import a suite at its first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{name.removeprefix('check_')}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    """The suites, imported or not."""
    return __all__
