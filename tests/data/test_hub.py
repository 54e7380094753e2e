"""Named data sets: how a spec is read, and what is said when a data set is not there."""

import importlib.machinery
import sys
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds

from safedpo_jax import checks
from safedpo_jax.data import hub, sources
from safedpo_jax.data.records import Message


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("tfds:pku:train", {"name": "pku", "split": "train", "folder": None}),
        ("tfds:a/b:train[:10%]@/data/x", {"name": "a/b", "split": "train[:10%]", "folder": "/data/x"}),
        ("tfds:a/b:1.2.0:train+test", {"name": "a/b:1.2.0", "split": "train+test", "folder": None}),
        ("hf:org/name:train", {"name": "org/name", "config": None, "split": "train", "revision": None}),
        ("hf:org/name:alpaca-7b:test@abc123", {"name": "org/name", "config": "alpaca-7b", "split": "test", "revision": "abc123"}),
        ("hf:org/name:train[:5%]", {"name": "org/name", "config": None, "split": "train[:5%]", "revision": None}),
    ],
)
def test_specs(spec, parts):
    assert hub.parse_spec(spec) == parts
    assert hub.is_named(spec)
    assert sources.split_spec(f"{spec},{spec}") == [spec, spec]


@pytest.mark.parametrize("spec", ["tfds:", "tfds:name", "hf:name", "hf::train", "tfds:name:"])
def test_malformed_specs_are_usage_errors(spec):
    with pytest.raises(checks.UsageError, match=f"'{spec}' must be written {spec.split(':')[0]}:NAME"):
        sources.load_pairs(spec)


def test_plain_values():
    value = {
        "a": np.bool_(True),
        "b": np.int32(3),
        "c": b"\xc3\xbc",
        "d": np.array([b"x", b"y"], dtype=object),
        "e": None,
        "f": [np.array([1, 2])],
    }
    found = hub.plain(value)
    assert found == {"a": True, "b": 3, "c": "ü", "d": ["x", "y"], "e": None, "f": [[1, 2]]}
    assert (type(found["a"]), type(found["b"])) == (bool, int)


class TinyChat(tfds.core.GeneratorBasedBuilder):
    """Any tfds data set: nested messages, bytes, numpy flags."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, rows=(), file_format="array_record", **kwargs):
        self.rows = rows
        super().__init__(file_format=file_format, **kwargs)

    def _info(self):
        turn = {"role": tfds.features.Text(), "content": tfds.features.Text()}
        features = {name: tfds.features.Sequence(turn) for name in ("prompt", "chosen", "rejected")}
        features |= {"chosen_unsafe": np.bool_, "rejected_unsafe": np.bool_}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features), disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield from enumerate(self.rows)


def chat_row(text="déjà"):
    turns = {
        "prompt": [("user", "q"), ("assistant", "r"), ("user", text)],
        "chosen": [("assistant", "a")],
        "rejected": [("assistant", "b")],
    }
    fields = {name: [{"role": role, "content": content} for role, content in value] for name, value in turns.items()}
    return fields | {"chosen_unsafe": True, "rejected_unsafe": False}


def test_any_tfds_name_is_read_nested_messages_included(tmp_path):
    TinyChat(rows=[chat_row()], data_dir=tmp_path).download_and_prepare()
    (record,) = sources.load_pairs(f"tfds:tiny_chat:train@{tmp_path}")
    assert record.prompt == (Message("user", "q"), Message("assistant", "r"), Message("user", "déjà"))
    assert (record.responses, record.unsafe, record.source) == (("a", "b"), (True, False), "tiny_chat")


def test_bytes_that_are_no_text_are_refused_by_field(tmp_path):
    TinyChat(rows=[chat_row(b"\xff\xfe")], data_dir=tmp_path).download_and_prepare()
    with pytest.raises(checks.UserError, match=r"tfds:tiny_chat:train@.*:1: field 'prompt\[2\]\.content' holds"):
        sources.load_pairs(f"tfds:tiny_chat:train@{tmp_path}")


def test_missing_data_sets_splits_and_damaged_files_are_sentences(tmp_path):
    TinyChat(rows=[chat_row()], data_dir=tmp_path).download_and_prepare()
    for spec, words in {
        "tfds:no_such_set:train": "tfds knows no data set 'no_such_set'",
        "tfds:tiny_chat:test": "Unknown split 'test'",
        "tfds:pku_saferlhf/30k:train": "is not prepared in .*build_dataset",
        "tfds:pku_saferlhf/31k:train": "31k not found",
    }.items():
        with pytest.raises(checks.UserError, match=words):
            sources.load_pairs(f"{spec}@{tmp_path}")
    shard = next(tmp_path.rglob("*.array_record*"))
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    with pytest.raises(checks.UserError, match=r"array_record files in .* are damaged"):
        sources.load_pairs(f"tfds:tiny_chat:train@{tmp_path}")


def test_hugging_face_without_the_extra_says_what_to_install(monkeypatch):
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(checks.UserError, match=r"pip install -e '\.\[datasets\]'"):
        sources.load_pairs("hf:org/name:train")


def test_hugging_face_rows_arrive_and_its_failures_are_sentences(monkeypatch):
    calls = []

    def load_dataset(name, config, split, revision):
        calls.append((name, config, split, revision))
        if split != "train":
            raise RuntimeError("no such split\nlong trace")
        return [{"prompt": "p", "chosen": "a", "rejected": "b"}]

    module = types.ModuleType("datasets")
    module.__spec__ = importlib.machinery.ModuleSpec("datasets", None)
    monkeypatch.setattr(module, "load_dataset", load_dataset, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", module)
    (record,) = sources.load_pairs("hf:org/name:cfg:train@rev")
    assert calls == [("org/name", "cfg", "train", "rev")]
    assert (record.responses, record.source, record.where) == (("a", "b"), "name", "hf:org/name:cfg:train@rev:1")
    with pytest.raises(checks.UserError, match=r"hf:org/name:test: Hugging Face datasets could not load this \(no such split\)$"):
        sources.load_pairs("hf:org/name:test")
