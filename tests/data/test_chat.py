"""Conversational rows in their three shapes."""

import pytest

from safedpo_jax import checks
from safedpo_jax.data import chat
from safedpo_jax.data.fields import Row
from safedpo_jax.data.records import Message

SYSTEM = {"role": "system", "content": "Be brief."}
ASK = {"role": "user", "content": "Why?"}
GOOD = {"role": "assistant", "content": "Because."}
BAD = {"role": "assistant", "content": "Dunno."}
PROMPT = (Message("system", "Be brief."), Message("user", "Why?"))


def parse(**fields):
    return chat.parse(Row(fields, "c.jsonl:4", "c", 3))


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": [SYSTEM, ASK], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [SYSTEM, ASK], "chosen": "Because.", "rejected": "Dunno."},
        {"prompt": [SYSTEM, ASK], "chosen": [SYSTEM, ASK, GOOD], "rejected": [SYSTEM, ASK, BAD]},
        {"chosen": [SYSTEM, ASK, GOOD], "rejected": [SYSTEM, ASK, BAD]},
        {
            "prompt": {"role": ["system", "user"], "content": ["Be brief.", "Why?"]},
            "chosen": {"role": ["assistant"], "content": ["Because."]},
            "rejected": {"role": ["assistant"], "content": ["Dunno."]},
        },
    ],
    ids=["explicit", "strings", "whole conversations", "implicit", "columnar (tfds)"],
)
def test_all_shapes_give_the_same_record(fields):
    record = parse(**fields)
    assert record.prompt == PROMPT
    assert record.responses == ("Because.", "Dunno.")
    assert (record.better, record.safer, record.unsafe) == (0, None, (None, None))


def test_a_string_prompt_next_to_whole_conversations():
    record = parse(prompt="Why?", chosen=[ASK, GOOD], rejected=[ASK, BAD], chosen_unsafe=True, rejected_unsafe=False)
    assert record.prompt == (Message("user", "Why?"),)
    assert record.responses == ("Because.", "Dunno.")
    assert (record.unsafe, record.safer) == ((True, False), 1)


def test_p10_identical_conversations_keep_their_prompt_for_the_ordering_to_drop_them():
    record = parse(chosen=[ASK, GOOD], rejected=[ASK, GOOD])
    assert record.prompt == (Message("user", "Why?"),)
    assert record.responses[0] == record.responses[1]


def test_earlier_assistant_turns_stay_in_the_prompt():
    record = parse(chosen=[ASK, GOOD, ASK, GOOD], rejected=[ASK, GOOD, ASK, BAD])
    assert [message.role for message in record.prompt] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"chosen": [ASK, GOOD]}, "field 'rejected' is missing"),
        ({"prompt": [SYSTEM, ASK, GOOD], "chosen": [GOOD], "rejected": [BAD]}, "must end in a user message, but it ends in assistant"),
        ({"prompt": [ASK, SYSTEM, ASK], "chosen": [GOOD], "rejected": [BAD]}, "a system message may only stand first"),
        ({"prompt": [ASK], "chosen": [], "rejected": [BAD]}, "'chosen' must be a list of messages"),
        ({"prompt": [], "chosen": [GOOD], "rejected": [BAD]}, "'prompt' must be a list of messages"),
        (
            {"prompt": [ASK], "chosen": [GOOD, GOOD], "rejected": [BAD]},
            "exactly one assistant message .* found assistant, assis",
        ),
        ({"prompt": [ASK], "chosen": [ASK], "rejected": [BAD]}, "'chosen' must hold exactly one assistant message .* found nothing"),
        ({"chosen": [ASK, GOOD], "rejected": [SYSTEM, ASK, BAD]}, "differ from message 1 on"),
        ({"chosen": [ASK, GOOD, ASK, BAD], "rejected": [ASK, BAD, ASK, GOOD]}, "differ from message 2 on"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "must end in a user message, but it is empty"),
        ({"chosen": [ASK, ASK], "rejected": [ASK, BAD]}, "exactly one assistant message"),
        ({"prompt": [{"role": "user", "content": " "}], "chosen": [GOOD], "rejected": [BAD]}, "the prompt is empty"),
        (
            {"prompt": [{"role": "human", "content": "a"}], "chosen": [GOOD], "rejected": [BAD]},
            r"'prompt\[0\].role' must be one of",
        ),
        (
            {"prompt": [{"role": "user", "content": 3}], "chosen": [GOOD], "rejected": [BAD]},
            r"'prompt\[0\].content' must be a string",
        ),
        (
            {"prompt": [{"from": "human", "value": "a"}], "chosen": [GOOD], "rejected": [BAD]},
            r"'prompt\[0\]' must be an object",
        ),
        ({"prompt": [ASK], "chosen": [GOOD], "rejected": [None]}, r"'rejected\[0\]' must be an object with role and content, found null"),
    ],
)
def test_bad_conversations_are_refused_with_place_and_reason(fields, words):
    with pytest.raises(checks.UserError, match=r"^c\.jsonl:4: .*" + words):
        parse(**fields)
