"""Chat templates: which one a tokenizer gets, and whether TRL, metrics and samples see one prompt.

TRL trains on what the template's prompt has in common with prompt and answer. A template that ends
its prompt otherwise, with an open think block or a blank that melts into the first word, is cut
there once, when it is loaded. From then on everything that reads it sees the prompt trained on.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from common.cli import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The format of models that have no chat template: "Question: ...\nAnswer: ...", a line for each
# turn, a system message before the first; a response ends with the EOS.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ '\n' if not loop.first and message['role'] != 'assistant' }}"
    "{% if message['role'] == 'assistant' %} {{ message['content'] }}{{ eos_token }}"
    "{% elif message['role'] == 'system' %}{{ message['content'] }}"
    "{% else %}Question: {{ message['content'] }}\nAnswer:{% endif %}{% endfor %}"
)
# A template that knows how to leave out thinking does so, unless it is told otherwise.
NO_THINKING = "{% set enable_thinking = enable_thinking | default(false) %}\n"
# What follows `end` is not part of the prompt. The newline after a tag is not written.
CUT_TEMPLATE = (
    "{{% set text %}}\n{template}{{% endset %}}"
    "{{{{ text.removesuffix({end}) if add_generation_prompt else text }}}}"
)
# Real text to try a template with: some refuse an empty message.
QUESTION, ANSWER = "What is two plus two?", "It is four."


def is_plain(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the model has no chat template of its own."""
    return tokenizer.chat_template.endswith(PLAIN_TEMPLATE)


def use_template(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Have the tokenizer write its own chat template, without thinking, or `PLAIN_TEMPLATE`.

    Of several templates that is the default one. Raises UserError for a template that does not
    write a question and its answer.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if template is None:
        use_plain_template(tokenizer)
        return
    if "enable_thinking" in template:
        template = NO_THINKING + template.removeprefix(NO_THINKING)
    tokenizer.chat_template = template
    if not is_plain(tokenizer):
        end_with_prompt(tokenizer)


def use_plain_template(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Have the tokenizer write `PLAIN_TEMPLATE`, with its BOS if it adds one to a text.

    The token ids of a prompt are then those of its plain text.
    """
    adds_bos = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    tokenizer.chat_template = ("{{ bos_token }}" if adds_bos else "") + PLAIN_TEMPLATE


def end_with_prompt(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Cut the template where a prompt goes on otherwise than before an answer."""
    written, both = show_template(tokenizer)
    shown = shared_prompt(tokenizer, written, both)
    if QUESTION not in shown or ANSWER not in both[len(shown) :]:
        raise UserError(
            f"its chat template does not write a question and its answer; it makes {both!r:.80} of "
            f"{QUESTION!r} and {ANSWER!r}. Correct it, or remove it to have the plain format"
        )
    if shown != written:
        template = tokenizer.chat_template.removesuffix("\n")  # at an end Jinja leaves it out
        end = ascii(written[len(shown) :])
        tokenizer.chat_template = CUT_TEMPLATE.format(template=template, end=end)


def show_template(tokenizer: "PreTrainedTokenizerBase") -> tuple[str, str]:
    """What the template makes of a question that is to be answered, and of one that has been."""
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    try:
        written = tokenizer.apply_chat_template(
            turns[:1], tokenize=False, add_generation_prompt=True
        )
        return written, tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception as error:  # a template is a program and may raise anything
        reason = f"its chat template does not take a question and an answer: {error}"
        raise UserError(reason) from None


def shared_prompt(tokenizer: "PreTrainedTokenizerBase", written: str, both: str) -> str:
    """The longest beginning of a prompt whose tokens also begin prompt and answer."""

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    shown, tokens = written[: shared_length(written, both)], encode(both)
    while (beginning := encode(shown)) != tokens[: len(beginning)]:
        shown = shown[:-1]
    return shown


def shared_length(one: Sequence, other: Sequence) -> int:
    """How many items two sequences have in common at their beginnings."""
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return sum(1 for _ in pairs)


def end_of_answer(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The special token with which the template ends an answer, if it is one."""
    special = tokenizer.added_tokens_decoder
    return next((token for token in tokens_after_answer(tokenizer) if token in special), None)


def tokens_after_answer(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Token ids of what the template puts behind an answer."""
    _, _, end = show_template(tokenizer)[1].rpartition(ANSWER)
    return tokenizer(end, add_special_tokens=False)["input_ids"]
