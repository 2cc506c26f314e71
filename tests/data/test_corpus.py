"""Corpora: conventions, the built-in text, and errors for unusable folders."""

import os
from pathlib import Path

import pytest

from hyperpruning.data.corpus import SPLITS, DataError, builtin_text, first_fraction, read_folder


def decoded(corpus, split):
    return "".join(corpus.vocabulary[number] for number in getattr(corpus, split).tolist())


def write(folder: Path, **texts: str) -> Path:
    folder.mkdir(exist_ok=True)
    for split, content in texts.items():
        (folder / f"{split}.txt").write_text(content)
    return folder


def test_words_end_every_line_with_eos_and_are_numbered_in_order_of_appearance(tmp_path):
    corpus = read_folder(write(tmp_path / "d", train="b a\n\na\n", valid="c\n", test="a d"))
    assert corpus.vocabulary == ("b", "a", "<eos>", "c", "d")
    assert corpus.train.tolist() == [0, 1, 2, 2, 1, 2]
    assert corpus.test.tolist() == [1, 4, 2]


def test_characters_keep_the_text_as_it_is(tmp_path):
    corpus = read_folder(write(tmp_path / "d", train="ab\nba", valid="a b", test="b"), unit="character")
    assert [decoded(corpus, split) for split in SPLITS] == ["ab\nba", "a b", "b"]


def test_the_hash_depends_on_text_and_vocabulary(tmp_path):
    texts = {"train": "a b", "valid": "a", "test": "b"}
    one = read_folder(write(tmp_path / "one", **texts))
    assert read_folder(write(tmp_path / "two", **texts)).sha256 == one.sha256
    assert read_folder(write(tmp_path / "three", **texts | {"test": "a"})).sha256 != one.sha256


def test_the_hash_depends_on_where_a_split_ends(tmp_path):
    texts = {"train": "abcab", "valid": "ca", "test": "b"}
    one = read_folder(write(tmp_path / "one", **texts), unit="character")
    two = read_folder(write(tmp_path / "two", **texts | {"train": "abca", "valid": "bca"}), unit="character")
    assert "".join(decoded(one, split) for split in SPLITS) == "".join(decoded(two, split) for split in SPLITS)
    assert one.vocabulary == two.vocabulary
    assert one.sha256 != two.sha256


def test_no_line_of_the_builtin_text_occurs_in_two_splits():
    corpus = builtin_text()
    lines = {split: {line for line in decoded(corpus, split).split("\n") if len(line) >= 40} for split in SPLITS}
    assert all(len(found) > 300 for found in lines.values())
    assert not lines["train"] & lines["valid"]
    assert not (lines["train"] | lines["valid"]) & lines["test"]


def test_a_first_fraction_equals_reading_the_shortened_texts(tmp_path):
    texts = {"train": "e d e a\nb c b d\n", "valid": "x e y z\n", "test": "c x q a e d b\n"}
    whole = read_folder(write(tmp_path / "whole", **texts), unit="character")
    for fraction in (0.25, 0.5, 0.9):
        first = {split: text[: round(fraction * len(text))] for split, text in texts.items()}
        expected = read_folder(write(tmp_path / f"{fraction}", **first), unit="character")
        found = first_fraction(whole, fraction)
        assert found.vocabulary == expected.vocabulary
        assert found.sha256 == expected.sha256
        assert first_fraction(whole, fraction) is found  # cached
    assert first_fraction(whole, 1.0) is whole
    for fraction in (0, 1.5):
        with pytest.raises(DataError, match=f"above 0 and at most 1, got {fraction}"):
            first_fraction(whole, fraction)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "valid.txt").unlink(), "got no valid split"),
        (lambda folder: (folder / "test.txt").write_text(" \n"), "must not be empty, got"),
        (lambda folder: (folder / "train.txt").write_bytes(b"abc\xff"), "invalid byte at position 3"),
    ],
)
def test_a_folder_that_cannot_be_used_is_explained(tmp_path, spoil, says):
    folder = write(tmp_path / "d", train="a", valid="a", test="a")
    spoil(folder)
    with pytest.raises(DataError, match=says):
        read_folder(folder)


def test_a_missing_folder_is_explained(tmp_path):
    with pytest.raises(DataError, match=r"must exist, got .* Give a folder"):
        read_folder(tmp_path / "nowhere")


def test_another_text_is_not_taken_for_a_known_one(tmp_path):
    with pytest.raises(DataError, match=r"must have 929,589 tokens in train, got 2"):
        read_folder(write(tmp_path / "d", train="a", valid="a", test="a"), known="ptb")


@pytest.mark.parametrize("known", ["ptb", "wikitext-2"])
def test_the_published_corpora_have_their_counts_and_hashes(known):
    place = os.environ.get("HYPERPRUNING_DATA")
    if place is None or not (Path(place) / known).is_dir():
        pytest.skip(f"needs HYPERPRUNING_DATA=DIR with {known}/ in it")
    corpus = read_folder(Path(place) / known, known=known)
    assert len(corpus.vocabulary) == {"ptb": 10_000, "wikitext-2": 33_278}[known]
