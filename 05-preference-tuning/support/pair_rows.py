"""One row of the user's data: a prompt with two answers, or with one and its label."""

from textwrap import shorten

from support.conversations import DroppedRow, is_message, past_turns, read_turns, shared_prompt
from support.data_columns import (
    find_column,
    holds_something,
    is_prose,
    refuse_misspelt,
    refuse_other_inputs,
)
from support.data_shapes import read_label
from support.transcripts import (
    Turn,
    cut_end,
    cut_prompt,
    derive_prompt,
    find_markup,
    transcript_kind,
)

from common.cli import UserError
from common.preferences import COLUMNS, SIDES
from common.prompts import Prompt, as_text

LABELLED = ("prompt", "completion", "label")


class Notes:
    """What was done to rows while they were read, counted."""

    def __init__(self) -> None:
        self.columns: dict[str, None] = {}  # all of them, in their order
        self.used: set[str] = set()
        self.shape = ""  # what the rows looked like, where they were no pairs
        self.counts: dict[str, list] = {}  # what was done: in how many rows, and where last
        self.shared, self.characters, self.example = 0, 0, ""

    def add(self, done: str, where: str) -> None:
        """Count something that was done to a row."""
        seen = self.counts.setdefault(done, [0, ""])
        seen[0], seen[1] = seen[0] + (seen[1] != where), where

    def note_derived(self, shared: str, texts: list[str]) -> None:
        """Count the characters of a prompt that was taken from the texts."""
        self.shared += len(texts) * len(shared)
        self.characters += sum(map(len, texts))
        self.example = self.example or shorten(shared, 60, placeholder=" ...")

    def remarks(self) -> list[str]:
        """What to say of it, in phrases."""
        remarks = [self.shape] if self.shape else []
        for done, (count, _) in self.counts.items():
            remarks.append(f"{done} ({count} rows)")
        if self.shared:
            share = self.shared / self.characters
            remarks.append(
                f"no column prompt: what both texts begin with is the prompt, {share:.0%} of the "
                f'text, such as "{self.example}"'
            )
        unread = [name for name in self.columns if name and name not in self.used]
        if unread:
            remarks.append(f"columns not read: {', '.join(unread)}")
        return remarks


def read_pair(row: dict | DroppedRow, where: str, notes: Notes) -> dict:
    """One prompt and its two answers. Raises UserError for a row that is not that."""
    if isinstance(row, DroppedRow):
        raise row
    refuse_misspelt(row, where)
    refuse_other_inputs(row, where)
    columns = {role: _column(row, role, where, notes) for role in COLUMNS}
    answers = {}
    for side in SIDES:
        cell = row.get(columns[side])
        _note_transcript(cell, where, notes)
        answers[side] = read_turns(cell, "assistant", f"{where}: {side}")
    system = _system(row, where, notes)
    turns = _prompt_turns(row, columns["prompt"], where, notes)
    if not turns and all(len(answers[side]) == 1 for side in SIDES):
        turns, texts = _derive(row, [answers[side][0][1] for side in SIDES], where, notes)
        answers = {side: [("assistant", text)] for side, text in zip(SIDES, texts, strict=True)}
    prompt = shared_prompt(turns, answers["chosen"], answers["rejected"], system, where)
    texts = _clean_answers(prompt, [answers[side][-1][1] for side in SIDES], where, notes)
    _check_texts(where, as_text(prompt), *texts)
    return {"prompt": prompt, "chosen": texts[0], "rejected": texts[1]}


def read_labelled_row(row: dict, where: str, notes: Notes) -> dict:
    """One prompt, one answer and whether it is good. Raises UserError."""
    refuse_other_inputs(row, where)
    columns = {role: _column(row, role, where, notes) for role in LABELLED}
    label = read_label(row.get(columns["label"]))
    if label is None:
        raise DroppedRow("without a label")
    turns = _prompt_turns(row, columns["prompt"], where, notes)
    answer = read_turns(row.get(columns["completion"]), "assistant", f"{where}: completion")
    if columns["completion"] is None:
        turns, answer = turns[:-1], turns[-1:]
    system = _system(row, where, notes)
    prompt = shared_prompt(turns, answer, answer, system, where)
    (text,) = _clean_answers(prompt, [answer[-1][1]], where, notes)
    _check_texts(where, as_text(prompt), text)
    return {"prompt": prompt, "completion": text, "label": label}


def _column(row: dict, role: str, where: str, notes: Notes) -> str | None:
    """The column of a role; another name than the role's own is noted."""
    name = find_column(row, role, where)
    if name is not None:
        notes.used.add(name)
        if name != role:
            notes.add(f"{role} is column {name}", where)
    return name


def _prompt_turns(row: dict, column: str | None, where: str, notes: Notes) -> list[Turn]:
    """The turns of the prompt's column, behind those of `history`; none without a column."""
    if column is None:
        return []
    cell = row[column]
    if column == "instruction":
        notes.used.add("input")
    if column == "instruction" and holds_something(row.get("input")):
        notes.add("prompt is columns instruction and input", where)
        cell = f"{cell}\n{row['input']}"
    _note_transcript(cell, where, notes)
    turns = read_turns(cell, "user", f"{where}: prompt")
    if isinstance(row.get("history"), list) and column != "history":
        notes.used.add("history")
        turns = past_turns(row["history"], f"{where}: history") + turns
    return turns


def _system(row: dict, where: str, notes: Notes) -> str:
    """The system message of a row, from a column of its own."""
    column = find_column(row, "system", where)
    if column is None:
        return ""
    notes.used.add(column)
    turns = read_turns(row[column], "system", f"{where}: {column}")
    text = "\n".join(text for _, text in turns)
    if text:
        notes.add(f"system message from column {column}", where)
    return text


def _derive(row: dict, texts: list[str], where: str, notes: Notes) -> tuple[list[Turn], list[str]]:
    """A prompt that stands in no column: what both texts begin with, and what is left of them."""
    rest = {name: cell for name, cell in row.items() if name not in notes.used}
    others = [name for name, cell in rest.items() if is_prose(cell) or is_message(cell)]
    reason = f"{where}: no column prompt"
    if others:
        raise UserError(f"{reason}; name it with --prompt-column: {', '.join(others)} could be it")
    shared = derive_prompt(*texts)
    if not shared:
        why = f"the columns are {', '.join(row)}, which do not begin with one prompt"
        raise DroppedRow("that do not begin with one prompt", f"no column prompt; {why}")
    notes.note_derived(shared, texts)
    return [("user", shared.strip())], [text[len(shared) :].strip() for text in texts]


def _note_transcript(cell, where: str, notes: Notes) -> None:
    kind = transcript_kind(cell)
    if kind:
        notes.add(f"texts in the format of {kind} taken apart into turns", where)


def _clean_answers(prompt: Prompt, texts: list[str], where: str, notes: Notes) -> list[str]:
    """The answers without what ends them and without the prompt that all of them repeat."""
    cleaned = []
    for text in texts:
        text, mark = cut_end(text)
        cleaned.append(text)
        if mark:
            notes.add(f"{mark} cut from the end of answers", where)
    repeated = cut_prompt(prompt, cleaned) if isinstance(prompt, str) else None
    if repeated:
        notes.add("prompt cut from the beginning of answers", where)
    return repeated or cleaned


def _check_texts(where: str, *texts: str) -> None:
    """Raise UserError for half a character, DroppedRow for marks of a chat template."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            reason = "a text holds half a character (a lone surrogate, as of a cut emoji)"
            raise UserError(f"{where}: {reason}; take it out") from None
        mark = find_markup(text)
        if mark:
            why = f"a text holds {mark}, a mark of a chat template; give plain texts or messages"
            raise DroppedRow(f"with the mark {mark} of a chat template", why)
