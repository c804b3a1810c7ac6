"""Models of the user's own on the command line: ``--model MODULE:FUNCTION``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from gpunet.train.recipes import MakeModel, is_own


def own_model(recorded: str, given: str | None) -> MakeModel | None:
    """The user's function that makes the model of a run; None for a model of gpunet.

    A file names the function, but only the command line has it imported: opening a file runs no
    code.

    Args:
        recorded: the model of the run.
        given: what ``--model`` says; None if it was not given.
    Raises:
        ValueError: the two differ; the function is not given; or it cannot be imported.
    """
    if given is not None and given != recorded:
        raise ValueError(f"the run's model is {recorded}, not {given}")
    if not is_own(recorded):
        return None
    if given is None:
        raise ValueError(f"the run's model is your own, {recorded}: give it by --model {recorded}")
    return import_function(given)


def import_function(name: str) -> Any:
    """The function that ``MODULE:FUNCTION`` names; modules of the working folder are found, too.

    Raises:
        ValueError: there is no such module or function, or the module cannot be imported.
    """
    module, _, function = name.partition(":")
    if not function or not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"--model is {name!r} but takes MODULE:FUNCTION, such as my_nets:make")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ValueError(f"--model {name}: {module} imports {error.name}, which is not installed") from error
        raise ValueError(
            f"--model {name}: there is no module {error.name} in {here} or among what is installed"
        ) from error
    except Exception as error:  # whatever the user's module raises
        raise ValueError(f"--model {name}: {module} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        if here in sys.path:  # the module may have changed the path
            sys.path.remove(here)
    made = getattr(found, function, None)
    if not callable(made):
        place = getattr(found, "__file__", None) or "built into Python"
        raise ValueError(f"--model {name}: {module} has no function {function}, in {place}")
    return made
