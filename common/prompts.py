"""A prompt: a text, or a list of messages {"role": ..., "content": ...} that the user ends.

A text is one turn of the user. A conversation goes to the chat template as it is; who has no
template (people, a judge, an encoder) reads it as text.
"""

import json
from collections.abc import Iterable

Prompt = str | list[dict[str, str]]
SPEAKERS = {"user": "User", "assistant": "Assistant"}


def as_messages(prompt: Prompt) -> list[dict[str, str]]:
    """The turns of a prompt as a chat template takes them."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def as_prompt(messages: list[dict[str, str]]) -> Prompt:
    """The inverse of `as_messages`: one turn of the user is a text."""
    only = messages[0] if len(messages) == 1 else {"role": None}
    return only["content"] if only["role"] == "user" else messages


def as_text(prompt: Prompt) -> str:
    """A prompt as text: a text as it stands, turns as "User: ..." and "Assistant: ...".

    They are set apart by a blank line. The system message comes first and has no name.
    """
    prompt = as_prompt(as_messages(prompt))
    if isinstance(prompt, str):
        return prompt
    paragraphs = []
    for message in prompt:
        speaker = SPEAKERS.get(message["role"])
        paragraphs.append(f"{speaker}: {message['content']}" if speaker else message["content"])
    return "\n\n".join(paragraphs)


def prompt_key(prompt: Prompt) -> str:
    """What tells a prompt from all others, as a key of a dictionary."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt)


def distinct_prompts(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Every prompt once, in an order that depends on nothing else."""
    by_key = {prompt_key(prompt): prompt for prompt in prompts}
    return sorted(by_key.values(), key=as_text)
