"""Every error evalgen raises on purpose, sorted by whose fault it is.

::

    EvalgenError
    ├── UserError                the user's input; one line, exit code 2, nothing created or spent
    │   ├── ConfigError          a flag, a configuration file, a grader file
    │   └── InputError           a run, a checkpoint, a tokenizer, an eval dataset, a query
    ├── LoadFailed               one replica cannot load a checkpoint; another may
    ├── SequenceTooLarge         one sequence finds no memory beside the model; other prompts, or another replica, may
    ├── GradingError             one question got no verdict: data on its row, never the end of a job
    └── JobStopped               a systemic failure: the whole job stops, exit code 1
        ├── GraderUnavailable    bad key, no permission, unknown model, spend cap, an outage without end
        └── GradingBudgetSpent   what grading may cost is spent

Bugs of ours are ``assert`` statements, not members of this tree.
"""


class EvalgenError(Exception):
    """Base of every error raised on purpose. ``str(error)`` is one line that a user can act on."""


class UserError(EvalgenError):
    """The input is wrong: the message says what was found, what was expected and what to do."""


class ConfigError(UserError):
    """A flag, a key of a configuration file, or a grader file is wrong."""


class InputError(UserError):
    """A run, checkpoint, tokenizer, eval dataset or query is missing or malformed."""


class LoadFailed(EvalgenError):
    """A replica cannot load a checkpoint now: its node does not see the files, or its device has no room for them."""


class SequenceTooLarge(EvalgenError):
    """Memory does not suffice for one sequence by itself: its unit has failed here, and no other has."""


class GradingError(EvalgenError):
    """One question could not be judged; its row is stored as ``ungraded`` with this message."""


class JobStopped(EvalgenError):
    """Something that no retry mends: the job stops and says what to do."""


class GraderUnavailable(JobStopped):
    """The grader answers no question: bad key, no permission, unknown model, a spend cap, or an outage without end."""


class GradingBudgetSpent(JobStopped):
    """Another request could cost more than `--max_grading_cost_usd` leaves."""
