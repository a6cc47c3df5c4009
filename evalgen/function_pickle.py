"""`eval_functions.pkl`: functions of evalgen by name, read without running anything that somebody put there."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evalgen.errors import InputError
from evalgen.eval_functions import eval_accuracy_and_loss

EvalFunction = Callable[..., dict[str, Any]]


def save_functions(path: Path, functions: Sequence[EvalFunction]) -> None:
    path.write_bytes(pickle.dumps(list(functions)))


def load_functions(path: Path) -> list[EvalFunction]:
    """What `save_functions` wrote.

    Raises:
        InputError: anything else.
    """
    try:
        content = path.read_bytes()
        for opcode, _, _ in pickletools.genops(content):
            if opcode.name not in _OPCODES:
                raise InputError(f"{path} is not a list of functions (it has a {opcode.name}): not loaded")
        functions = _FunctionsOnly(io.BytesIO(content)).load()
    except _PICKLE_ERRORS as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not isinstance(functions, list) or any(function is not eval_accuracy_and_loss for function in functions):
        raise InputError(f"{path} does not hold a list of functions of evalgen: not loaded")
    return functions


class _FunctionsOnly(pickle.Unpickler):
    """Resolves our own functions by name and nothing else: a pickle of someone else's is their code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (eval_accuracy_and_loss.__module__, eval_accuracy_and_loss.__name__):
            return eval_accuracy_and_loss
        raise InputError(
            f"eval_functions.pkl refers to {module}.{name}, which is not a function of evalgen: not loaded"
        )


# What reading and unpickling arbitrary bytes can raise.
_PICKLE_ERRORS = (
    pickle.UnpicklingError,
    OSError,
    EOFError,
    ValueError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
)
# A list, names, and references to be resolved: nothing that calls, builds or sets anything.
_OPCODES = {"PROTO", "FRAME", "EMPTY_LIST", "MEMOIZE", "MARK", "APPEND", "APPENDS", "STOP"}
_OPCODES |= {"SHORT_BINUNICODE", "BINUNICODE", "STACK_GLOBAL", "GLOBAL", "BINPUT", "BINGET"}
