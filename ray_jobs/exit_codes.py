"""How a command of ours ends: its exit code, and the line that says why."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Callable

from evalgen.errors import EvalgenError, UserError
from evalgen.plain_lines import give_up
from evalgen.printable import printable
from ray_jobs.stop import Interrupted


def exit_code_of(command: Callable[[], object], if_interrupted: str) -> int:
    """Runs a command. 0: done; 1: it failed; 2: the input is wrong; 130 and 143: stopped by a signal.

    `if_interrupted` says what Ctrl-C means where the command itself does not.
    """
    # At its end Python would look twice for garbage among all that was imported: more than a second, for nothing.
    atexit.register(gc.freeze)
    try:
        command()
    except UserError as error:
        return _fail(error, exit_code=2)
    except EvalgenError as error:
        return _fail(error, exit_code=1)
    except Interrupted as interrupted:
        return interrupted.exit_code  # it has said so
    except KeyboardInterrupt:
        return _fail(if_interrupted, exit_code=130)
    return 0


def _fail(reason: object, exit_code: int) -> int:
    try:
        sys.stderr.write(f"error: {printable(str(reason))}\n")
        sys.stderr.flush()
    except OSError:
        give_up(sys.stderr)
    return exit_code
