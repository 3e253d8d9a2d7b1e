"""Folders as transformers writes them, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path

from made import llama
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}> {{ message.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
SPECIALS = ("<end>", "<user>", "<assistant>")


def tokenizer_folder(folder: Path, *, words: str = "a b c d", template: str | None = TEMPLATE) -> Path:
    """A tokenizer of whole words, which knows no other."""
    known = ["[UNK]", *SPECIALS, *words.split()]
    model = Tokenizer(WordLevel({word: number for number, word in enumerate(known)}, unk_token="[UNK]"))
    model.pre_tokenizer = Whitespace()
    model.add_special_tokens(list(SPECIALS))
    fast = PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<end>", unk_token="[UNK]")
    fast.chat_template = template
    fast.save_pretrained(folder)
    return folder


def model_folder(
    folder: Path, *, vocabulary: int = 8, words: str = "a b c d", layers: int = 2, context: int = 64
) -> Path:
    """A tiny Llama with a tokenizer beside it."""
    tokenizer_folder(folder, words=words)
    llama(vocabulary=vocabulary, layers=layers, context=context).lm.save_pretrained(folder)
    return folder


def jsonl(file: Path, *samples: object) -> Path:
    file.write_text("\n".join(json.dumps(sample) for sample in samples), encoding="utf-8")
    return file
