"""How a conversation becomes one string, up to the end of the response. The end-of-sequence token is added by the tokenization.

chat       the tokenizer's own chat template (Jinja)
safe_rlhf  BEGINNING OF CONVERSATION: USER: {prompt} ASSISTANT:{response}      (PKU-Alignment/safe-rlhf; the beaver scorers need it)
plain      {prompt}\\n\\n{response}
auto       chat if the tokenizer has a chat template, else safe_rlhf
"""

import datetime
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from safedpo_jax.checks import UserError, one_of
from safedpo_jax.data.records import Message
from safedpo_jax.data.tokenizers import Tokenizer

TEMPLATES = ("auto", "chat", "safe_rlhf", "plain")
TODAY = datetime.datetime(2024, 7, 26)  # for templates that print the date, or data would change overnight; the default of Llama 3.1's own
PROBE = "Response-probe-7f3a"  # stands for a response while the template's suffix is found: no template trims or rewrites it


@dataclass(frozen=True)
class Template:
    """Two renderings of the same conversation; `prompt` is normally a prefix of `conversation`, and tokenization checks in tokens."""

    name: str
    prompt: Callable[[Sequence[Message]], str]
    """The conversation up to where the response begins: what a sampler starts from."""
    conversation: Callable[[Sequence[Message], str], str]
    """The same followed by the response, cut where the end-of-sequence token belongs."""


def get_template(name: str, tokenizer: Tokenizer) -> Template:
    """The template of that name for this tokenizer.

    Raises:
      UsageError: unknown name.
      UserError: `chat` for a tokenizer without a chat template.
    """
    one_of("The template", name, TEMPLATES)
    if name == "auto":
        name = "chat" if tokenizer.chat_template else "safe_rlhf"
    if name == "chat":
        return _chat(tokenizer)
    begin = _safe_rlhf(tokenizer.eos_token) if name == "safe_rlhf" else _plain
    return Template(name, begin, lambda messages, response: begin(messages) + response)


def _safe_rlhf(eos: str) -> Callable[[Sequence[Message]], str]:
    def begin(messages: Sequence[Message]) -> str:
        text = "BEGINNING OF CONVERSATION:"
        for message in _without_system(messages):
            text += f" USER: {message.content}" if message.role == "user" else f" ASSISTANT:{message.content}{eos}"
        return text + " ASSISTANT:"

    return begin


def _plain(messages: Sequence[Message]) -> str:
    """Turns without names, an empty line between them; meant for base models and single-turn prompts."""
    _ends_with_user(messages)
    return "".join(f"{message.content}\n\n" for message in messages)


def _without_system(messages: Sequence[Message]) -> list[Message]:
    """Folds a leading system message into the first user message, as the format has no place for it."""
    _ends_with_user(messages)
    turns = list(messages)
    if turns[0].role == "system" and len(turns) > 1:
        turns = [Message("user", f"{turns[0].content}\n\n{turns[1].content}"), *turns[2:]]
    strange = sorted({turn.role for turn in turns} - {"user", "assistant"})
    if strange:
        raise UserError(f"The safe_rlhf template has no place for role {', '.join(map(repr, strange))}; use template 'chat'.")
    return turns


def _ends_with_user(messages: Sequence[Message]) -> None:
    if not messages or messages[-1].role == "assistant":
        last = f"ends with role {messages[-1].role!r}" if messages else "has no message"
        raise UserError(f"A prompt must end with what the assistant replies to, but this one {last}.")


def _chat(tokenizer: Tokenizer) -> Template:
    if not tokenizer.chat_template:
        raise UserError("Template 'chat' needs a tokenizer with a chat_template, and this one has none; use 'safe_rlhf' or 'plain'.")

    source = _on_one_day(tokenizer.get_chat_template())

    def render(messages: Sequence[Message], **options: bool) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return tokenizer.apply_chat_template(turns, chat_template=source, tokenize=False, **options)
        except Exception as error:  # a template may raise what it likes, jinja2 errors included
            raise UserError(f"The tokenizer's chat template refuses roles {[turn['role'] for turn in turns]}: {error}") from error

    @functools.lru_cache(maxsize=1)  # both answers of a pair ask for it
    def before_answer(messages: tuple[Message, ...]) -> str:
        return render(messages, add_generation_prompt=True)

    def prompt(messages: Sequence[Message]) -> str:
        _ends_with_user(messages)
        return before_answer(tuple(messages))

    single = [Message("user", "a")]
    probe = render([*single, Message("assistant", PROBE)])
    if PROBE not in probe:
        raise UserError(f"The tokenizer's chat template does not show the assistant's message: it rendered {probe!r}.")
    suffix = probe.rpartition(PROBE)[2]
    kept, eos, _ = suffix.partition(tokenizer.eos_token)

    def answered(messages: Sequence[Message], response: str) -> str:
        text = render([*messages, Message("assistant", response)])
        if not text.endswith(suffix):
            raise UserError(f"The tokenizer's chat template ends a response with {suffix!r} once and with {text[-40:]!r} another time.")
        # What stands between response and EOS must be generated too, so it is scored; without an EOS the EOS replaces the suffix.
        return text[: len(text) - len(suffix)] + (kept if eos else "")

    def conversation(messages: Sequence[Message], response: str) -> str:
        text, begin = answered(messages, response), prompt(messages)
        if text.startswith(begin) or text.startswith(render(messages)):  # or parts of what only a generation is asked with
            return text
        # Mistral's templates show a system message only while the last message is the user's: the answer follows what a sampler sees.
        alone, start = answered(single, response), prompt(single)
        if not alone.startswith(start):
            raise UserError(f"The tokenizer's chat template shows {begin[-60:]!r} of a prompt, but {text[:60]!r} once it is answered.")
        return begin + alone[len(start) :]

    return Template("chat", prompt, conversation)


def _on_one_day(source: str) -> str:
    """The Jinja text with a clock that stands still; transformers takes no function from outside, so the macro is written in Jinja."""
    if "strftime_now" not in source:
        return source
    date = "".join(f" | replace('%{code}', '{TODAY.strftime(f'%{code}')}')" for code in "aAbBdHIjmMpSUwWyYxXc")
    return "{% macro strftime_now(format) %}{{ format" + date + " }}{% endmacro %}\n" + source
