"""What the judge is sent over the Messages API, and what its responses say; `claude.py` and `batches.py` send it.

Sources: https://platform.claude.com/docs/en/api/messages and .../build-with-claude/structured-outputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from evalgen.errors import GradingError
from evalgen.grading.question_text import (
    PACK_REPLY_SCHEMA,
    REPLY_SCHEMA,
    JudgeReply,
    pack_system_text,
    pack_user_text,
    parse_packed_replies,
    parse_reply,
    system_text,
    user_text,
)
from evalgen.grading.trimming import valid_trim
from evalgen.records import Question, Verdict

# Room for a sentence, a long completion repeated, and the thinking that newer models do unasked.
MAX_TOKENS = 4096
MAX_ASKS = 2  # how often one question is asked before an unreadable reply leaves it ungraded
MAX_TOKENS_MORE = 200  # for each question of a pack
# Of completions. A token has a byte or more, so that the whole request stays below the 100,000 tokens from which on
# some models are dearer; and a reply has only so many.
MOST_BYTES_OF_A_PACK = 60_000


class NotAMessage(GradingError):
    """What came back is no message: a proxy's page, or a message cut off. The next response may be one."""


class Usage(BaseModel):
    """Tokens that a response is billed for. Those of a cache, which servers of others may have, count in full."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None

    @property
    def all_input_tokens(self) -> int:
        return self.input_tokens + (self.cache_creation_input_tokens or 0) + (self.cache_read_input_tokens or 0)


class Block(BaseModel):
    type: str
    text: str = ""


class Message(BaseModel):
    """The part of a Messages API response that is read; everything else in it is ignored."""

    content: list[Block]
    stop_reason: str | None
    usage: Usage


def message_params(question: Question) -> dict[str, Any]:
    """The body of the request that asks one question: parameters of the SDK's `messages.create`."""
    system = system_text(question.grader.instructions)
    return _params(question.grader.api_model, system, user_text(question), REPLY_SCHEMA)


def pack_params(questions: Sequence[Question]) -> dict[str, Any]:
    """The same for questions about completions of one prompt, to one judge, with one reference."""
    system = pack_system_text(questions[0].grader.instructions)
    params = _params(questions[0].grader.api_model, system, pack_user_text(questions), PACK_REPLY_SCHEMA)
    return params | {"max_tokens": MAX_TOKENS + MAX_TOKENS_MORE * len(questions)}


def read_message(body: bytes | Mapping[str, Any]) -> Message:
    """A response's body, as JSON or parsed.

    Raises:
        NotAMessage: it is none.
    """
    try:
        return Message.model_validate_json(body) if isinstance(body, bytes) else Message.model_validate(body)
    except ValidationError:
        raise NotAMessage("the response is not a message of the Messages API") from None


def message_text(message: Message) -> str:
    """The text of a message that came to its end.

    Raises:
        GradingError: a refusal, a reply cut short, or no text.
    """
    if message.stop_reason == "refusal":
        raise GradingError("the judge refused the question (stop_reason refusal)")
    if message.stop_reason not in ("end_turn", "stop_sequence"):
        raise GradingError(f"the judge's reply is incomplete (stop_reason {message.stop_reason})")
    # By type, not by place: a model that thinks puts its thinking block first.
    texts = [block.text for block in message.content if block.type == "text"]
    if not texts:
        raise GradingError("the judge's reply has no text")
    return "".join(texts)


def verdict_in(message: Message, question: Question) -> Verdict:
    """The verdict that a message gives on a question; its costs are for the caller to fill in.

    Raises:
        GradingError: none can be read in it.
    """
    return verdict_of(parse_reply(message_text(message)), question)


def verdict_of(reply: JudgeReply, question: Question) -> Verdict:
    """A reply as a verdict: trimmed where the judge proposed an exact prefix."""
    trimmed = valid_trim(question.completion, reply.trimmed_completion) if reply.verdict == "equivalent" else None
    return Verdict(kind=reply.verdict, trimmed_completion=trimmed, reasoning=reply.reasoning)


def verdicts_in_pack(message: Message, questions: Sequence[Question]) -> dict[str, Verdict]:
    """By question key, the verdicts that a message gives on several questions, without those it is not clear about.

    Raises:
        GradingError: none can be read in it.
    """
    replies = parse_packed_replies(message_text(message))
    times = Counter(reply.index for reply in replies)
    return {
        questions[reply.index].key: verdict_of(reply, questions[reply.index])
        for reply in replies
        if times[reply.index] == 1 and 0 <= reply.index < len(questions)
    }


def _params(model: str, system: str, user: str, schema: Mapping[str, object]) -> dict[str, Any]:
    return {
        "model": model,
        "max_tokens": MAX_TOKENS,
        "system": system,
        "messages": [{"role": "user", "content": user}],
        "output_config": {"format": {"type": "json_schema", "schema": schema}},
    }
