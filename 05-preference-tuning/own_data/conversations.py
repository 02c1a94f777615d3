"""Conversations: the turns of a cell, however they are written, and the prompt of a row.

The answer follows the user's last turn. Texts stay as they stand: blanks at the ends are content.
"""

import ast
import contextlib
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
SPOKEN = f"({'|'.join(NAMES['speakers'])})"
# What starts a turn in a text, with the role as a group; of like ones the strictest first.
HEADERS = {way: start.replace("ROLE", SPOKEN) for way, start in NAMES["headers"].items()}
ENDS = "|".join([r"\s", *map(re.escape, NAMES["starts"] + NAMES["ends"])])
IN_A_LIST = "a list in a text"
STARTS_WITH_TURNS = re.compile(rf"\s*([\[{{<#]|{SPOKEN}:)")
# Any of these in a text is worth a question: marks of templates, and speakers.
MARK = re.compile("|".join(NAMES["marks"]), re.IGNORECASE | re.MULTILINE)


class DroppedRow(Exception):
    """A row that is left out, counted by its reason: it is `odd`, or else just teaches nothing."""

    def __init__(self, reason: str, why: str = "", odd: bool = False) -> None:
        super().__init__(why or reason)  # why: of this row alone
        self.reason, self.odd = reason, odd


def refuse(key: str, **words) -> DroppedRow | UserError:
    """What to raise for a row that is not what it should be, or for a file."""
    said = REFUSALS[key]
    if isinstance(said, str):
        return UserError(Template(said).substitute(words))
    return DroppedRow(*(Template(text).substitute(words) for text in said), odd=True)


def take_apart(cell, way: str):
    """The messages, or texts, that a text holds in this way; the cell as it is if it holds none."""
    if not isinstance(cell, str) or not way:
        return cell
    if way == IN_A_LIST:
        return parse_list(cell) or cell
    before, *parts = re.split(HEADERS[way], cell)
    if not parts or without_marks(before):
        return cell
    turns: list[dict] = []
    for role, said in zip(parts[::2], parts[1::2], strict=True):
        role, said = ROLES.get(role.lower(), role.lower()), without_marks(said)
        if turns and turns[-1]["role"] == role:  # they are one turn
            said = "\n\n".join(filter(None, (turns.pop()["content"], said)))
        turns.append({"role": role, "content": said})
    return turns


def without_marks(text: str) -> str:
    """The text without blanks, and tokens that start or end a text, at its ends."""
    return re.sub(rf"\A({ENDS})+|({ENDS})+\Z", "", text)


def written_as(text: str) -> tuple[str, int]:
    """(the strictest way in which a text holds a turn of the assistant, or any; how many turns)."""
    if not STARTS_WITH_TURNS.match(text):
        return "", 0
    found = {way: take_apart(text, way) for way in (IN_A_LIST, *HEADERS)}
    found = {way: turns for way, turns in found.items() if turns is not text}
    answered = [w for w, turns in found.items() if "assistant" in [message_of(t)[0] for t in turns]]
    way = next(iter([*answered, *found]), "")
    return way, len(found.get(way, ()))


def parse_list(text: str) -> list:
    """The messages, or the texts, that a text holds as JSON or as Python writes them."""
    for parse in (json.loads, ast.literal_eval) if re.match(NAMES["a_list"], text) else ():
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            content = parse(text.strip())
            content = content if isinstance(content, list) else [content]
            known = {message_of(one)[0] for one in content} <= ROLES.keys()
            return content if known or is_texts(content) else []
    return []


def find_markup(text: str) -> str:
    """A mark of a template that is not taken apart, in a text; nothing where it holds none."""
    return next((mark for mark in NAMES["other_markup"] if mark in text), "")


def end_mark(text: str) -> str:
    """The token with which a text ends; nothing where there is none, or <s>...</s> of HTML."""
    mark = next((mark for mark in NAMES["ends"] if text.rstrip().endswith(mark)), "")
    return "" if mark == "</s>" and "<s>" in text.lstrip()[1:] else mark


def is_texts(cell) -> bool:
    """Whether a cell is a list of texts, of which some may be missing."""
    return isinstance(cell, list) and {str} <= {type(one) for one in cell} <= {str, type(None)}


def is_message(cell) -> bool:
    """Whether a cell is a message with a role and a text, or a list of such."""
    return bool(message_of(cell[0] if isinstance(cell, list) and cell else cell)[0])


def message_of(cell) -> tuple:
    """(role, content) of a message as they stand; the role is "" for what is none."""
    for role, content in NAMES["message_keys"]:
        if isinstance(cell, dict) and {role, content} <= cell.keys():
            return str(cell[role]).strip().lower(), cell[content]
    return "", None


def texts_in(cell) -> list[str]:
    """All texts of a cell: itself, or those of its messages, with their roles."""
    if isinstance(cell, str):
        return [cell]
    parts = cell.values() if isinstance(cell, dict) else cell if isinstance(cell, list) else ()
    return [text for part in parts for text in texts_in(part)]


def read_turns(cell, role: str, what: str) -> list[Turn]:
    """The turns of a cell, which `what` names; a text is one turn of `role`. Raises DroppedRow."""
    if isinstance(cell, dict) and isinstance(cell.get("full_text"), str):  # WebGPT
        cell = cell["full_text"]
    if isinstance(cell, str):
        if re.match(NAMES["list_of_messages"], cell, re.DOTALL) and not parse_list(cell):
            raise refuse("broken list", what=what, shown=cell[:40])
        return [(role, cell)]
    if isinstance(cell, dict) and isinstance(cell.get("messages"), list):  # OpenAI, torchtune
        refuse_other_inputs(cell)
        cell = [{"role": "system", "content": cell.get("system")}, *cell["messages"]]
    elif isinstance(cell, dict) and all(isinstance(column, list) for column in cell.values()):
        columns = zip(*cell.values(), strict=False)
        cell = [dict(zip(cell, values, strict=True)) for values in columns]
    elif isinstance(cell, dict):
        cell = [{"role": role, **cell} if cell.keys() == {"content"} else cell]
    if not cell or (is_texts(cell) and len(cell) == 1):
        return [(role, cell[0] if cell else "")]
    if is_texts(cell):
        raise refuse("list of texts", what=what)
    if not isinstance(cell, list) or not all(message_of(one)[0] for one in cell):
        raise refuse("no messages", what=what, shown=f"{cell!r:.60}")
    for name in NAMES["beside_text"]:
        if any(message.get(name) for message in cell):
            raise refuse("beside text", what=what, name=name)
    turns = []
    for speaker, content in map(message_of, cell):
        if speaker not in ROLES:
            raise refuse("role", what=what, role=speaker, known=", ".join(ROLES))
        texts = []
        for part in content if isinstance(content, list) else [content or ""]:
            texts.append(part.get("text") if isinstance(part, dict) else part)
            if not isinstance(texts[-1], str):
                raise refuse("no text", what=what, shown=f"{part!r:.60}")
        turns.append((ROLES[speaker], "\n".join(texts)))
    return [turn for turn in turns if turn[0] != "system" or turn[1].strip()] or [(role, "")]


def refuse_other_inputs(row: dict) -> None:
    """Raise DroppedRow for a row with what a model would read beside the texts."""
    for name in NAMES["changes_meaning"]:
        if row.get(name) not in (None, "", [], {}, "[]", "{}"):
            raise refuse("other inputs", name=name)


def bare(turns: Sequence[Turn]) -> list[Turn]:
    return [(role, text.strip()) for role, text in turns]


def prompt_of_turns(prompt: list[Turn], answers: Sequence[list[Turn]], system: str) -> Prompt:
    """What the last turns of the answers answer, behind those of `prompt`. Raises DroppedRow."""
    for turns, side in zip(answers, SIDES, strict=False):
        if turns[-1][0] != "assistant":
            raise refuse("no answer", side=side, role=turns[-1][0])
    context, *others = [turns[:-1] for turns in answers if turns[:-1]] or [[]]
    if any(bare(other) != bare(context) for other in others):
        raise DroppedRow(*REFUSALS["parted"])  # which is not odd
    opened = [("assistant", ""), *bare(answers[0][-1:])] if answers else []
    if len(prompt) > 1 and bare(prompt)[-1] in opened:
        prompt = prompt[:-1]  # what a template opens the answer with, or the answer itself
    if context and context[0][0] == "assistant":
        turns = prompt + context  # the conversation goes on from the prompt
    else:
        turns, shorter = sorted((prompt, context), key=len, reverse=True)
        count, known = len(shorter), bare(turns)
        spoken = [turn for turn in known if turn[0] != "system"]
        if count and bare(shorter) not in (known[-count:], known[:count], spoken[:count]):
            raise refuse("two prompts")
    if system.strip() and ("system", system.strip()) not in bare(turns):
        if "system" in dict(turns):
            raise refuse("two systems")
        turns = [("system", system), *turns]
    if not turns or not turns[-1][1].strip():
        raise refuse("empty prompt")
    if turns[-1][0] != "user":
        raise refuse("prompt ends", role=turns[-1][0])
    return as_prompt([{"role": role, "content": text} for role, text in turns])
