"""Text as token numbers: the corpus, and the places a corpus comes from.

A source is a function that returns a `Corpus`. Conventions (they change perplexities, so they are fixed here):

- words: ``line.split()`` and one ``<eos>`` for every line, blank lines included (as the PTB literature has it);
- characters: every character, line breaks included;
- the vocabulary is built over train, valid and test, in that order and in order of first appearance.
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
    """A corpus that cannot be used: missing, empty, not text, or not the one that was announced."""


@dataclass(frozen=True, eq=False)  # one is equal to itself alone: what is computed from one can be kept
class Corpus:
    """A text in three splits, as token numbers.

    Attributes:
        name: where it comes from.
        train, valid, test: (N,) int64 token numbers.
        vocabulary: the token of each number.
        unit: what a token is.
    """

    name: str
    train: Tensor
    valid: Tensor
    test: Tensor
    vocabulary: tuple[str, ...]
    unit: Unit

    @cached_property
    def sha256(self) -> str:
        """The hash of vocabulary and splits: a run folder remembers what it was trained on."""
        digest = hashlib.sha256("\0".join(self.vocabulary).encode())
        for split in SPLITS:
            digest.update(getattr(self, split).numpy().tobytes())
        return digest.hexdigest()


# Token counts with <eos>, vocabulary sizes, and SHA-256 of the files where there is one authoritative copy.
KNOWN: dict[str, dict[str, tuple[int, str | None]]] = {
    "ptb": {
        "train": (929_589, "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf"),
        "valid": (73_760, "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2"),
        "test": (82_430, "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0"),
        "vocabulary": (10_000, None),
    },
    "wikitext-2": {  # several copies of the training file are about, with the articles in another order: count, no hash
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
        unit: what a token is.
        known: "ptb" or "wikitext-2" when the folder is to be checked against the published files.

    Raises:
        DataError: a missing folder or split, an empty split, a file that is not UTF-8, or not the known corpus.
    """
    if not folder.is_dir():
        raise DataError(f"Data is a folder that exists, and {folder} is not: give a folder with {_names('train')}, ...")
    paths = tuple(_find(folder, split) for split in SPLITS)
    return _read_splits(paths, tuple(path.stat().st_mtime_ns for path in paths), folder.name, unit, known)


@lru_cache(maxsize=1)
def builtin_text() -> Corpus:
    """The help texts of Python's standard library (`pydoc_data.topics`), by characters, without repetitions.

    Topics repeat each other's paragraphs, so a paragraph of which a line of 40 or more characters stood before is left
    out: no such line stands in two paragraphs, let alone in two splits. Of ten topics one goes to valid, one to test.
    About 345 thousand characters; they differ a little between Python versions.
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
    return _corpus("pydoc topics", texts, "character")


@lru_cache(maxsize=4)
def first_fraction(corpus: Corpus, share: float) -> Corpus:
    """The first part of each split, as if nothing else had been there: for trials on a large text.

    Args:
        corpus: the whole text.
        share: of the tokens of each split, 0 < share <= 1, rounded to whole tokens.

    Returns:
        a corpus whose vocabulary is built over what is left, in the usual order.

    Raises:
        DataError: no such share.
    """
    if not 0 < share <= 1:
        raise DataError(f"A share of a text is above 0 and at most 1, and {share} is not: change it.")
    if share == 1:
        return corpus
    parts = [tokens[: round(share * len(tokens))] for tokens in (getattr(corpus, split) for split in SPLITS)]
    present, first, numbers = np.unique(torch.cat(parts).numpy(), return_index=True, return_inverse=True)
    order = np.argsort(first)  # of first appearance, as indices into `present`
    renumbered = torch.from_numpy(np.argsort(order)[numbers])
    train, valid, test = torch.split(renumbered, [len(part) for part in parts])
    vocabulary = tuple(corpus.vocabulary[number] for number in present[order])
    return replace(corpus, train=train, valid=valid, test=test, vocabulary=vocabulary)


def _names(split: str) -> str:
    return f"{split}.txt, ptb.{split}.txt or wiki.{split}.tokens"


def find_split(folder: Path, split: str) -> Path | None:
    """The file of a split in a folder, by one of the usual names; None where there is none."""
    names = (f"{split}.txt", f"ptb.{split}.txt", f"wiki.{split}.tokens")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _find(folder: Path, split: str) -> Path:
    if path := find_split(folder, split):
        return path
    raise DataError(f"A data folder holds three splits, and {folder} has no {split} split: add {_names(split)}.")


@lru_cache(maxsize=4)
def _read_splits(paths: tuple[Path, ...], stamps: tuple[int, ...], name: str, unit: Unit, known: str | None) -> Corpus:
    """Read and check once a process, and again when a file has changed."""
    corpus = _corpus(known or name, {split: _read(path) for split, path in zip(SPLITS, paths, strict=True)}, unit)
    if known is not None:
        _check_known(corpus, paths[0].parent, known)
    return corpus


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"Text must be UTF-8, and {path} is not at byte {error.start}: convert it, e.g. with iconv."
        ) from None
    if not text.strip():
        raise DataError(f"A split must hold text, and {path} is empty.")
    return text


def _tokens(text: str, unit: Unit) -> Iterator[str]:
    if unit == "character":
        yield from text
        return
    for line in text.removesuffix("\n").split("\n"):
        yield from line.split()
        yield "<eos>"


def _corpus(name: str, texts: dict[str, str], unit: Unit) -> Corpus:
    numbers: dict[str, int] = {}
    encoded = {
        split: torch.from_numpy(
            np.fromiter((numbers.setdefault(token, len(numbers)) for token in _tokens(texts[split], unit)), np.int64)
        )
        for split in SPLITS
    }
    return Corpus(name, encoded["train"], encoded["valid"], encoded["test"], tuple(numbers), unit)


def is_published(content: bytes, known: str, split: str) -> bool:
    """Whether this is a split's published file: by its hash where there is one copy, else by the number of tokens."""
    count, sha256 = KNOWN[known][split]
    if sha256 is not None:
        return hashlib.sha256(content).hexdigest() == sha256
    return sum(1 for _ in _tokens(content.decode(errors="replace"), "word")) == count


def _check_known(corpus: Corpus, folder: Path, known: str) -> None:
    if known not in KNOWN:
        raise DataError(f"A known corpus is one of {', '.join(KNOWN)}, and {known!r} is not: leave `known` out.")
    found = {split: len(getattr(corpus, split)) for split in SPLITS} | {"vocabulary": len(corpus.vocabulary)}
    for part, (count, sha256) in KNOWN[known].items():
        if found[part] != count:
            raise DataError(
                f"{known} has {count:,} tokens in {part}, and {folder} has {found[part]:,}: it is another copy; "
                "leave `known` out to use it as it is."
            )
        if sha256 is not None:
            path = _find(folder, part)
            if not is_published(path.read_bytes(), known, part):
                raise DataError(
                    f"{path} is not the published file of {known} (SHA-256 differs): get it with `hyperprune fetch`."
                )
