"""What the judge is sent over the Messages API, and what its responses say; `claude.py` and `batches.py` send it.

Sources: https://platform.claude.com/docs/en/api/messages and .../build-with-claude/structured-outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from evalgen.errors import GradingError
from evalgen.grading.grader_config import BATCH_PREFIX, CLAUDE_PREFIX
from evalgen.grading.question_text import REPLY_SCHEMA, JudgeReply, parse_reply, system_text, user_text
from evalgen.grading.trimming import valid_trim
from evalgen.records import Question, Verdict

# Room for a sentence, a long completion repeated, and the thinking that newer models do unasked.
MAX_TOKENS = 4096


class Usage(BaseModel):
    """Tokens that a response is billed for."""

    input_tokens: int
    output_tokens: int


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
    return _params(question, user_text(question), REPLY_SCHEMA)


def model_name(question: Question) -> str:
    """The API's name of the judge, whichever way it is asked."""
    model = question.grader.model
    assert model.startswith((CLAUDE_PREFIX, BATCH_PREFIX)), model
    return model.removeprefix(CLAUDE_PREFIX).removeprefix(BATCH_PREFIX)


def read_message(body: bytes | Mapping[str, Any]) -> Message:
    """A response's body, as JSON or parsed.

    Raises:
        GradingError: it is no message.
    """
    try:
        return Message.model_validate_json(body) if isinstance(body, bytes) else Message.model_validate(body)
    except ValidationError:
        raise GradingError("the response is not a message of the Messages API") from None


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


def _params(question: Question, user: str, schema: Mapping[str, object]) -> dict[str, Any]:
    return {
        "model": model_name(question),
        "max_tokens": MAX_TOKENS,
        "system": system_text(question.grader.instructions),
        "messages": [{"role": "user", "content": user}],
        "output_config": {"format": {"type": "json_schema", "schema": schema}},
    }
