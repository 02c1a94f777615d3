"""Prompts, as text or as messages, and what a model reads of them: chat templates and tokens.

A prompt is a text (one turn of the user), or a list of messages {"role": ..., "content": ...} that
the user ends. A conversation goes to the chat template as it is; who has no template (people, a
judge, an encoder) reads it as text. A model without a template of its own gets `PLAIN_TEMPLATE`.

TRL trains on what the template's prompt has in common with prompt and answer. A template that ends
its prompt otherwise, with an open think block or a blank that melts into the first word, is cut
there once, when it is loaded. From then on everything that reads it sees the prompt trained on.
"""

import contextlib
import json
from collections.abc import Iterable, Sequence
from itertools import takewhile

from common.basics import UserError, in_one_line
from common.preferences import SIDES

Prompt = str | list[dict[str, str]]
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
# For a template that writes the system message into the last turn, or nowhere, once the question is
# answered: the message becomes the beginning of the user's first turn.
SYSTEM_FIRST = (
    "{% if messages[0]['role'] == 'system' and messages | length > 1 %}"
    "{% set messages = [{'role': 'user', 'content': messages[0]['content'] + '\n\n' + "
    "messages[1]['content']}] + messages[2:] %}{% endif %}\n"
)
# Real text to try a template with: some refuse an empty message.
QUESTION, ANSWER, SYSTEM = "What is two plus two?", "It is four.", "Be quick."


def as_messages(prompt: Prompt) -> list[dict[str, str]]:
    """The turns of a prompt as a chat template takes them."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def as_prompt(messages: list[dict[str, str]]) -> Prompt:
    """The inverse of `as_messages`: one turn of the user is a text."""
    only = messages[0] if len(messages) == 1 else {"role": None}
    return only["content"] if only["role"] == "user" else messages


def as_text(prompt: Prompt) -> str:
    """A prompt as text; turns as "User: ..." and "Assistant: ...", the system message as it is."""
    prompt = as_prompt(as_messages(prompt))
    if isinstance(prompt, str):
        return prompt
    speakers = {"user": "User: ", "assistant": "Assistant: "}
    return "\n\n".join(speakers.get(m["role"], "") + m["content"] for m in prompt)


def prompt_key(prompt: Prompt) -> str:
    """What tells a prompt from all others, as a key of a dictionary."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt)


def distinct_prompts(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Every prompt once, in an order that depends on nothing else."""
    return sorted({prompt_key(prompt): prompt for prompt in prompts}.values(), key=as_text)


# --- Chat templates ---


def is_plain(tokenizer) -> bool:
    """Whether the model has no chat template of its own."""
    return tokenizer.chat_template.endswith(PLAIN_TEMPLATE)


def use_template(tokenizer) -> None:
    """Have the tokenizer write its own chat template, without thinking, or `PLAIN_TEMPLATE`.

    The plain one begins with BOS where the tokenizer adds it to a text: the token ids of a prompt
    are those of its plain text. Of several templates the default one counts. Raises UserError for
    one that does not write a question and its answer.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if template is None:
        adds_bos = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
        template = ("{{ bos_token }}" if adds_bos else "") + PLAIN_TEMPLATE
    if "enable_thinking" in template:
        template = NO_THINKING + template.removeprefix(NO_THINKING)
    tokenizer.chat_template = template
    if not is_plain(tokenizer):
        with contextlib.suppress(UserError):  # it takes no system message, and will say so
            system = {"role": "system", "content": SYSTEM}
            shared = shared_start(*show_template(tokenizer, [system]))
            if SYSTEM not in shared or QUESTION not in shared:
                tokenizer.chat_template = SYSTEM_FIRST + template
        end_with_prompt(tokenizer)


def end_with_prompt(tokenizer) -> None:
    """Cut the template where text or tokens of a prompt go on otherwise than before an answer."""
    written, both = show_template(tokenizer)
    shown, tokens = shared_start(written, both), encode_written(tokenizer, both)
    while (beginning := encode_written(tokenizer, shown)) != tokens[: len(beginning)]:
        shown = shown[:-1]
    if QUESTION not in shown or ANSWER not in both[len(shown) :]:
        reason = "its chat template does not write a question and its answer; it makes "
        reason += f"{both!r:.80} of {QUESTION!r} and {ANSWER!r}; correct it, or remove it"
        raise UserError(f"cannot use the model {tokenizer.name_or_path}: {reason}")
    if shown != written:
        template = tokenizer.chat_template.removesuffix("\n")  # at an end Jinja leaves it out
        end = ascii(written[len(shown) :])
        tokenizer.chat_template = CUT_TEMPLATE.format(template=template, end=end)


def show_template(tokenizer, before: Sequence[dict] = ()) -> tuple[str, str]:
    """What the template makes of a question that is to be answered, and of one that has been."""
    turns = [*before, *as_messages(QUESTION), {"role": "assistant", "content": ANSWER}]
    reason = "its chat template does not take a question and an answer"
    with in_one_line(f"cannot use the model {tokenizer.name_or_path}: {reason}"):
        asked = {"tokenize": False, "add_generation_prompt": True}
        written = tokenizer.apply_chat_template(turns[:-1], **asked)
        return written, tokenizer.apply_chat_template(turns, tokenize=False)


def shared_start(first: Sequence, *others: Sequence) -> Sequence:
    """What sequences have in common at their beginnings."""
    equal = takewhile(lambda items: len(set(items)) == 1, zip(first, *others, strict=False))
    return first[: len(list(equal))]


def tokens_after_answer(tokenizer) -> list[int]:
    """Token ids of what the template puts behind an answer."""
    return encode_written(tokenizer, show_template(tokenizer)[1].rpartition(ANSWER)[2])


# --- Text in and out of a causal LM ---


def encode_written(tokenizer, text: str) -> list[int]:
    """Token ids of what a template has written: special tokens stand in the text."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def format_prompt(tokenizer, prompt: Prompt) -> str:
    """The text that a causal LM continues."""
    return write_turns(tokenizer, as_messages(prompt), add_generation_prompt=True)


def write_turns(tokenizer, turns: list[dict], **options) -> str:
    """What the chat template makes of the turns. Raises UserError where it rejects their roles."""
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, **options)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in turns)
        raise UserError(
            f"the chat template of the model rejects the turns {roles}: {error}; leave such rows "
            "out, or put a system message in front of the text of the first user turn"
        ) from None


def format_pair(row: dict) -> dict:
    """A row of prompt, chosen, rejected as messages: TRL writes them in the chat template."""
    answers = {side: [{"role": "assistant", "content": row[side]}] for side in SIDES}
    return {"prompt": as_messages(row["prompt"]), **answers}


def encode_prompt(tokenizer, prompt: Prompt | list[int]) -> list[int]:
    """Token ids of the formatted prompt."""
    if prompt and not isinstance(prompt[0], str | dict):  # token ids already
        return prompt
    return encode_written(tokenizer, format_prompt(tokenizer, prompt))


def encode_response(tokenizer, text: str, prompt: Prompt = QUESTION) -> list[int]:
    """Token ids of a response as TRL has them: with the EOS, and what a template puts behind it."""
    if not (text or is_plain(tokenizer)):  # some templates refuse an empty message
        return tokens_after_answer(tokenizer)
    return encode_answers(tokenizer, prompt, [text])[1]


def encode_answers(tokenizer, prompt: Prompt, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of a prompt and of each of the responses to it, as TRL has them.

    TRL cuts prompt + response where the first of the responses parts from the prompt.
    """
    shown, rows = encode_prompt(tokenizer, prompt), []
    for text in texts:
        turns = [*as_messages(prompt), {"role": "assistant", "content": text}]
        rows.append(encode_written(tokenizer, write_turns(tokenizer, turns)))
    shared = shared_start(shown, *rows)
    return [shared, *(row[len(shared) :] for row in rows)]


def check_length(tokens: int, tokenizer) -> None:
    """Raise UserError for a text that is longer than the model reads."""
    most = tokenizer.model_max_length
    if tokens > most:
        raise UserError(f"a text of {tokens} tokens, but the model reads {most}: shorten it")


def reads_pairs(tokenizer) -> bool:
    """Whether the tokenizer writes a pair of texts with a separator, as BERT's does."""
    separator = tokenizer.sep_token_id
    return separator is not None and separator in tokenizer("a", "b")["input_ids"]
