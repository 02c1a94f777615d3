"""Conversations: the turns of a cell, however they are written, and the prompt of a row.

A turn is (role, text). What follows the last turn of the user is the answer; what precedes it is
the prompt, which the two answers of a pair share. Texts stay as they stand: blanks at their ends
are content. Names stand in names.json, what is said of a row in refusals.json.
"""

import ast
import json
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template

from common.basics import UserError
from common.preferences import SIDES
from common.prompts import Prompt, as_prompt

Turn = tuple[str, str]  # (role, text)
TABLES = Path(__file__).parent
NAMES = json.loads((TABLES / "names.json").read_text(encoding="utf-8"))
REFUSALS = json.loads((TABLES / "refusals.json").read_text(encoding="utf-8"))
ROLES = {name: role for role, names in NAMES["roles"].items() for name in names}


class DroppedRow(Exception):
    """A row that is left out. It is counted by its reason; `why` says it of that row alone.

    An `odd` one is not what it should be; one that is not odd just teaches nothing.
    """

    def __init__(self, reason: str, why: str = "", odd: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.why, self.odd = reason, why or reason, odd


def odd(key: str, **words) -> DroppedRow:
    """What to raise for a row that is not what it should be."""
    return DroppedRow(*(Template(text).substitute(words) for text in REFUSALS[key]), odd=True)


def refuse(key: str, **words) -> UserError:
    """What to raise for a file that cannot be read."""
    return UserError(Template(REFUSALS[key]).substitute(words))


# --- Turns that are written into one text ---

SPOKEN = r"(Human|HUMAN|User|USER|Prompter|PROMPTER|Assistant|ASSISTANT|Bot|BOT|System|SYSTEM)"
TRANSCRIPTS = {  # what starts a turn, with the role as a group; of like ones the strictest first
    "hh-rlhf": rf"(?:\A\s*|\n\n){SPOKEN}:",
    "role: text on lines": rf"(?:\A\s*|\n){SPOKEN}:",
    "role: text": rf"(?:\A\s*|(?<=\s)|(?<=</s>)){SPOKEN}:",
    "[ROLE] text": rf"(?:\A\s*|\n\s*)\[{SPOKEN}\]:?",
    "ChatML": r"<\|im_start\|>(\w+)\n",
    "Llama 3": r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\s*",
    "Gemma": r"<start_of_turn>(\w+)\n",
    "Guanaco": r"### ?(Human|Assistant|User|System): ?",
    "Zephyr": r"<\|(system|user|assistant|prompter)\|>\n?",
}
IN_A_LIST = "a list in a text"
# Any of these in a text is worth a question: marks of templates, and speakers.
MARK = re.compile(
    r"<\|[\w ]+\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>|<(?:bos|eos|pad)>"
    r"|\[(?:USER|ASSISTANT|SYSTEM)\]|(?<=\s)(?:USER|ASSISTANT):"
    r"|^(?:#+ *)?(?:human|user|prompter|assistant|system|gpt|bot|instruction|response) *:",
    re.IGNORECASE | re.MULTILINE,
)


def split_transcript(text: str, header: str) -> list[Turn]:
    """The turns of a text that headers like this start; empty for any other text.

    Turns of one role in a row are one turn. A last turn without text is kept: what follows it is
    the answer.
    """
    headers = list(re.finditer(header, text))
    if not headers or without_marks(text[: headers[0].start()]):
        return []
    turns = []
    ends = [header.start() for header in headers[1:]] + [len(text)]
    for found, end in zip(headers, ends, strict=True):
        role = ROLES.get(found[1].lower(), found[1].lower())
        said = without_marks(text[found.end() : end])
        if turns and turns[-1][0] == role:
            said = "\n\n".join(filter(None, (turns.pop()[1], said)))
        turns.append((role, said))
    return turns


def without_marks(text: str) -> str:
    """The text without blanks, and tokens that start or end a text, at its ends."""
    text, before = text.strip(), None
    while text != before:
        before = text
        for mark in NAMES["starts"] + NAMES["ends"]:
            text = text.removeprefix(mark).removesuffix(mark).strip()
    return text


def written_as(text: str) -> tuple[str, int]:
    """(the way in which a text holds turns, how many); ("", 0) for a text that holds none.

    Of the transcripts it is the strictest that finds a turn of the assistant.
    """
    start = text.lstrip()[:40]
    if not start or not (start[0] in "[{<#" or re.match(f"{SPOKEN}:", start)):
        return "", 0
    content = parse_list(text)
    if content is not None:
        return IN_A_LIST, len(content)
    ways = [(name, split_transcript(text, header)) for name, header in TRANSCRIPTS.items()]
    ways = [(name, turns) for name, turns in ways if turns]
    answered = [way for way in ways if any(role == "assistant" for role, _ in way[1])]
    name, turns = (answered or ways or [("", [])])[0]
    return name, len(turns)


def parse_list(text: str) -> list | None:
    """The messages, or the texts, that a text holds as JSON or as Python writes them."""
    if not re.match(r"\s*(\[\s*['\"]|\[?\s*\{\s*['\"]\w+['\"]\s*:)", text):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            content = parse(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        content = content if isinstance(content, list) else [content]
        known = all(keys_of(one) and role_of(one) in ROLES for one in content)
        return content if content and (known or is_texts(content)) else None
    return None


def take_apart(cell, way: str):
    """The cell as messages or texts, where it is a text that holds them in this way."""
    if not isinstance(cell, str) or not way:
        return cell
    if way == IN_A_LIST:
        return parse_list(cell) or cell
    turns = split_transcript(cell, TRANSCRIPTS[way])
    return [{"role": role, "content": text} for role, text in turns] or cell


def find_markup(text: str) -> str:
    """A mark of a template that is not taken apart, in a text; nothing where it holds none."""
    marks = NAMES["other_markup"] if re.search(r"[<\[#]", text) else ()
    return next((mark for mark in marks if mark in text), "")


def end_mark(text: str) -> str:
    """The token with which a text ends; nothing where there is none, or <s>...</s> of HTML."""
    mark = next((mark for mark in NAMES["ends"] if text.rstrip().endswith(mark)), "")
    return "" if mark == "</s>" and "<s>" in text.lstrip()[1:] else mark


# --- The turns of a cell ---


def is_texts(cell) -> bool:
    """Whether a cell is a list of texts, of which some may be missing."""
    kinds = {type(text) for text in cell} if isinstance(cell, list) else set()
    return str in kinds and kinds <= {str, type(None)}


def is_several(cell) -> bool:
    """Whether a cell is a list of several texts or conversations."""
    kinds = {type(one) for one in cell} if isinstance(cell, list) else set()
    return is_texts(cell) or kinds == {list}


def is_message(cell) -> bool:
    """Whether a cell is a message with a role and a text, or a list of such."""
    return keys_of(cell[0] if isinstance(cell, list) and cell else cell) is not None


def keys_of(message) -> list[str] | None:
    """The keys of role and text in a message; None for what is none."""
    keys = message.keys() if isinstance(message, dict) else ()
    return next((pair for pair in NAMES["message_keys"] if set(pair) <= {*keys}), None)


def role_of(message: dict) -> str:
    return str(message[keys_of(message)[0]]).strip().lower()


def texts_in(cell) -> list[str]:
    """All texts of a cell: itself, or those of its messages."""
    if isinstance(cell, dict):
        keys = keys_of(cell)
        cell = [cell[keys[1]]] if keys else list(cell.values())
    if isinstance(cell, list):
        return [text for part in cell for text in texts_in(part)]
    return [cell] if isinstance(cell, str) else []


def read_turns(cell, role: str, what: str) -> list[Turn]:
    """The turns of a cell; a text without roles is one turn of `role`.

    Messages may be a list, a single one, or columns of lists. Raises DroppedRow for what is none of
    that; `what` names the cell.
    """
    if isinstance(cell, str):
        messages = re.match(r"\s*\[\s*\{\s*['\"](role|from|speaker|author)['\"]", cell)
        if messages and cell.rstrip().endswith("]") and parse_list(cell) is None:
            raise odd("broken list", what=what, shown=cell[:40])
        return [(role, cell)]
    if isinstance(cell, dict) and isinstance(cell.get("messages"), list):  # OpenAI, torchtune
        refuse_other_inputs(cell)
        turns, system = read_turns(cell["messages"], role, what), cell.get("system")
        return [("system", system), *turns] if isinstance(system, str) and system.strip() else turns
    if isinstance(cell, dict) and all(isinstance(column, list) for column in cell.values()):
        columns = zip(*cell.values(), strict=False)
        cell = [dict(zip(cell, values, strict=True)) for values in columns]
    if isinstance(cell, dict):
        cell = [{"role": role, **cell} if cell.keys() == {"content"} else cell]
    if not cell or (is_texts(cell) and len(cell) == 1):
        return [(role, cell[0] if cell else "")]
    if is_texts(cell):
        raise odd("list of texts", what=what)
    if not isinstance(cell, list) or not all(map(keys_of, cell)):
        raise odd("no messages", what=what, shown=f"{cell!r:.60}")
    turns = [read_message(message, what) for message in cell]
    return [turn for turn in turns if turn[0] != "system" or turn[1].strip()]


def read_message(message: dict, what: str) -> Turn:
    """(role, text) of a message, whose parts are joined. Raises DroppedRow."""
    for name in NAMES["beside_text"]:
        if message.get(name):
            raise odd("beside text", what=what, name=name)
    role, content = role_of(message), message[keys_of(message)[1]]
    if role not in ROLES:
        raise odd("role", what=what, role=role, known=", ".join(ROLES))
    parts, texts = content if isinstance(content, list) else [content or ""], []
    for part in parts:
        texts.append(part.get("text") if isinstance(part, dict) else part)
        if not isinstance(texts[-1], str):
            raise odd("no text", what=what, shown=f"{part!r:.60}")
    return ROLES[role], "\n".join(texts)


def refuse_other_inputs(row: dict) -> None:
    """Raise DroppedRow for a row with what a model would read beside the texts."""
    for name in NAMES["changes_meaning"]:
        if row.get(name) not in (None, "", [], {}, "[]", "{}"):
            raise odd("other inputs", name=name)


# --- The prompt of a row ---


def bare(turns: Sequence[Turn]) -> list[Turn]:
    return [(role, text.strip()) for role, text in turns]


def prompt_of_turns(prompt: list[Turn], answers: Sequence[list[Turn]], system: str) -> Prompt:
    """What the last turns of the answers answer: a text, or a list of messages.

    `prompt` are the turns of the prompt's column, empty without one. Raises DroppedRow where the
    conversations part before their last turn, or the columns contradict each other.
    """
    for turns, side in zip(answers, SIDES, strict=False):
        if turns[-1][0] != "assistant":
            raise odd("no answer", side=side, role=turns[-1][0])
    contexts = [turns[:-1] for turns in answers if turns[:-1]] or [[]]
    if any(bare(context) != bare(contexts[0]) for context in contexts):
        why = "chosen and rejected do not answer the same prompt"
        raise DroppedRow("that part before the last answer", why)
    opened = [("assistant", ""), *bare(answers[0][-1:])] if answers else []
    if len(prompt) > 1 and bare(prompt)[-1] in opened:
        prompt = prompt[:-1]  # what a template opens the answer with, or the answer itself
    turns = join_turns(prompt, contexts[0])
    if system.strip() and ("system", system.strip()) not in bare(turns):
        if any(role == "system" for role, _ in turns):
            raise odd("two systems")
        turns = [("system", system), *turns]
    if not turns or not turns[-1][1].strip():
        raise odd("empty prompt")
    if turns[-1][0] != "user":
        raise odd("prompt ends", role=turns[-1][0])
    return as_prompt([{"role": role, "content": text} for role, text in turns])


def join_turns(prompt: list[Turn], context: list[Turn]) -> list[Turn]:
    """The prompt's column and the turns before the answers as one conversation."""
    if context and context[0][0] == "assistant":
        return prompt + context  # the conversation goes on from the prompt
    longer, shorter = sorted((prompt, context), key=len, reverse=True)
    count, known = len(shorter), bare(longer)
    spoken = [turn for turn in known if turn[0] != "system"]
    if count and bare(shorter) not in (known[-count:], known[:count], spoken[:count]):
        raise odd("two prompts")
    return longer
