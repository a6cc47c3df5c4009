"""What the chaos server's judge is asked and what it answers: one verdict or a pack of them, whole or spoilt."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass

from tests.chaos.judges import OTHER_VERDICT
from tests.messages_api import Json, Judge, verdict

_NO_QUESTION = "I see no question in this."
_PROSE = "Both of them name the same person, so I would say that they are equivalent."


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The questions of one request."""

    model: str
    questions: tuple[dict[str, str], ...]  # prompt, reference, completion; none if the message is something else
    is_pack: bool
    digests: tuple[bytes, ...]  # of the questions: the same alone, in a pack and in a batch
    input_tokens: int
    max_tokens: int


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the judge says to one request."""

    text: str
    stop_reason: str
    output_tokens: int
    answered: tuple[bytes, ...]  # the digests of the questions whose verdict can be read in it


def count_tokens(text: str) -> int:
    """Tokens of our made-up tokenizer."""
    return len(text.encode("utf-8", "surrogatepass")) // 4 + 1


def read_questions(body: Json) -> Asked:
    """The questions in the parameters of a message that the API would accept."""
    system, content = str(body.get("system", "")), str(body["messages"][0]["content"])
    questions, is_pack = _parsed(content)
    return Asked(
        model=body["model"],
        questions=questions,
        is_pack=is_pack,
        digests=tuple(_digest(body["model"], system, question) for question in questions),
        input_tokens=count_tokens(system) + sum(count_tokens(str(entry["content"])) for entry in body["messages"]),
        max_tokens=body["max_tokens"],
    )


def _parsed(content: str) -> tuple[tuple[dict[str, str], ...], bool]:
    """The questions in a user message, and whether they came as a pack."""
    try:
        data = json.loads(content)
    except ValueError:
        return (), False
    if not isinstance(data, dict) or not {"prompt", "reference"} <= data.keys():
        return (), False
    is_pack = isinstance(data.get("completions"), list)
    completions = data["completions"] if is_pack else [data.get("completion")]
    shared = {name: text for name, text in data.items() if name not in ("completion", "completions")}
    questions = tuple({**shared, "completion": completion} for completion in completions)
    is_text = all(isinstance(text, str) for question in questions for text in question.values())
    return (questions if is_text else ()), is_pack


def _digest(model: str, system: str, question: dict[str, str]) -> bytes:
    if "<rules>" in system:  # the text around the rules differs between a pack and a single question
        system = system[system.index("<rules>") : system.rindex("</rules>")]
    return hashlib.sha256(json.dumps([model, system, sorted(question.items())]).encode()).digest()[:16]


def answer(asked: Asked, judge: Judge, fault: str | None, stream: random.Random) -> Answer:
    """The judge's reply, spoilt by a fault of `IN_REPLY` or `IN_PACK` if one strikes."""
    text, is_readable = _NO_QUESTION, [False] * len(asked.questions)
    if asked.questions:
        verdicts = [judge(question) for question in asked.questions]
        is_readable = [True] * len(verdicts)
        reply: Json = verdicts[0]
        if asked.is_pack:
            entries = [{"index": i, **given} for i, given in enumerate(verdicts)]
            if fault is not None and fault.startswith("pack_"):
                is_readable[_spoil(entries, fault, stream)] = False
            reply = {"verdicts": entries}
        text = json.dumps(reply)
    stop_reason = "end_turn"
    if fault == "prose":
        text = _PROSE
    elif fault == "refusal":
        text, stop_reason = text[: len(text) // 3], "refusal"
    elif fault == "max_tokens" or count_tokens(text) > asked.max_tokens:
        num_chars = len(text) // 2 if fault == "max_tokens" else 4 * (asked.max_tokens - 1)
        text, stop_reason = text[:num_chars], "max_tokens"
    is_whole = stop_reason == "end_turn" and fault != "prose"
    return Answer(
        text=text,
        stop_reason=stop_reason,
        output_tokens=count_tokens(text),
        answered=tuple(digest for digest, ok in zip(asked.digests, is_readable, strict=True) if ok and is_whole),
    )


def _spoil(entries: list[Json], fault: str, stream: random.Random) -> int:
    """Spoils one entry of a pack's reply in place; returns which."""
    struck = stream.randrange(len(entries))
    if fault == "pack_missing":
        del entries[struck]
    elif fault == "pack_duplicated":
        other = OTHER_VERDICT[entries[struck]["verdict"]]
        entries.insert(stream.randrange(len(entries) + 1), {"index": struck, **verdict(other)})
    elif fault == "pack_out_of_range":
        entries[struck]["index"] = stream.choice([-1, len(entries), 10**6])
    else:
        assert fault == "pack_malformed", fault
        entries[struck].update(stream.choice([{"verdict": "perhaps"}, {"trimmed_completion": 7}, {"score": 1}]))
    return struck
