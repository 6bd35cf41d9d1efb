"""The tokenizer: whatever is written comes back, in a fixed number of tokens."""

import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer as Peer

from engines.errors import BadCheckpoint, BadRequest
from engines.text.tokenizer import CLIPTokenizer, Tokenizer, normalise, opened

CAPTIONS = [
    f"{what}, {style}, on a {colour} background"
    for what in ("a red fox", "the red heart", "keycap 3")
    for style in ("3d", "flat")
    for colour in ("blue", "red")
] + [f"{what}，{style}" for what in ("红色的狐狸", "红色的心", "按键 3") for style in ("立体", "平面")] * 2


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(CAPTIONS, 400, 128)


@pytest.mark.parametrize("text, back", [
    ("A Red  FOX,\tflat ", "a red fox, flat"),
    ("红色的狐狸，平面", "红色的狐狸,平面"),
    ("a red fox 狐狸 3d", "a red fox 狐狸 3d"),
    ("ﬁne ＡＢＣ ①", "fine abc 1"),
    ("👨‍👩‍👧 😀 naïve déjà‑vu", "👨‍👩‍👧 😀 naïve déjà‐vu"),
    ("never seen: Ξένος\x00\x7f", "never seen: ξένος\x00\x7f"),
    ("half \ud83d surrogate", "half ? surrogate"),
    ("<|end|> and <|start|>", "<|end|> and <|start|>"),
    ("", ""),
    (" \n ", ""),
])
def test_a_text_comes_back_normalised(tokenizer, text, back):
    ids = tokenizer.encode([text])
    assert tokenizer.decode(ids[0]) == back


@given(text=st.text(st.characters(codec="utf-8"), max_size=20))
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back_normalised(tokenizer, text):
    # NFKC and lower case, by Python's own functions; a space in front is not part of a text.
    expected = " ".join(unicodedata.normalize("NFKC", text).lower().split())
    assert tokenizer.count(text) >= 2
    assert tokenizer.decode(tokenizer.encode([text])[0]) == expected or tokenizer.count(text) > 128


def test_rows_are_start_tokens_end_and_ends(tokenizer):
    ids = tokenizer.encode(["a red fox", "", "red " * 500])
    assert ids.shape == (3, 128)
    assert ids.dtype == np.int64
    assert (ids[:, 0] == tokenizer.start_token).all()
    assert (ids[:, -1] == tokenizer.end_token).all()
    first_end = (ids == tokenizer.end_token).argmax(1)
    assert first_end.tolist() == [tokenizer.count("a red fox") - 1, 1, 127]
    assert (ids[0, first_end[0]:] == tokenizer.end_token).all()
    assert 0 <= ids.min() <= ids.max() < tokenizer.vocab_size


def test_a_long_text_keeps_its_beginning(tokenizer):
    assert tokenizer.count("red " * 500) > 128
    assert set(tokenizer.decode(tokenizer.encode(["red " * 500])[0]).split()) == {"red"}


def test_signs_are_read_as_what_is_added_and_all_else_as_before(tokenizer):
    more = tokenizer.adding({"#": [500, 501], "~": [502]})
    red, fox = tokenizer.encode(["red fox"])[0][1:3]
    assert more.count("red# ~ fox") == tokenizer.count("red fox") + 3
    assert more.encode(["red# ~ fox"])[0][1:6].tolist() == [red, 500, 501, 502, fox]
    assert more.weights([[("red", 1.0), ("#", 2.0), (" fox", 1.0)]])[0][:6].tolist() == [1, 1, 2, 2, 1, 1]
    for text in CAPTIONS:
        assert np.array_equal(more.encode([text]), tokenizer.encode([text]))
    assert not tokenizer.added and tokenizer.decode(tokenizer.encode(["#"])[0]) == "#"


def test_words_of_the_captions_are_single_tokens(tokenizer):
    assert tokenizer.count("red") == tokenizer.count("RED") == 3
    assert tokenizer.count("red red") == 4
    assert tokenizer.count("红色的") == 3


def test_a_word_is_the_same_token_wherever_it_stands(tokenizer):
    first, later = tokenizer.encode(["red", "a red"])
    assert first[1] == later[2]


def test_digits_and_punctuation_stand_apart(tokenizer):
    assert tokenizer.count("33") == 4
    assert tokenizer.count("red,") == 4


def test_the_typed_name_of_a_special_token_is_only_text(tokenizer):
    ids = tokenizer.encode(["<|end|> red"])[0]
    assert (ids == tokenizer.end_token).argmax() == tokenizer.count("<|end|> red") - 1 > 3


def test_json_round_trip(tokenizer):
    again = Tokenizer(tokenizer.to_json(), 128)
    assert again.to_json() == tokenizer.to_json()
    texts = [*CAPTIONS, "unseen 狗 <|end|>"]
    np.testing.assert_array_equal(again.encode(texts), tokenizer.encode(texts))


def test_training_again_gives_the_same_tokenizer(tokenizer):
    assert Tokenizer.train(iter(CAPTIONS), 400, 128).to_json() == tokenizer.to_json()


def test_the_smallest_vocabulary_is_bytes_alone():
    tokenizer = Tokenizer.train(CAPTIONS, 258, 32)
    assert tokenizer.vocab_size == 258
    assert tokenizer.count("red") == len(normalise("red").encode()) + 2


def test_a_vocabulary_too_small_is_refused():
    with pytest.raises(BadRequest, match="at least 258"):
        Tokenizer.train(CAPTIONS, 257, 32)


def test_a_context_too_short_is_refused(tokenizer):
    with pytest.raises(BadRequest, match="at least 3"):
        Tokenizer(tokenizer.to_json(), 2)


def test_damaged_json_is_refused(tokenizer):
    with pytest.raises(BadCheckpoint, match="damaged"):
        Tokenizer(tokenizer.to_json()[:-5], 32)
    with pytest.raises(BadCheckpoint, match="damaged"):
        Tokenizer("{}", 32)


def test_a_tokenizer_of_another_model_is_refused(tokenizer):
    foreign = json.dumps(json.loads(tokenizer.to_json())).replace("<|end|>", "</s>")
    with pytest.raises(BadCheckpoint, match="lacks"):
        Tokenizer(foreign, 32)


def test_clips_own_tokenizer_is_the_peers(tmp_path):
    alphabet = [chr(code) for code in sorted(map(ord, pre_tokenizers.ByteLevel.alphabet()))]
    merges = ["r e", "re d</w>", "f o", "fo x</w>", "' s</w>", "c a", "ca f"]
    made = ["".join(merge.split()) for merge in merges]
    words = [*alphabet, *(letter + "</w>" for letter in alphabet), *made, "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    files = tmp_path / "vocab.json", tmp_path / "merges.txt"
    texts = ["a Red  FOX's café", "don't 3d, 12 (x)", "", "红色 ☕ naïve\t\n", "red" * 40, "x_y<|endoftext"]
    for padding, more in ((None, {}), (0, {"pad_token": words[0]})):
        ours = CLIPTokenizer.from_folder(tmp_path, context_length=24, padding=padding)
        theirs = Peer(*map(str, files), model_max_length=24, **more)
        expected = theirs(texts, padding="max_length", truncation=True, return_tensors="np").input_ids
        np.testing.assert_array_equal(ours.encode(texts), expected)
        again = opened(ours.to_json(), 24)
        assert isinstance(again, CLIPTokenizer)
        np.testing.assert_array_equal(again.encode(texts), expected)
        theirs.save_pretrained(tmp_path / "one")  # as one file
        assert not (tmp_path / "one" / "vocab.json").exists()
        once = CLIPTokenizer.from_folder(tmp_path / "one", context_length=24, padding=padding)
        np.testing.assert_array_equal(once.encode(texts), expected)
    (tmp_path / "merges.txt").unlink()
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(BadCheckpoint, match="cannot be read"):
            CLIPTokenizer.from_folder(folder)
