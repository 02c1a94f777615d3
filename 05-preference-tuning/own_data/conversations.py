"""Conversations: the turns of a cell, however they are written, and the prompt of a row.

A turn is (role, text). What follows the last turn of the user is the answer; what precedes it is
the prompt, which the two answers of a pair share. Texts stay as they stand: blanks at their ends
are content.
"""

import ast
import json
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from common.preferences import SIDES
from common.prompts import Prompt, as_prompt, as_text

Turn = tuple[str, str]  # (role, text)

ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "question", "instruction"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "chatbot", "model", "ai"), "assistant"),
    **dict.fromkeys(("answer", "response"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
# The keys under which a message has its role and its text.
MESSAGE_KEYS = (("role", "content"), ("from", "value"), ("role", "text"), ("speaker", "text"))
MESSAGE_KEYS += (("role", "value"), ("from", "content"), ("author", "content"))
# What a message, or a row, may hold beside its texts that changes what a model reads.
BESIDE_TEXT = ("tool_calls", "function_call", "tool_call_id", "reasoning_content", "thinking")
BESIDE_TEXT += ("images", "audio")
CHANGES_MEANING = ("tools", "functions", "images", "image", "videos", "video", "audios", "audio")
CHANGES_MEANING += ("documents",)


class DroppedRow(Exception):
    """A row that is left out. It is counted by its reason; `why` says it of that row alone.

    An `odd` one is not what it should be; one that is not odd just teaches nothing.
    """

    def __init__(self, reason: str, why: str = "", odd: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.why, self.odd = reason, why or reason, odd


def odd(why: str, reason: str = "that cannot be read") -> DroppedRow:
    """What to raise for a row that is not what it should be."""
    return DroppedRow(reason, why, odd=True)


# --- Turns that are written into one text ---


class Transcript(NamedTuple):
    """Turns in one text: what starts a turn of a role, and what ends it."""

    name: str
    header: str  # a regular expression with one group, the role
    ends: tuple[str, ...] = ()


SPOKEN = r"(Human|HUMAN|User|USER|Prompter|PROMPTER|Assistant|ASSISTANT|Bot|BOT|System|SYSTEM):"
LOOSE = 3  # of TRANSCRIPTS, strict ones first, as many tell turns by a word and a colon
TRANSCRIPTS = (
    Transcript("hh-rlhf", rf"(?:\A\s*|\n\n){SPOKEN}"),
    Transcript("role: text on lines", rf"(?:\A\s*|\n){SPOKEN}"),
    Transcript("role: text", rf"(?:\A\s*|(?<=\s)|(?<=</s>)){SPOKEN}", ("</s>",)),
    Transcript("[ROLE] text", r"(?:\A\s*|\n\s*)\[(\w+)\]:?", ("</s>",)),
    Transcript("ChatML", r"<\|im_start\|>(\w+)\n", ("<|im_end|>", "<|endoftext|>")),
    Transcript("Llama 3", r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\s*", ("<|eot_id|>",)),
    Transcript("Gemma", r"<start_of_turn>(\w+)\n", ("<end_of_turn>", "<eos>")),
    Transcript("Guanaco", r"### ?(Human|Assistant|User|System): ?", ("</s>",)),
    Transcript(
        *("Zephyr", r"<\|(system|user|assistant|prompter)\|>\n?"),
        ends=("</s>", "<|end|>", "<|endoftext|>"),
    ),
)
KINDS = {kind.name: kind for kind in TRANSCRIPTS}
# Templates that are recognised and not taken apart.
OTHER_MARKUP = ("[INST]", "[/INST]", "<|User|>", "<|Assistant|>", "<\uff5cUser\uff5c>")
OTHER_MARKUP += ("### Instruction:", "### Response:", "<|header_start|>", "<|start|>user")
OTHER_MARKUP += ("<|START_OF_TURN_TOKEN|>", "<|start|>assistant")
STARTS = ("<s>", "<bos>", "<|begin_of_text|>", "<|endoftext|>")  # of a text
ENDS = ("</s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<end_of_turn>")
ENDS += ("<eos>", "<|end|>", "<|eos|>", "<|return|>")  # of an answer
# Any of these in a text is worth a question: marks of templates, and roles at the start of a line.
MARK = re.compile(
    r"<\|[\w ]+\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>|<(?:bos|eos|pad)>"
    r"|\[(?:USER|ASSISTANT|SYSTEM)\]|(?<=\s)(?:USER|ASSISTANT|Assistant):"
    r"|^(?:#+ *)?(?:human|user|prompter|assistant|system|gpt|bot|instruction|response) *:",
    re.IGNORECASE | re.MULTILINE,
)


def split_transcript(text: str, kind: Transcript) -> list[Turn]:
    """The turns of a text in the format of `kind`; empty for any other text.

    Turns of one role in a row are one turn. A last turn without text is kept: what follows it is
    the answer.
    """
    headers = list(re.finditer(kind.header, text))
    if not headers or _without(text[: headers[0].start()], STARTS):
        return []
    turns = []
    ends = [header.start() for header in headers[1:]] + [len(text)]
    for header, end in zip(headers, ends, strict=True):
        role = ROLES.get(header[1].lower(), header[1].lower())
        said = _without(text[header.end() : end], kind.ends)
        if turns and turns[-1][0] == role:
            said = "\n\n".join(filter(None, (turns.pop()[1], said)))
        turns.append((role, said))
    return turns


def _without(text: str, marks: tuple[str, ...]) -> str:
    """The text without blanks and these marks at its ends."""
    text, before = text.strip(), None
    while text != before:
        before = text
        for mark in marks:
            text = text.removeprefix(mark).removesuffix(mark).strip()
    return text


def written_as(text: str) -> tuple[str, int]:
    """(the way in which a text holds turns, how many); ("", 0) for a text that holds none.

    Of the transcripts it is the strictest that finds a turn of the assistant.
    """
    start = text.lstrip()[:40]
    if not start or not (start[0] in "[{<#" or re.match(SPOKEN, start)):
        return "", 0
    if start[0] in "[{" and (content := parse_list(text)) is not None:
        return "a list as text", len(content)
    found = []
    for kind in TRANSCRIPTS:
        turns = split_transcript(text, kind)
        roles = {role for role, _ in turns}
        if roles and (kind.name != "[ROLE] text" or roles <= {*ROLES.values()}):
            found.append((("assistant" not in roles), kind.name, len(turns)))
    _, name, turns = min(found, key=lambda kind: kind[0], default=(0, "", 0))
    return name, turns


def parse_list(text: str) -> list | None:
    """The messages, or the texts, that a text holds as JSON or as Python writes them."""
    text = text.strip()
    if not re.match(r"\[\s*['\"]|\[?\s*\{\s*['\"]\w+['\"]\s*:", text):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            content = parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        content = content if isinstance(content, list) else [content]
        if is_texts(content):
            return content
        known = all(_keys_of(message) and _role_of(message) in ROLES for message in content)
        return content if known and content else None
    return None


def take_apart(cell, way: str):
    """The cell as messages or texts, where it is a text that holds them in this way."""
    if not isinstance(cell, str) or not way:
        return cell
    if way not in KINDS:
        content = parse_list(cell)
        return cell if content is None else content
    turns = split_transcript(cell, KINDS[way])
    return [{"role": role, "content": text} for role, text in turns] or cell


# --- Marks in texts ---


def find_markup(text: str) -> str:
    """A mark of a template that is not taken apart, in a text; nothing where it holds none."""
    if not re.search(r"[<\[#]", text):
        return ""
    return next((mark for mark in OTHER_MARKUP if mark in text), "")


def cut_end(text: str) -> tuple[str, str]:
    """(the text without marks that end an answer, the last of these marks or nothing)."""
    mark = next((mark for mark in ENDS if text.rstrip().endswith(mark)), "")
    struck_out = mark == "</s>" and "<s>" in text.lstrip()[1:]  # HTML
    return (_without(text, STARTS + ENDS), mark) if mark and not struck_out else (text, "")


def cut_prompt(prompt: Prompt, answers: list[str]) -> list[str] | None:
    """The answers without the prompt with which all of them begin; None where not all do.

    A short prompt may well begin an answer. An indented line behind the prompt stays indented.
    """
    long = isinstance(prompt, str) and len(prompt.strip()) >= 12
    if not long or not all(answer.lstrip().startswith(prompt.strip()) for answer in answers):
        return None
    rests = [answer.lstrip()[len(prompt.strip()) :] for answer in answers]
    return [re.sub(r"\A(\s*\n| )", "", rest) for rest in rests]


BREAKS = r"\s\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f\uff5e\u300d\u300f"  # blanks, CJK marks


def derive_prompt(chosen: str, rejected: str) -> str:
    """What both texts begin with, up to a blank or a CJK mark: never within a word."""
    count = 0
    while count < min(len(chosen), len(rejected)) and chosen[count] == rejected[count]:
        count += 1
    shared = re.match(rf".*[{BREAKS}]|", chosen[:count], re.DOTALL)[0]
    return shared if shared.strip() else ""


# --- The turns of a cell ---


def is_texts(cell) -> bool:
    """Whether a cell is a list of texts."""
    return isinstance(cell, list) and bool(cell) and all(isinstance(text, str) for text in cell)


def is_message(cell) -> bool:
    """Whether a cell is a message with a role and a text, or a list of such."""
    first = cell[0] if isinstance(cell, list) and cell else cell
    return _keys_of(first) is not None


def read_turns(cell, role: str, what: str) -> list[Turn]:
    """The turns of a cell; a text without roles is one turn of `role`.

    Messages may be a list, a single one, or columns of lists. Raises DroppedRow for what is none of
    that; `what` names the cell.
    """
    if cell is None or cell == []:
        return [(role, "")]
    if isinstance(cell, str):
        if re.match(r"\s*\[\s*\{\s*['\"](role|from|speaker|author)['\"]", cell):
            broken = cell.rstrip().endswith("]") and parse_list(cell) is None
            if broken:
                shown = f"({cell:.40}...)"
                raise odd(
                    f"{what} looks like a list of messages, but is no JSON {shown}; write such "
                    "cells with json.dumps"
                )
        return [(role, cell)]
    if isinstance(cell, dict) and isinstance(cell.get("messages"), list):  # OpenAI, torchtune
        refuse_other_inputs(cell, what)
        system = cell.get("system") or ""
        system = [("system", system)] if isinstance(system, str) and system.strip() else []
        return system + read_turns(cell["messages"], role, what)
    if isinstance(cell, dict) and all(isinstance(column, list) for column in cell.values()):
        columns = zip(*cell.values(), strict=False)
        cell = [dict(zip(cell, values, strict=True)) for values in columns]
    if isinstance(cell, dict) and cell.keys() == {"content"}:
        cell = {"role": role, **cell}
    cell = [cell] if isinstance(cell, dict) else cell
    if is_texts(cell) and len(cell) == 1:
        return [(role, cell[0])]
    if is_texts(cell):
        pattern = '{"role": ("user", "assistant")[k % 2], "content": text}'
        raise odd(
            f"{what} is a list of texts, and nothing says who speaks; if the user begins, in "
            f'Python: [{{**row, "{what}": [{pattern} for k, text in enumerate(row["{what}"])]}} '
            "for row in rows]",
            f"of which {what} is a list of texts",
        )
    if not isinstance(cell, list):
        raise odd(f"{what} is {cell!r:.60}, neither a text nor a list of messages")
    turns = [_turn(message, cell, what) for message in cell]
    return [turn for turn in turns if turn[0] != "system" or turn[1].strip()]


def _keys_of(message) -> tuple[str, str] | None:
    """The keys of role and text in a message."""
    if not isinstance(message, dict):
        return None
    return next((keys for keys in MESSAGE_KEYS if set(keys) <= message.keys()), None)


def _role_of(message: dict) -> str:
    role, _ = _keys_of(message)
    return str(message[role]).strip().lower()


def _turn(message, cell, what: str) -> Turn:
    keys = _keys_of(message)
    if keys is None:
        raise odd(f"{what} is {cell!r:.60}, neither a text nor a list of messages with roles")
    beside = [name for name in BESIDE_TEXT if message.get(name)]
    if beside:
        raise odd(
            f"{what} holds {beside[0]} beside its text, which the lab would not train on; leave "
            "such rows out",
            f"with {beside[0]}",
        )
    role = _role_of(message)
    if role not in ROLES:
        known = ", ".join(ROLES)
        raise odd(
            f"{what} has a turn of {role!r}; the lab knows the roles {known}: rename it to one of "
            "them, or leave such rows out",
            f"with a turn of {role!r}",
        )
    return ROLES[role], _text(message[keys[1]], what)


def _text(content, what: str) -> str:
    """The text of a message; its parts are joined."""
    if isinstance(content, str):
        return content
    texts = []
    for part in [content] if isinstance(content, dict) else content or []:
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            raise odd(f"{what} holds {part!r:.60}, which is no text; leave such rows out")
        texts.append(text)
    return "\n".join(texts)


def refuse_other_inputs(row: dict, what: str = "") -> None:
    """Raise DroppedRow for a row with what a model would read beside the texts."""
    for name in CHANGES_MEANING:
        if row.get(name) not in (None, "", [], {}, "[]", "{}"):
            raise odd(
                f"{what + ': ' if what else ''}column {name} changes what a model reads, but the "
                "lab shows it texts only; take the column out if the answers do not need it, else "
                "leave such rows out",
                f"with {name}",
            )


# --- The prompt of a row ---


def past_turns(history: list) -> list[Turn]:
    """The turns of [question, answer] lists, as some data sets hold what was said before."""
    turns = []
    for exchange in history:
        if not (is_texts(exchange) and len(exchange) == 2):
            raise odd(f"history is {exchange!r:.60}, not a question and an answer")
        turns += zip(("user", "assistant"), exchange, strict=True)
    return turns


def shared_prompt(prompt: list[Turn], answers: Sequence[list[Turn]], system: str) -> Prompt:
    """What the last turns of the answers answer: a text, or a list of messages.

    `prompt` are the turns of the prompt's column, empty without one. Raises DroppedRow where the
    conversations part before their last turn, or the columns contradict each other.
    """
    for turns, side in zip(answers, SIDES, strict=False):
        if turns[-1][0] != "assistant":
            raise odd(f"{side} ends with a turn of {turns[-1][0]}, not an answer")
    contexts = [turns[:-1] for turns in answers if turns[:-1]]
    if contexts and any(_bare(context) != _bare(contexts[0]) for context in contexts):
        why = "chosen and rejected do not answer the same prompt"
        raise DroppedRow("that part before the last answer", why)
    prompt = _without_answer(prompt, answers[0][-1]) if answers else prompt
    turns = with_system(_join(prompt, contexts[0] if contexts else []), system)
    if not turns or not turns[-1][1].strip():
        raise odd("the prompt is empty", "without a prompt")
    if turns[-1][0] != "user":
        raise odd(
            f"the prompt ends with a turn of {turns[-1][0]}; it must end with a turn of the user: "
            "put what the answers begin with in front of each of them"
        )
    return as_prompt([{"role": role, "content": text} for role, text in turns])


def _bare(turns: Sequence[Turn]) -> list[Turn]:
    return [(role, text.strip()) for role, text in turns]


def _without_answer(prompt: list[Turn], answer: Turn) -> list[Turn]:
    """The prompt without what a template opens the answer with, and without the answer itself."""
    last = _bare(prompt[-1:])
    has_answer = len(prompt) > 1 and last[0] in (("assistant", ""), *_bare([answer]))
    return prompt[:-1] if has_answer else prompt


def _join(prompt: list[Turn], context: list[Turn]) -> list[Turn]:
    """The prompt's column and the turns before the answers as one conversation."""
    if context and context[0][0] == "assistant":
        return prompt + context  # the conversation goes on from the prompt
    longer, shorter = sorted((prompt, context), key=len, reverse=True)
    count, known = len(shorter), _bare(longer)
    spoken = [turn for turn in known if turn[0] != "system"]
    if not count or _bare(shorter) in (known[-count:], known[:count], spoken[:count]):
        return longer
    raise odd(
        "the column prompt and the turns before the answers differ: chosen and rejected do not "
        "answer the same prompt"
    )


def with_system(turns: list[Turn], system: str) -> list[Turn]:
    """The turns behind a system message, where there is one."""
    if not system.strip() or ("system", system.strip()) in _bare(turns):
        return turns
    if any(role == "system" for role, _ in turns):
        raise odd("the column system is not the system message of the turns")
    return [("system", system), *turns]


def check_texts(texts: Sequence[str], marks: set[str], note: Callable[[str], None]) -> None:
    """Raise DroppedRow for half a character, and for marks that many rows of the file hold."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            reason = "a text holds half a character (a lone surrogate, as of a cut emoji)"
            raise odd(f"{reason}; take it out", "with half a character") from None
        mark = find_markup(text)
        if mark in marks:
            why = f"a text holds {mark}, a mark of a chat template; give plain texts or messages"
            raise odd(why, f"with the mark {mark} of a chat template")
        if mark:
            note(f"{mark} in a text, kept as it stands")
        if "\0" in text:
            note("a NUL in a text, kept as it stands")


def clean_answers(prompt: Prompt, texts: list[str], note: Callable[[str], None]) -> list[str]:
    """The answers without what ends them and without the prompt that all of them repeat."""
    cleaned = []
    for text in texts:
        text, mark = cut_end(text)
        cleaned.append(text)
        if mark:
            note(f"{mark} cut from the end of answers")
    repeated = cut_prompt(as_text(prompt) if isinstance(prompt, str) else prompt, cleaned)
    if repeated:
        note("prompt cut from the beginning of answers")
    return repeated or cleaned
