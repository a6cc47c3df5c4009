"""How a dataset was sampled and graded, in words and as settings, for its card and for the report."""

from __future__ import annotations

from evalgen.config import RunConfig
from evalgen.records import GraderSpec

ENDS = "A completion ends with the model's end-of-text token, which is not part of it, or after {tokens}{stops}."


def law_in_words(settings: RunConfig) -> str:
    """Which completions of a prompt there are, and with which probability."""
    if settings.enumerates:
        how = (
            f"Nothing was drawn: every completion whose probability under the law below is at least "
            f"{settings.min_probability:g} was found, exactly. Completions are numbered by falling probability, and "
            "`sample_count` and `num_samples` are null."
        )
    elif not settings.do_sample:
        how = (
            "Each prompt has one completion: at every place the most probable token (greedy). It stands for all "
            f"{settings.num_generations:,} draws."
        )
    else:
        how = (
            f"Each prompt was completed {settings.num_generations:,} times, each draw by itself. Draw *g* of a prompt "
            "depends on the seed, the prompt's id and *g*, and on nothing else: not on batches, other prompts or the "
            "number of machines, but for the rounding of floating point."
        )
    law = "" if not settings.do_sample else f" {_next_token(settings)}"
    tokens = "1 token" if settings.max_new_tokens == 1 else f"{settings.max_new_tokens:,} tokens"
    stops = ", or before the first of the stop strings in its text" if settings.stop_strings else ""
    return f"{how}{law} {ENDS.format(tokens=tokens, stops=stops)}"


def law_settings(settings: RunConfig) -> list[tuple[str, object]]:
    """The settings that decide the completions, as a table has them; one that is off says so."""
    if settings.enumerates:
        number: list[tuple[str, object]] = [("min_probability", settings.min_probability)]
    else:
        number = [("num_generations", settings.num_generations), ("seed", settings.seed)]
    return [
        ("sampler", settings.sampler),
        *number,
        ("do_sample", str(settings.do_sample).lower()),
        ("temperature", settings.temperature),
        ("top_k", settings.top_k or "off"),
        ("top_p", settings.top_p if settings.top_p < 1 else "off"),
        ("min_p", settings.min_p or "off"),
        ("max_new_tokens", settings.max_new_tokens),
        ("stop_strings", ", ".join(map(repr, settings.stop_strings)) or "none"),
        ("dtype of the weights", settings.dtype),
        ("deduplicate", str(settings.deduplicate).lower()),
        ("exclusive", str(settings.exclusive).lower()),
    ]


def grading_in_words(grader: GraderSpec, alpha: float | None) -> str:
    """How often and in what company a question was asked; `alpha` is the agreement of its votes."""
    if grader.is_offline:
        return "It needs no network, and gives the same verdict every time."
    over = " over the Message Batches API" if grader.is_in_batches else ""
    packs = (
        "each question in a request of its own"
        if grader.pack_size == 1
        else f"about up to {grader.pack_size} completions of one prompt in a request"
    )
    if grader.num_votes == 1:
        return f"It was asked once{over}, {packs}."
    agreement = (
        "Krippendorff's alpha of the votes is not defined: all were alike, or none could be compared"
        if alpha is None
        else f"The votes agree with a Krippendorff's alpha of {alpha:.2f} (1: always, 0: as by chance)"
    )
    return f"It was asked {grader.num_votes} times{over}, {packs}, and the majority is the verdict. {agreement}."


def _next_token(settings: RunConfig) -> str:
    filters = []
    if settings.top_k:
        filters.append(f"the {settings.top_k:,} most probable tokens")
    if settings.top_p < 1:
        filters.append(f"the fewest tokens that have {settings.top_p:g} of the probability")
    if settings.min_p:
        filters.append(f"the tokens with at least {settings.min_p:g} times the probability of the best one")
    kept = f", of which only these are left, one filter after the other: {'; '.join(filters)}" if filters else ""
    return f"The next token has the probability softmax(logits / {settings.temperature:g}){kept}."
