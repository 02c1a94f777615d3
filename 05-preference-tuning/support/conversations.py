"""Conversations: the turns of a cell, however they are written, and the prompt of a pair.

A turn is (role, text). What follows the last turn of the user is the answer; what precedes it is
the prompt, which the two answers of a pair share.
"""

import ast
import json
import re

from support.data_columns import refuse_other_inputs
from support.transcripts import ROLES, Turn, split_transcript

from common.cli import UserError
from common.prompts import Prompt, as_prompt

# The keys under which a message has its role and its text.
MESSAGE_KEYS = (("role", "content"), ("from", "value"), ("role", "text"), ("speaker", "text"))
MESSAGE_KEYS += (("role", "value"), ("from", "content"), ("author", "content"))
# What a message may hold beside its text that changes what it says.
BESIDE_TEXT = ("tool_calls", "function_call", "tool_call_id", "reasoning_content", "thinking")
BESIDE_TEXT += ("images", "audio")


class DroppedRow(Exception):
    """A row that teaches nothing. It is counted by its reason; `why` says it of that row alone."""

    def __init__(self, reason: str, why: str = "") -> None:
        super().__init__(reason)
        self.reason, self.why = reason, why or reason


# --- Turns ---


def read_turns(cell, role: str, where: str) -> list[Turn]:
    """The turns of a cell; a text without roles is one turn of `role`.

    Messages may be a list, a single one, columns of lists, or any of these as JSON in a text.
    Raises UserError for what is none of that.
    """
    if cell is None:
        return [(role, "")]
    if isinstance(cell, str):
        messages = _messages_in(cell, where)
        if messages is None:
            turns = split_transcript(cell)
            for speaker, _ in turns:
                _check_role(speaker, where)
            return turns or [(role, cell.strip())]
        cell = messages
    if isinstance(cell, dict) and isinstance(cell.get("messages"), list):  # as OpenAI has prompts
        refuse_other_inputs(cell, where)
        cell = cell["messages"]
    if isinstance(cell, dict) and all(isinstance(column, list) for column in cell.values()):
        columns = zip(*cell.values(), strict=False)
        cell = [dict(zip(cell, values, strict=True)) for values in columns]
    if isinstance(cell, dict):
        cell = [cell]
    if not isinstance(cell, list):
        raise UserError(f"{where} is {cell!r:.60}, neither a text nor a list of messages")
    return [_turn(message, cell, where) for message in cell] or [(role, "")]


def _messages_in(text: str, where: str):
    """The messages that a text holds as JSON or as Python writes them; None for any other text."""
    text = text.strip()
    if not re.match(r"\[?\s*\{\s*['\"](role|from|content|value|speaker|author|text)['\"]", text):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            messages = parse(text)
        except (ValueError, SyntaxError):
            continue
        first = messages[0] if isinstance(messages, list) else messages
        return messages if _keys_of(first) and _role_of(first) in ROLES else None
    if text.endswith("]"):
        raise UserError(
            f"{where} looks like a list of messages, but is no JSON ({text:.40}...); write such "
            "cells with json.dumps"
        )
    return None


def _keys_of(message) -> tuple[str, str] | None:
    """The keys of role and text in a message."""
    if not isinstance(message, dict):
        return None
    return next((keys for keys in MESSAGE_KEYS if set(keys) <= message.keys()), None)


def _role_of(message: dict) -> str:
    role, _ = _keys_of(message)
    return str(message[role]).strip().lower()


def _turn(message, cell, where: str) -> Turn:
    keys = _keys_of(message)
    if keys is None:
        raise UserError(f"{where} is {cell!r:.60}, neither a text nor a list of messages")
    beside = [name for name in BESIDE_TEXT if message.get(name)]
    if beside:
        raise UserError(
            f"{where} holds {beside[0]} beside its text, which the lab would not train on; leave "
            "such rows out"
        )
    role = _role_of(message)
    _check_role(role, where)
    return ROLES[role], _text(message[keys[1]], where)


def _check_role(role: str, where: str) -> None:
    if role not in ROLES:
        known = ", ".join(ROLES)
        raise UserError(f"{where} has a turn of {role!r}; the lab knows the roles {known}")


def _text(content, where: str) -> str:
    """The text of a message; its parts are joined."""
    if isinstance(content, str):
        return content.strip()
    texts = []
    for part in [content] if isinstance(content, dict) else content or []:
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            raise UserError(f"{where} holds {part!r:.60}, which is no text; leave such rows out")
        texts.append(text)
    return "\n".join(texts).strip()


def is_message(cell) -> bool:
    """Whether a cell is a message with a role and a text, or a list of such."""
    first = cell[0] if isinstance(cell, list) and cell else cell
    return _keys_of(first) is not None


# --- The prompt of a pair ---


def past_turns(history: list, where: str) -> list[Turn]:
    """The turns of [question, answer] lists, as some data sets hold what was said before."""
    turns = []
    for exchange in history:
        texts = isinstance(exchange, list) and [cell for cell in exchange if isinstance(cell, str)]
        if not (texts and len(texts) == len(exchange) == 2):
            raise UserError(f"{where} is {exchange!r:.60}, not a question and an answer")
        turns += zip(("user", "assistant"), map(str.strip, texts), strict=True)
    return turns


def shared_prompt(
    prompt: list[Turn], chosen: list[Turn], rejected: list[Turn], system: str, where: str
) -> Prompt:
    """What the last turns of chosen and rejected answer: a text, or a list of messages.

    `prompt` are the turns of the prompt's column, empty without one. Raises DroppedRow where the
    conversations part before their last turn, UserError where the columns contradict each other.
    """
    for side, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns[-1][0] != "assistant":
            raise UserError(f"{where}: {side} ends with a turn of {turns[-1][0]}, not an answer")
    contexts = [turns[:-1] for turns in (chosen, rejected) if turns[:-1]]
    if len(contexts) == 2 and contexts[0] != contexts[1]:
        why = "chosen and rejected do not answer the same prompt"
        raise DroppedRow("that part before the last answer", why)
    context = contexts[0] if contexts else []
    prompt = _without_answer(prompt, chosen[-1])
    turns = with_system(_join(prompt, context, where), system, where)
    if not turns or turns[-1][0] != "user":
        last = f"ends with a turn of {turns[-1][0]}" if turns else "is empty"
        raise UserError(f"{where}: the prompt {last}; it must end with a turn of the user")
    if not turns[-1][1]:
        raise UserError(f"{where}: the prompt is empty")
    return as_prompt([{"role": role, "content": text} for role, text in turns])


def _without_answer(prompt: list[Turn], answer: Turn) -> list[Turn]:
    """The prompt without what a template opens the answer with, and without the answer itself."""
    has_answer = len(prompt) > 1 and prompt[-1] in (("assistant", ""), answer)
    return prompt[:-1] if has_answer else prompt


def _join(prompt: list[Turn], context: list[Turn], where: str) -> list[Turn]:
    """The prompt's column and the turns before the answers as one conversation."""
    if context and context[0][0] == "assistant":
        return prompt + context  # the conversation goes on from the prompt
    longer, shorter = sorted((prompt, context), key=len, reverse=True)
    count = len(shorter)
    spoken = [turn for turn in longer if turn[0] != "system"]
    if not count or shorter in (longer[-count:], longer[:count], spoken[:count]):
        return longer
    raise UserError(
        f"{where}: the column prompt and the turns before the answers differ: chosen and rejected "
        "do not answer the same prompt"
    )


def with_system(turns: list[Turn], system: str, where: str) -> list[Turn]:
    """The turns behind a system message, where there is one."""
    if not system or ("system", system) in turns:
        return turns
    if any(role == "system" for role, _ in turns):
        raise UserError(f"{where}: the column system is not the system message of the turns")
    return [("system", system), *turns]
