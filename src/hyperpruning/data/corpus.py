"""Text as token ids: the `Corpus`, and the functions that read one.

Conventions (they are fixed because they change perplexities):

- words: ``line.split()`` and one ``<eos>`` at the end of every line, blank lines included (as in the PTB literature);
- characters: every character, line breaks included;
- the vocabulary is built over train, valid and test, in this order and in order of first appearance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from pydoc_data.topics import topics  # the standard library's help texts: real English, no download
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Unit = Literal["word", "character"]
SPLITS = ("train", "valid", "test")


class DataError(ValueError):
    """A corpus that cannot be used: it is missing, empty, not text, or differs from the published one."""


@dataclass(frozen=True, eq=False)  # compared and hashed by identity, so that functions of a corpus can be cached
class Corpus:
    """A text in three splits, as token ids.

    Attributes:
        name: name of the source.
        train, valid, test: (N,) int64 token ids.
        vocabulary: the token of each id.
        unit: what a token is, "word" or "character".
    """

    name: str
    train: Tensor
    valid: Tensor
    test: Tensor
    vocabulary: tuple[str, ...]
    unit: Unit

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the vocabulary and of each split with its length; a run folder records it."""
        digest = hashlib.sha256("\0".join(self.vocabulary).encode())
        for split in SPLITS:
            tokens = getattr(self, split)
            digest.update(f"\0{split} {len(tokens)}\0".encode())
            digest.update(tokens.numpy().tobytes())
        return digest.hexdigest()


# Token counts (with <eos>), vocabulary sizes, and the SHA-256 of each file that exists in one version only.
PUBLISHED_CORPORA: dict[str, dict[str, tuple[int, str | None]]] = {
    "ptb": {
        "train": (929_589, "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf"),
        "valid": (73_760, "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2"),
        "test": (82_430, "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0"),
        "vocabulary": (10_000, None),
    },
    "wikitext-2": {  # copies of the training file differ in the order of the articles: count, no hash
        "train": (2_088_628, None),
        "valid": (217_646, "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8"),
        "test": (245_569, "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0"),
        "vocabulary": (33_278, None),
    },
}


def read_folder(folder: Path, *, unit: Unit = "word", known: str | None = None) -> Corpus:
    """Read a folder with a training, a validation and a test text.

    Args:
        folder: holds ``train.txt``, ``valid.txt``, ``test.txt`` (or ``ptb.train.txt``..., or ``wiki.train.tokens``...).
        unit: what a token is, "word" or "character".
        known: "ptb" or "wikitext-2" checks the files against the published ones; None checks nothing.

    Raises:
        DataError: the folder or a split is missing, a split is empty or not UTF-8, or the files are not the published
            ones.
    """
    if not folder.is_dir():
        raise DataError(f"The data folder must exist, got {folder}. Give a folder with {_file_names('train')}, ...")
    paths = tuple(_required_split(folder, split) for split in SPLITS)
    return _read_splits(paths, tuple(path.stat().st_mtime_ns for path in paths), folder.name, unit, known)


@lru_cache(maxsize=1)
def builtin_text() -> Corpus:
    """Return the help texts of Python's standard library (`pydoc_data.topics`), by characters, without repetitions.

    Several topics contain the same paragraphs. A paragraph is left out if one of its lines of 40 or more characters
    occurred before, so that no such line occurs in two splits. Of ten topics, one goes to valid and one to test. The
    text has about 345 thousand characters; it differs a little between Python versions.
    """
    seen: set[str] = set()
    texts = dict.fromkeys(SPLITS, "")
    for index, topic in enumerate(sorted(topics)):
        split = {3: "valid", 8: "test"}.get(index % 10, "train")
        for paragraph in topics[topic].split("\n\n"):
            lines = [" ".join(line.split()) for line in paragraph.splitlines() if line.strip()]
            long = {line for line in lines if len(line) >= 40}
            if lines and not long & seen:
                seen |= long
                texts[split] += "\n".join(lines) + "\n\n"
    return _encode("pydoc topics", texts, "character")


@lru_cache(maxsize=4)
def first_fraction(corpus: Corpus, fraction: float) -> Corpus:
    """Return the first part of each split, for trials on a large text.

    Args:
        corpus: the whole text.
        fraction: of the tokens of each split, 0 < fraction <= 1; the number of tokens is rounded.

    Returns:
        the corpus that reading the shortened texts would give: its vocabulary has their tokens only.

    Raises:
        DataError: `fraction` is out of range.
    """
    if not 0 < fraction <= 1:
        raise DataError(
            f"The fraction of a text must be above 0 and at most 1, got {fraction}. Use 1 for the whole text."
        )
    if fraction == 1:
        return corpus
    parts = [tokens[: round(fraction * len(tokens))] for tokens in (getattr(corpus, split) for split in SPLITS)]
    present, first, numbers = np.unique(torch.cat(parts).numpy(), return_index=True, return_inverse=True)
    order = np.argsort(first)  # order of first appearance, as indices into `present`
    renumbered = torch.from_numpy(np.argsort(order)[numbers])
    train, valid, test = torch.split(renumbered, [len(part) for part in parts])
    vocabulary = tuple(corpus.vocabulary[number] for number in present[order])
    return replace(corpus, train=train, valid=valid, test=test, vocabulary=vocabulary)


def _file_names(split: str) -> str:
    return f"{split}.txt, ptb.{split}.txt or wiki.{split}.tokens"


def find_split(folder: Path, split: str) -> Path | None:
    """Return the file of a split in a folder, under one of the usual names; None if there is none."""
    names = (f"{split}.txt", f"ptb.{split}.txt", f"wiki.{split}.tokens")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _required_split(folder: Path, split: str) -> Path:
    if path := find_split(folder, split):
        return path
    raise DataError(
        f"A data folder must have three splits, got no {split} split in {folder}. Add {_file_names(split)}."
    )


@lru_cache(maxsize=4)
def _read_splits(paths: tuple[Path, ...], stamps: tuple[int, ...], name: str, unit: Unit, known: str | None) -> Corpus:
    """Read and check the splits; the cache holds until a file's time stamp changes."""
    corpus = _encode(known or name, {split: _read_text(path) for split, path in zip(SPLITS, paths, strict=True)}, unit)
    if known is not None:
        _check_known(corpus, paths[0].parent, known)
    return corpus


def _read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"Text must be UTF-8, got an invalid byte at position {error.start} of {path}. Convert it, e.g. with iconv."
        ) from None
    if not text.strip():
        raise DataError(f"A split must not be empty, got {path} without text. Put the split's text into it.")
    return text


def _tokens(text: str, unit: Unit) -> Iterator[str]:
    if unit == "character":
        yield from text
        return
    for line in text.removesuffix("\n").split("\n"):
        yield from line.split()
        yield "<eos>"


def _encode(name: str, texts: dict[str, str], unit: Unit) -> Corpus:
    numbers: dict[str, int] = {}
    encoded = {
        split: torch.from_numpy(
            np.fromiter((numbers.setdefault(token, len(numbers)) for token in _tokens(texts[split], unit)), np.int64)
        )
        for split in SPLITS
    }
    return Corpus(name, encoded["train"], encoded["valid"], encoded["test"], tuple(numbers), unit)


def is_published(content: bytes, known: str, split: str) -> bool:
    """Tell whether this is a split's published file: by its SHA-256 if one is listed, else by its token count."""
    count, sha256 = PUBLISHED_CORPORA[known][split]
    if sha256 is not None:
        return hashlib.sha256(content).hexdigest() == sha256
    return sum(1 for _ in _tokens(content.decode(errors="replace"), "word")) == count


def _check_known(corpus: Corpus, folder: Path, known: str) -> None:
    if known not in PUBLISHED_CORPORA:
        raise DataError(
            f"known must be one of {', '.join(PUBLISHED_CORPORA)}, got {known!r}. Leave it out for a text of your own."
        )
    found = {split: len(getattr(corpus, split)) for split in SPLITS} | {"vocabulary": len(corpus.vocabulary)}
    for part, (count, sha256) in PUBLISHED_CORPORA[known].items():
        if found[part] != count:
            unit = "words" if part == "vocabulary" else "tokens"
            raise DataError(
                f"{known} must have {count:,} {unit} in {part}, got {found[part]:,} in {folder}. "
                "Leave `known` out to use this text as it is."
            )
        if sha256 is not None:
            path = _required_split(folder, part)
            if not is_published(path.read_bytes(), known, part):
                raise DataError(
                    f"With known={known!r} each file must be the published one, got another SHA-256 for {path}. Get "
                    "the published file with `hyperprune fetch`."
                )
