"""What a caller's type checker knows of the tasks is what the tasks say themselves."""

from dataclasses import is_dataclass
from typing import Any, get_args, get_type_hints

import pytest

from tritext import client
from tritext.client import Options, results
from tritext.parameters import Parameters
from tritext.tasks import TASKS

OPTIONS = get_type_hints(Options)


def words(hint: Any) -> set[str]:
    """The strings that a type allows, where it allows only some."""
    return {each for arg in get_args(hint) for each in ([arg] if isinstance(arg, str) else words(arg))}


def parameters_of(kind: type[Parameters]) -> dict[str, Any]:
    return get_type_hints(kind)


@pytest.mark.parametrize("name", TASKS)
def test_each_parameter_of_a_task_is_an_option(name: str) -> None:
    parameters = parameters_of(TASKS[name].parameters)
    assert not parameters.keys() - OPTIONS.keys()
    assert not {tensor.name.lower() for tensor in TASKS[name].shared} - OPTIONS.keys()
    for parameter, hint in parameters.items():
        assert words(hint) <= words(OPTIONS[parameter]), parameter


def test_each_option_is_some_tasks() -> None:
    tasks = TASKS.values()
    known = {name for task in tasks for name in parameters_of(task.parameters)}
    assert not OPTIONS.keys() - known - {tensor.name.lower() for task in tasks for tensor in task.shared}


@pytest.mark.parametrize("name", TASKS)
def test_what_a_task_gives_can_be_imported_from_the_client(name: str) -> None:
    kinds = [kind for kind in (TASKS[name].result, TASKS[name].entry) if is_dataclass(kind)]
    assert kinds
    for kind in kinds:
        assert getattr(client, kind.__name__) is kind
        assert kind.__name__ in results.__all__
        assert kind.__name__ in client.__all__
