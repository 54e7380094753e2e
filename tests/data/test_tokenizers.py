"""Loading tokenizers from directories of every kind, and the ids they give."""

import json
import socket

import pytest

from safedpo_jax.checks import UserError
from safedpo_jax.data.tokenizers import adds_bos, check_vocabulary, encode_texts, load_tokenizer, tokenizer_fingerprint, vocabulary_size

from . import toy


def test_gpt2_files_alone_give_eos_and_no_bos(shared_data):
    tokenizer = load_tokenizer(shared_data / "tokenizers" / "gpt2")
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id) == (50256, None)
    assert encode_texts(tokenizer, ["Hello world"])[0].tolist() == [15496, 995]
    assert vocabulary_size(tokenizer) == 50257


def test_a_saved_hugging_face_directory_reads_back_as_the_same_tokenizer(tmp_path):
    chat = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    original = toy.tokenizer(merges=[("a", "b")], chat=chat)
    original.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.chat_template == chat
    assert tokenizer_fingerprint(again) == tokenizer_fingerprint(original)
    assert [ids.tolist() for ids in encode_texts(again, ["abba"])] == [ids.tolist() for ids in encode_texts(original, ["abba"])]


def test_special_tokens_of_a_bare_json_come_from_config_json_if_it_names_them(tmp_path):
    toy.backend().save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).eos_token == toy.EOS
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [2, 1], "bos_token_id": 0}))
    assert load_tokenizer(tmp_path).eos_token == toy.PAD


def test_no_network_is_ever_asked(tmp_path, monkeypatch):
    toy.tokenizer().save_pretrained(tmp_path)

    def refuse(*_):
        raise AssertionError("the tokenizer tried to reach the network")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "holds no tokenizer.*an empty directory"),
        ({"vocab.json": "{}"}, "holds no tokenizer.*found vocab.json"),
        ({"tokenizer.json": "{ not json"}, "cannot be read"),
        ({"tokenizer_config.json": "{ not json"}, "cannot be read"),
        ({"tokenizer.model": "not a protobuf"}, "cannot be read"),
        ({"vocab.json": '{"a": 0}', "merges.txt": "#version: 0.2\n"}, "no end-of-sequence token"),
    ],
)
def test_a_directory_without_a_usable_tokenizer_is_a_sentence(tmp_path, files, sentence):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=sentence) as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_directory_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"nowhere does not exist; .* nothing is downloaded"):
        load_tokenizer(tmp_path / "nowhere")


def test_a_tokenizer_without_eos_is_refused(tmp_path):
    bare = toy.backend()
    tokens = json.loads(bare.to_str().replace(toy.EOS, "<stop>"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokens))
    with pytest.raises(UserError, match="no end-of-sequence token"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_larger_than_the_embedding_is_refused_and_both_numbers_named():
    tokenizer = toy.tokenizer()
    size = vocabulary_size(tokenizer)
    assert size == 3 + 256
    check_vocabulary(tokenizer, size)
    check_vocabulary(tokenizer, size + 64)  # padded embeddings are common
    with pytest.raises(UserError, match=f"needs {size} embedding rows.*has {size - 1}"):
        check_vocabulary(tokenizer, size - 1)
    tokenizer.add_tokens(["<new>"])
    with pytest.raises(UserError, match=f"needs {size + 1}"):
        check_vocabulary(tokenizer, size)


def test_fingerprint_sees_merges_specials_and_template_but_not_padding_state():
    base = toy.tokenizer()
    prints = {
        tokenizer_fingerprint(changed)
        for changed in (base, toy.tokenizer(merges=[("a", "b")]), toy.tokenizer(bos=False), toy.tokenizer(chat="{{ messages }}"))
    }
    assert len(prints) == 4
    before = tokenizer_fingerprint(base)
    base.backend_tokenizer.enable_truncation(5)
    base.backend_tokenizer.enable_padding()
    assert tokenizer_fingerprint(base) == before


@pytest.mark.parametrize("text", ["hello", "<s>hello", "<s><s>hello"])
def test_p02_bos_exactly_once_at_the_front_whether_or_not_the_text_has_it(text):
    ids = encode_texts(toy.tokenizer(), [text])[0]
    assert ids[0] == 0
    assert (ids == 0).sum() == 1
    assert len(ids) == 6


def test_p02_no_bos_where_the_tokenizer_has_none_or_does_not_use_it():
    assert len(encode_texts(toy.tokenizer(bos=False), ["hello"])[0]) == 5
    paper_only = toy.tokenizer(bos=False)
    paper_only.bos_token = toy.EOS  # GPT-2 directories declare <|endoftext|> as both and never prepend it
    assert not adds_bos(paper_only)
    assert len(encode_texts(paper_only, ["hello"])[0]) == 5


def test_p02_a_bos_in_the_text_stays_single_where_the_tokenizer_adds_none():
    tokenizer = toy.tokenizer(bos=False)
    tokenizer.bos_token = toy.BOS
    assert encode_texts(tokenizer, ["<s><s>a"])[0].tolist() == encode_texts(tokenizer, ["<s>a"])[0].tolist()
    assert encode_texts(tokenizer, ["<s>a"])[0].tolist()[0] == 0


def test_many_texts_are_encoded_in_order_over_several_calls(monkeypatch):
    monkeypatch.setattr("safedpo_jax.data.tokenizers.BATCH", 3)
    texts = [str(number) for number in range(8)]
    tokenizer = toy.tokenizer(bos=False)
    assert [tokenizer.decode(ids) for ids in encode_texts(tokenizer, texts)] == texts


@pytest.mark.parametrize("bos", [True, False])
def test_p05_padding_and_truncation_that_a_tokenizer_was_saved_or_called_with_change_nothing(tmp_path, bos):
    original = toy.tokenizer(bos=bos, pad=toy.PAD)
    expected = [ids.tolist() for ids in encode_texts(original, ["a", "a longer text"])]
    original(["a", "a longer text"], padding=True, truncation=True, max_length=4)
    assert [ids.tolist() for ids in encode_texts(original, ["a", "a longer text"])] == expected
    original(["a", "a longer text"], padding=True, truncation=True, max_length=4)
    original.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "tokenizer.json").read_text())
    assert stored["padding"]
    assert stored["truncation"]
    assert [ids.tolist() for ids in encode_texts(load_tokenizer(tmp_path), ["a", "a longer text"])] == expected
