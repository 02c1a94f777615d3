"""Columns of preference data: their usual names, and what to say where one is missing.

What is the user's to choose is an error that shows the line of Python.
"""

import difflib
import re

from common.cli import UserError
from common.preferences import COLUMNS, SIDES

# --- Names of columns ---

NAMES = {  # the usual names, the lab's own first; of the others one may hold a text in a row
    "prompt": (
        *("prompt", "question", "instruction", "query", "user_prompt", "user_input", "problem"),
        *("conversations", "conversation", "messages", "dialogue", "dialog", "trajectory"),
        *("context", "input", "inputs", "post"),
    ),
    "chosen": (
        *("chosen", "accepted", "preferred", "chosen_response", "response_chosen"),
        *("chosen_answer", "answer_chosen", "preferred_response", "better", "better_response"),
        *("positive", "pos", "accept", "winning_response", "response_w", "y_w", "response_j"),
        "preferred_output",
    ),
    "rejected": (
        *("rejected", "dispreferred", "nonpreferred", "non_preferred", "rejected_response"),
        *("response_rejected", "rejected_answer", "answer_rejected", "dispreferred_response"),
        *("worse", "worse_response", "negative", "neg", "reject", "losing_response"),
        *("response_l", "y_l", "response_k", "non_preferred_output"),
    ),
    "system": ("system", "system_prompt", "system_message", "system_instruction"),
    "completion": ("completion", "response", "output", "answer", "text"),
    "label": ("label", "kto_tag", "is_good", "desirable", "thumbs_up"),
}
# Columns that change what a model reads, and that the lab does not show it.
CHANGES_MEANING = ("tools", "functions", "images", "image", "videos", "video", "audios", "audio")
CHANGES_MEANING += ("documents",)


def clean_names(row: dict) -> dict:
    """The row with its columns in lower case, without blanks around them."""
    return {clean_name(name): cell for name, cell in row.items()}


def clean_name(name) -> str:
    """The name of a column in lower case; blanks at its ends and a byte order mark go."""
    return re.sub(r"[\s-]+", "_", str(name).strip("\ufeff \t\r\n")).lower()


def holds_something(cell) -> bool:
    """Whether there is a text, or messages, in a cell."""
    return bool(cell.strip() if isinstance(cell, str) else isinstance(cell, list | dict) and cell)


def is_prose(cell) -> bool:
    """Whether a cell is a text of some words, and so could be a prompt."""
    if not isinstance(cell, str):
        return False
    return len(cell.split()) > 2 or (len(cell) > 4 and not cell.isascii())


def is_number(cell) -> bool:
    """Whether a cell is a number, or a text that is one."""
    try:
        return float(cell) == float(cell)  # not NaN
    except (TypeError, ValueError):
        return False


def find_column(row: dict, role: str, where: str) -> str | None:
    """The column that holds `role` ("prompt", ...) in a row: the one of that name, or another.

    None where there is none. Raises UserError where several columns could be it.
    """
    present = [name for name in NAMES[role] if name in row]
    if not present or present[0] == role:
        return present[0] if present else None
    filled = [name for name in present if holds_something(row[name])]
    if {"instruction", "input"} == set(filled):
        return "instruction"  # the two are one prompt
    if len(filled) > 1:
        names = " and ".join(filled[:3])
        choice = f"choose one with --{role}-column" if role in COLUMNS else "rename one"
        raise UserError(f"{where}: no column {role}; {names} could each be it: {choice}")
    return (filled or present)[0]


def refuse_other_inputs(row: dict, where: str) -> None:
    """Raise UserError for a row with what a model would read beside the texts."""
    for name in CHANGES_MEANING:
        if row.get(name) not in (None, "", [], {}, "[]", "{}"):
            raise UserError(
                f"{where}: column {name} changes what a model reads, but the lab shows it texts "
                "only; take the column out if the answers do not need it, else leave such rows out"
            )


def refuse_misspelt(row: dict, where: str) -> None:
    """Raise UserError for a row without a prompt or an answer, but with it under a like name."""
    known = {name for names in NAMES.values() for name in names}
    others = [name for name, cell in row.items() if name not in known and holds_something(cell)]
    for role in COLUMNS:
        if not any(holds_something(row.get(name)) for name in NAMES[role]):
            for misspelt in difflib.get_close_matches(role, others, n=1, cutoff=0.82):
                raise UserError(f"{where}: no {role}, but a column {misspelt}: misspelt?")


# --- What is missing ---

MAKE_PAIRS = (
    '[{{"prompt": p, "chosen": g["{answer}"][g["{score}"].idxmax()], '
    '"rejected": g["{answer}"][g["{score}"].idxmin()]}} for p, g in table.groupby("{prompt}")]'
)
CHOOSE = (
    '[{{**row, "chosen": row["{first}"], "rejected": row["{second}"]}} if first_is_better(row) '
    'else {{**row, "chosen": row["{second}"], "rejected": row["{first}"]}} for row in rows]'
)
PAIR_LABELS = (
    '[{{"prompt": p, "chosen": good, "rejected": bad}} for p, g in table.groupby("{prompt}") for '
    'good, bad in zip(g["{answer}"][g["{label}"]], g["{answer}"][~g["{label}"]])]'
)


def explain_missing(row: dict, where: str) -> UserError:
    """The error for a row that is no pair, with the line of Python that makes pairs of it."""
    columns = f"the columns are {', '.join(row)}"
    numbers = [name for name, cell in row.items() if is_number(cell) and not _is_id(name)]
    answer = next((name for name in NAMES["completion"] if name in row), None)
    prompt = next((name for name in NAMES["prompt"] if name in row), "prompt")
    texts = [name for name in row if re.match("(response|answer|output|completion)", name)]
    missing = [side for side in SIDES if not any(name in row for name in NAMES[side])]
    reason = f"{where}: no column {', '.join(missing)}; {columns}"
    if answer and numbers:
        made = MAKE_PAIRS.format(answer=answer, score=numbers[0], prompt=prompt)
        which = f"What is better is your choice; {', '.join(numbers)} could say it"
        return UserError(f"{reason}. {which}; with a pandas table of the rows, for example: {made}")
    if len(texts) == 2 and missing == list(SIDES):
        made = CHOOSE.format(first=texts[0], second=texts[1])
        return UserError(f"{reason}. Which of the two is better is yours to say, in Python: {made}")
    flags = ", ".join(f"--{side}-column" for side in missing)
    return UserError(f"{reason}; if it has another name, give it with {flags}")


def _is_id(name: str) -> bool:
    return name in ("id", "index", "idx") or name.endswith(("_id", "_index"))


def explain_labels(row: dict, where: str) -> UserError:
    """The error for rows of one answer with a label, where pairs are needed."""
    names = {
        "prompt": next((name for name in NAMES["prompt"] if name in row), "prompt"),
        "answer": next((name for name in NAMES["completion"] if name in row), "completion"),
        "label": next(name for name in NAMES["label"] if name in row),
    }
    return UserError(
        f"{where}: one answer with a label ({', '.join(names.values())}), no pair; such rows are "
        "for dpo_variants.py --loss-type kto. With a pandas table of them, labels True or False, "
        f"this makes pairs: {PAIR_LABELS.format(**names)}"
    )
