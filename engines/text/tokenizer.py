"""Words to token ids: byte-level byte-pair encoding (Sennrich et al., 2016; Radford et al., 2019).

Every text has tokens, whatever its script, since single bytes are in the vocabulary.
"""

import copy
import json
import re
import unicodedata
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from engines.errors import BadCheckpoint, BadRequest

WHOLE = "tokenizer.json"  # all of a tokenizer in one file
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")  # of transformers; the second has the last word
START, END = "<|start|>", "<|end|>"
SMALLEST_VOCABULARY = 256 + len((START, END))

# Merges stay within a match. A word carries the space before it, so that it is one token wherever it
# stands; Chinese has no spaces and carries none. Digits stand alone, punctuation and emoji apart.
SPACE_BEFORE_CHINESE = Regex(r"\A (?=\p{Han})")
PIECES = Regex(r"\p{Han}+| ?[[\p{L}\p{M}]&&\P{Han}]+| ?\p{N}| ?[^\s\p{L}\p{M}\p{N}]+|\s")
CLIP_PIECES = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")


def normalise(text):
    """`text` as the tokenizer reads it: NFKC, lower case, single spaces, and a space in front.

    Half surrogates, which are no characters and have no bytes, become question marks.
    """
    readable = text.encode("utf-8", errors="replace").decode("utf-8")
    words = unicodedata.normalize("NFKC", readable).lower().split()
    return "".join(f" {word}" for word in words)


class Tokenizer:
    """Texts to `(B, context_length)` token ids, and back.

    `json_text` is what `to_json` wrote. A text becomes start, its tokens, end, and more ends up to
    `context_length`, as CLIP pads. Raises `BadCheckpoint` for a text that is no tokenizer of ours.
    """

    start, end = START, END

    def __init__(self, json_text, context_length):
        try:
            self._bpe = tokenizers.Tokenizer.from_str(json_text)
        except Exception as error:  # the library raises nothing narrower
            raise BadCheckpoint("The tokenizer in a model file is damaged; fetch it again.") from error
        self.context_length = context_length
        self.added = {}  # a sign, one character, and the ids beside the vocabulary that it is read as
        self.vocab_size = self._bpe.get_vocab_size()
        self.start_token = self._bpe.token_to_id(self.start)
        self.end_token = self.padding = self._bpe.token_to_id(self.end)
        if self.start_token is None or self.end_token is None:
            raise BadCheckpoint(f"The tokenizer in a model file lacks {self.start} or {self.end}; choose another.")
        if context_length < 3:
            raise BadRequest(f"context_length is {context_length}; it must be at least 3, for start and end.")
        # Somebody who types "<|end|>" means these seven characters. The library does not save this setting.
        self._bpe.encode_special_tokens = True

    @classmethod
    def train(cls, captions, vocab_size, context_length):
        """Learn the merges from an iterable of texts; the same captions give the same tokenizer.

        `vocab_size` is at most reached: pairs seen only once are not merged. At least 258: the bytes,
        start and end.
        """
        if vocab_size < SMALLEST_VOCABULARY:
            raise BadRequest(f"vocab_size is {vocab_size}; it must be at least {SMALLEST_VOCABULARY}.")
        bpe = tokenizers.Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(SPACE_BEFORE_CHINESE, "removed"),
            pre_tokenizers.Split(PIECES, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ])
        bpe.decoder = decoders.ByteLevel()
        bpe.train_from_iterator((normalise(caption) for caption in captions), trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=[START, END],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ))
        return cls(bpe.to_str(), context_length)

    def adding(self, ids):
        """A tokenizer that reads each sign as the token ids that `ids` give it, and all else as this one."""
        more = copy.copy(self)
        more.added = ids
        return more

    def encode(self, texts):
        """A list of texts as int64 `(B, context_length)`; a long one loses its last tokens, never its end.

        A text may be pieces `(words, weight)` as `prompt.weighted` gives them.
        """
        ids = np.full((len(texts), self.context_length), self.padding, dtype=np.int64)
        for row, text in zip(ids, texts, strict=True):
            tokens = [*[self.start_token, *self._tokens(text)][: self.context_length - 1], self.end_token]
            row[: len(tokens)] = tokens
        return ids

    def weights(self, texts):
        """The weight of each token that `encode` gives, float32 `(B, context_length)`; 1 for start, end and strings."""
        weights = np.ones((len(texts), self.context_length), dtype=np.float32)
        for row, text in zip(weights, texts, strict=True):
            known = [1.0, *(weight for tokens, weight in self._pieces(text) for _ in tokens)][: len(row) - 1]
            row[: len(known)] = known
        return weights

    def count(self, text):
        """Tokens of the whole text with start and end; more than `context_length` means it will be cut."""
        return len(self._tokens(text)) + 2

    def decode(self, ids):
        """The text of one row of ids, as `normalise` left it but for the space in front."""
        return self._bpe.decode([int(i) for i in ids], skip_special_tokens=True).removeprefix(" ")

    def to_json(self):
        """The tokenizer as JSON text; one tokenizer always gives the same text."""
        return self._bpe.to_str()

    def files(self):
        """The files of a folder from which transformers reads a tokenizer that gives the same ids: name to content.

        But for a Greek capital sigma at the end of a word, which only Python writes small in its own way there.
        """
        bpe = json.loads(self.to_json())
        start, end = self.start, self.end
        spaces = {"type": "Replace", "pattern": {"Regex": r"[\s\x1c-\x1f]+"}, "content": " "}
        bpe["normalizer"] = {"type": "Sequence", "normalizers": [  # `normalise`
            {"type": "NFKC"}, {"type": "Lowercase"}, spaces,
            {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "Prepend", "prepend": " "},
        ]}  # fmt: skip
        bpe["post_processor"] = {
            "type": "RobertaProcessing", "sep": [end, self.end_token], "cls": [start, self.start_token],
            "trim_offsets": False, "add_prefix_space": False,
        }  # fmt: skip
        return {WHOLE: bpe, SETTINGS[0]: self._settings("PreTrainedTokenizerFast")}

    def _settings(self, kind):
        return {
            "tokenizer_class": kind, "model_max_length": self.context_length, "bos_token": self.start,
            "eos_token": self.end, "unk_token": self.end, "pad_token": self._bpe.id_to_token(self.padding),
            "split_special_tokens": True,
        }  # fmt: skip

    def _tokens(self, text):
        return [token for tokens, _ in self._pieces(text) for token in tokens]

    def _pieces(self, text):
        # tokens and weight of each piece, and of each sign, which is a piece of its own
        before = " "
        for words, weight in [(text, 1.0)] if isinstance(text, str) else text:
            for part in re.split(f"([{''.join(self.added)}])", words) if self.added else [words]:
                if part in self.added:
                    yield self.added[part], weight
                elif part:
                    yield self._ids(part, before), weight
                before = part or before

    def _ids(self, words, before):
        # what follows without a space in the text has none before its tokens
        normal = normalise(words)
        if not (before[-1:].isspace() or words[:1].isspace()):
            normal = normal.removeprefix(" ")
        return self._bpe.encode(normal, add_special_tokens=False).ids


class CLIPTokenizer(Tokenizer):
    """CLIP's own: lower case, words that end in `</w>`, and no word that knows of those around it.

    After the end comes the end again, as OpenAI's CLIP was trained, or what the JSON says, as for OpenCLIP.
    """

    start, end = "<|startoftext|>", "<|endoftext|>"

    def __init__(self, json_text, context_length):
        super().__init__(json_text, context_length)
        if self._bpe.padding:
            self.padding = self._bpe.padding["pad_id"]

    @classmethod
    def from_folder(cls, folder, context_length=77, padding=None):
        """The tokenizer of `vocab.json` and `merges.txt`, or of `tokenizer.json`; `padding` is the id after the end.

        Without one it is as the settings of transformers beside them say. Raises `BadCheckpoint` if they are damaged.
        """
        folder = Path(folder)
        try:
            if (folder / "vocab.json").exists():
                vocabulary, merges = models.BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
            else:
                read = json.loads((folder / WHOLE).read_text(encoding="utf-8"))["model"]
                vocabulary = read["vocab"]
                merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in read["merges"]]
            if padding is None and _padding(folder) != cls.end:
                padding = vocabulary.get(_padding(folder))
            model = models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=cls.end)
        except Exception as error:  # the library raises nothing narrower
            raise BadCheckpoint(f"The vocabulary in {folder} cannot be read; copy it again.") from error
        bpe = tokenizers.Tokenizer(model)
        bpe.normalizer = normalizers.Sequence([
            normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase(),
        ])
        bpe.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(CLIP_PIECES, "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ])
        bpe.decoder = decoders.ByteLevel()
        if padding is not None:
            bpe.enable_padding(pad_id=padding, pad_token=bpe.id_to_token(padding))
        return cls(bpe.to_str(), context_length)

    def files(self):
        model = json.loads(self.to_json())["model"]
        merges = "\n".join(" ".join(pair) for pair in model["merges"])
        return {
            "vocab.json": model["vocab"], "merges.txt": f"#version: 0.2\n{merges}\n",
            SETTINGS[0]: self._settings("CLIPTokenizer"),
        }  # fmt: skip

    def _ids(self, words, before):
        readable = words.encode("utf-8", errors="replace").decode("utf-8")
        return self._bpe.encode(readable, add_special_tokens=False).ids


def opened(json_text, context_length):
    """The tokenizer that wrote `json_text`: ours, or CLIP's."""
    kind = CLIPTokenizer if CLIPTokenizer.start in json_text else Tokenizer
    return kind(json_text, context_length)


def from_folder(folder, context_length, padding=None):
    """The tokenizer in a folder: CLIP's, or ours as `files` gives it. Raises `BadCheckpoint` if it is damaged."""
    path = Path(folder) / WHOLE
    whole = path.read_text(encoding="utf-8") if path.exists() else ""
    if START not in whole:
        return CLIPTokenizer.from_folder(folder, context_length, padding)
    try:  # without what `normalise` and `encode` do
        plain = json.dumps(json.loads(whole) | {"normalizer": None, "post_processor": None})
    except (TypeError, ValueError) as error:
        raise BadCheckpoint(f"The vocabulary in {folder} cannot be read; copy it again.") from error
    return Tokenizer(plain, context_length)


def _padding(folder):
    # the word of a folder's settings, or None; in the older of the files it may be described
    told = {}
    for name in SETTINGS:
        told |= json.loads((folder / name).read_text(encoding="utf-8")) if (folder / name).exists() else {}
    word = told.get("pad_token")
    return word["content"] if isinstance(word, dict) else word
