"""Texts that hold more than an answer: turns of a transcript, marks of templates, a prompt."""

import re
from typing import NamedTuple

Turn = tuple[str, str]  # (role, text)

ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "question", "instruction"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "chatbot", "model", "ai"), "assistant"),
    **dict.fromkeys(("answer", "response"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}


class Transcript(NamedTuple):
    """Turns that are written into one text: what starts a turn of a role, and what ends it."""

    name: str
    header: str  # a regular expression with one group, the role
    ends: tuple[str, ...] = ()


TRANSCRIPTS = (
    Transcript("hh-rlhf", r"(?:\A\s*|\n\n)(Human|Assistant):"),
    Transcript("ChatML", r"<\|im_start\|>(\w+)\n", ("<|im_end|>", "<|endoftext|>")),
    Transcript("Llama 3", r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\s*", ("<|eot_id|>",)),
    Transcript("Gemma", r"<start_of_turn>(\w+)\n", ("<end_of_turn>", "<eos>")),
    Transcript("Guanaco", r"### ?(Human|Assistant|User|System): ?", ("</s>",)),
    Transcript("Zephyr", r"<\|(system|user|assistant)\|>\n?", ("</s>", "<|end|>", "<|endoftext|>")),
)
# Templates that are recognised and not taken apart.
OTHER_MARKUP = ("[INST]", "[/INST]", "<|User|>", "<|Assistant|>", "<\uff5cUser\uff5c>")
OTHER_MARKUP += ("### Instruction:", "### Response:", "<|header_start|>", "<|start|>user")
OTHER_MARKUP += ("<|START_OF_TURN_TOKEN|>", "<|start|>assistant")
STARTS = ("<s>", "<bos>", "<|begin_of_text|>", "<|endoftext|>")  # of a text
ENDS = ("</s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<end_of_turn>")
ENDS += ("<eos>", "<|end|>", "<|eos|>", "<|return|>")  # of an answer

# --- Turns in a text ---


def split_transcript(text: str) -> list[Turn]:
    """The turns of a text that holds them in one of TRANSCRIPTS; empty for any other text.

    Turns of one role in a row are one turn. A last turn without text is kept: what follows it is
    the answer.
    """
    if not text.lstrip().startswith(("<", "###", "Human:", "Assistant:")):
        return []
    for kind in TRANSCRIPTS:
        headers = list(re.finditer(kind.header, text))
        if not headers or _without(text[: headers[0].start()], STARTS):
            continue
        roles = [ROLES.get(header[1].lower(), header[1].lower()) for header in headers]
        if kind.name == "hh-rlhf" and "assistant" not in roles:
            continue  # a text that just begins with "Human:"
        ends = [header.start() for header in headers[1:]] + [len(text)]
        turns = []
        for role, header, end in zip(roles, headers, ends, strict=True):
            said = _without(text[header.end() : end], kind.ends)
            if turns and turns[-1][0] == role:
                said = "\n\n".join(filter(None, (turns.pop()[1], said)))
            turns.append((role, said))
        return turns
    return []


def _without(text: str, marks: tuple[str, ...]) -> str:
    """The text without blanks and these marks at its ends."""
    text, before = text.strip(), None
    while text != before:
        before = text
        for mark in marks:
            text = text.removeprefix(mark).removesuffix(mark).strip()
    return text


def transcript_kind(cell) -> str | None:
    """The name of the format in which a text holds turns, if any."""
    if not isinstance(cell, str) or not split_transcript(cell):
        return None
    return next(kind.name for kind in TRANSCRIPTS if re.search(kind.header, cell))


# --- Marks in texts ---


def find_markup(text: str) -> str | None:
    """A mark of a chat template that a text holds; None where it holds none."""
    if not re.search(r"[<\[#]", text):
        return None
    for mark in OTHER_MARKUP:
        if mark in text:
            return mark
    found = (re.search(kind.header, text) for kind in TRANSCRIPTS[1:])
    return next((match[0].strip() for match in found if match), None)


def cut_end(text: str) -> tuple[str, str]:
    """(the text without marks that end an answer, the last of these marks or nothing)."""
    mark = next((mark for mark in ENDS if text.endswith(mark)), "")
    struck_out = mark == "</s>" and "<s>" in text[1:]  # HTML
    return (text, "") if struck_out else (_without(text, STARTS + ENDS), mark)


def cut_prompt(prompt: str, answers: list[str]) -> list[str] | None:
    """The answers without the prompt with which all of them begin; None where not all do.

    A short prompt may well begin an answer.
    """
    if len(prompt) < 12 or not all(answer.startswith(prompt) for answer in answers):
        return None
    return [answer[len(prompt) :].strip() for answer in answers]


# --- A prompt that stands only in the answers ---

BREAKS = r"\s\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f\uff5e\u300d\u300f"  # blanks, CJK marks


def derive_prompt(chosen: str, rejected: str) -> str:
    """What both texts begin with, up to a blank or a CJK mark: never within a word."""
    count = 0
    while count < min(len(chosen), len(rejected)) and chosen[count] == rejected[count]:
        count += 1
    shared = re.match(rf".*[{BREAKS}]|", chosen[:count], re.DOTALL)[0]
    return shared if shared.strip() else ""
