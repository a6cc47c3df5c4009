"""What the page's script shows, as JSON within HTML: bounded in size, and nothing in it can end its element.

Texts come from models, judges and data: they are hostile until shown as text, which is all that the script does.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from evalgen.report.comparison import Named
from evalgen.report.records import ShownCompletion, ShownPrompt

MAX_BYTES = 6_000_000  # of all prompts together
MAX_TEXT_CHARS = 600  # of one text
MAX_PROMPT_CHARS = 2_000
_ESCAPES = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """The data of the page's script, and how much of each dataset they have."""

    json: Markup
    num_prompts: tuple[int, ...]  # shown, by dataset of the page
    num_completions: tuple[int, ...]  # shown, by dataset of the page

    @property
    def is_empty(self) -> bool:
        return not sum(self.num_prompts)


def embedded(datasets: Sequence[Named]) -> Embedded:
    """The shown prompts of `datasets`: split votes first, then what is ungraded, then in order; as many as fit."""
    ranked = [
        (_rank(prompt), place, number, prompt)
        for number, named in enumerate(datasets)
        for place, prompt in enumerate(named.dataset.shown)
    ]
    ranked.sort(key=lambda it: it[:3])  # of each dataset the first, of each the second ...: none is cut off alone
    fitting: list[tuple[int, int, int, str]] = []
    prompts: Counter[int] = Counter()
    completions: Counter[int] = Counter()
    size = 0
    for rank, place, number, prompt in ranked:
        content = script_json(_prompt(number, prompt))
        size += len(content.encode())
        if size > MAX_BYTES:
            break
        fitting.append((rank, number, place, content))
        prompts[number] += 1
        completions[number] += len(prompt.completions)
    fitting.sort(key=lambda it: it[:3])
    heads = script_json([_dataset(named) for named in datasets])
    rows = ",\n".join(content for *_, content in fitting)
    return Embedded(
        json=Markup(f'{{"datasets":{heads},"prompts":[{rows}]}}'),
        num_prompts=tuple(prompts[number] for number in range(len(datasets))),
        num_completions=tuple(completions[number] for number in range(len(datasets))),
    )


def script_json(content: Any) -> Markup:
    """`content` as JSON that means the same within a `script` element, whatever its strings are."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_ESCAPES))


def _rank(prompt: ShownPrompt) -> int:
    if prompt.num_split:
        return 0
    return 1 if prompt.figures["num_ungraded"] else 2


def _dataset(named: Named) -> dict[str, Any]:
    return {"label": named.label, "name": named.dataset.name}


def _prompt(dataset: int, prompt: ShownPrompt) -> dict[str, Any]:
    row = prompt.figures
    return {
        "dataset": dataset,
        "id": row["prompt_id"],
        "prompt": _cut(row["prompt"], MAX_PROMPT_CHARS),
        "reference": _cut(row["reference_completion"]),
        "draws": row["num_draws"],
        "unique": row["num_unique"],
        "equivalent": row["num_equivalent"],
        "ungraded": row["num_ungraded"],
        "variations": row["num_variations"],
        "share": row["equivalent_draw_share"],
        "mass": row["equivalent_mass"],
        "entropy": [row["semantic_entropy_lower"], row["semantic_entropy"]],
        "unseen": row["unseen_mass"],
        "greedy": None if row["greedy_completion"] is None else [_cut(row["greedy_completion"]), row["greedy_verdict"]],
        "hidden": prompt.num_completions - len(prompt.completions),
        "completions": [_completion(completion) for completion in prompt.completions],
    }


def _completion(completion: ShownCompletion) -> dict[str, Any]:
    """What is not said is left out."""
    fields = {
        "text": _cut(completion.text),
        "raw": _cut(completion.raw) if completion.raw != completion.text else None,
        "verdict": completion.verdict,
        "draws": completion.draws,
        "mass": completion.mass,
        "law": completion.mass_sampling,
        "why": _cut(completion.reasoning) or None,
        "out": _cut(completion.left_out) if completion.left_out else None,
        "weight": completion.weight,
        "prefix": completion.is_prefix or None,
        "tokens": completion.num_tokens,
        "end": completion.finish_reason,
        "greedy": completion.is_greedy or None,
        "votes": list(completion.votes) or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _cut(text: str, number: int = MAX_TEXT_CHARS) -> str:
    return text if len(text) <= number else f"{text[:number]}… ({len(text) - number:,} more characters)"
