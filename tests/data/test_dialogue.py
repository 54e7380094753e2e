"""Transcripts inside prompt strings: split only where the markers are unambiguous."""

import pytest

from safedpo_jax.data.dialogue import merge_turns, prompt_from_text, split_turns
from safedpo_jax.data.fields import Row
from safedpo_jax.data.records import Message

USER, ASSISTANT = "user", "assistant"


def prompt(text):
    return prompt_from_text(Row({"prompt": text}, "f:1", "f", 0))


@pytest.mark.parametrize("start", ["", "\n\n"])
def test_an_alternating_transcript_becomes_one_message_a_turn(start):
    text = f"{start}Human: What is new?\n\nAssistant: Little.\n\nOnly rain.\n\nHuman: And you?"
    expected = (Message(USER, "What is new?"), Message(ASSISTANT, "Little.\n\nOnly rain."), Message(USER, "And you?"))
    assert prompt(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "What is new?",
        "Human: just one turn",
        "Continue:\n\nHuman: a\n\nAssistant: b\n\nHuman: c",
        "Human: a\n\nAssistant: b",
        "Human: a\n\nHuman: b\n\nAssistant: c\n\nHuman: d",
        "Human: a\n\nAssistant:\n\nHuman: c",
        "Assistant: a\n\nHuman: b\n\nAssistant: c",
        "Human: a\nAssistant: b\nHuman: c",
        "  padded\n",
        "Human: a\u2028\u2028Assistant: b\u2028\u2028Human: c",
    ],
)
def test_anything_ambiguous_stays_one_user_message_word_for_word(text):
    assert prompt(text) == (Message(USER, text),)


def test_turns_of_one_speaker_are_kept_apart_then_merged():
    turns = split_turns("\n\nHuman: a\n\nHuman: b\n\nAssistant: c\n\nAssistant:")
    assert turns == [Message(USER, "a"), Message(USER, "b"), Message(ASSISTANT, "c"), Message(ASSISTANT, "")]
    assert merge_turns(turns) == (Message(USER, "a\n\nb"), Message(ASSISTANT, "c"))


def test_real_transcripts_split_into_as_many_human_turns_as_their_owner_counted(shared_data):
    from safedpo_jax.data import sources

    split, whole = 0, 0
    for row in sources.raw_rows(shared_data / "safedpo_mix" / "train.jsonl.gz"):
        turns = [message for message in prompt_from_text(row) if message.role == USER]
        if len(turns) > 1:
            assert len(turns) == row.fields["n_turns"]
            split += 1
        elif row.fields["n_turns"] > 1:
            whole += 1
    assert (split, whole) == (1176, 4)  # the four have two turns of one speaker in a row
