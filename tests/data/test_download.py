"""Downloads of invented files from invented URLs; a file that differs from the published one is never kept."""

import hashlib
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from hyperpruning.data import download
from hyperpruning.data.corpus import PUBLISHED_CORPORA, SPLITS, DataError
from hyperpruning.data.download import LICENCES, URLS, fetch

TEXTS = {"train": b"a b c\na b\n", "valid": b"b a\n", "test": b"c\n"}


@pytest.fixture(autouse=True)
def invented(monkeypatch):
    """A published corpus of 12 tokens; its training text has no hash, like WikiText-2's."""
    tokens = {"train": 7, "valid": 3, "test": 2}
    parts = {split: (tokens[split], hashlib.sha256(TEXTS[split]).hexdigest()) for split in SPLITS}
    monkeypatch.setitem(PUBLISHED_CORPORA, "ptb", parts | {"train": (7, None), "vocabulary": (4, None)})


@pytest.fixture
def server(monkeypatch):
    """A local server: its files and the requested paths; for a number, the connection ends after so many bytes."""

    class Handler(BaseHTTPRequestHandler):
        files: ClassVar[dict[str, object]] = {}
        asked: ClassVar[list[str]] = []

        def do_GET(self):
            self.asked.append(self.path)
            content = self.files.get(self.path)
            if content is None or not self.headers["User-Agent"].startswith("hyperprune"):
                self.send_error(404)
                return
            self.send_response(200)
            broken = isinstance(content, int)
            self.send_header("Content-Length", str(len(TEXTS["train"]) if broken else len(content)))
            self.end_headers()
            self.wfile.write(TEXTS["train"][:content] if broken else content)

        def log_message(self, *words):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with HTTPServer(("127.0.0.1", 0), Handler) as host:
        threading.Thread(target=host.serve_forever, args=(0.01,), daemon=True).start()
        Handler.files, Handler.asked = {f"/good/{split}.txt": text for split, text in TEXTS.items()}, []
        Handler.root = f"http://127.0.0.1:{host.server_port}"
        yield Handler
        host.shutdown()


def folder_of(files: Path) -> str:
    files.mkdir()
    for split, text in TEXTS.items():
        (files / f"{split}.txt").write_bytes(text)
    return files.as_uri() + "/{split}.txt"


def test_the_first_url_with_the_published_file_is_used(server, tmp_path):
    server.files |= {f"/other/{split}.txt": b"another text\n" for split in SPLITS}
    urls = [f"{server.root}/{host}/{{split}}.txt" for host in ("dead", "other", "good", "never")]
    corpus = fetch("ptb", tmp_path / "new" / "ptb", urls=urls)
    assert corpus.vocabulary == ("a", "b", "c", "<eos>")
    assert {path.name: path.read_bytes() for path in (tmp_path / "new" / "ptb").iterdir()} == {
        f"{split}.txt": text for split, text in TEXTS.items()
    }
    assert server.asked == [f"/{host}/{split}.txt" for split in SPLITS for host in ("dead", "other", "good")]


def test_existing_published_files_are_not_downloaded_again(server, tmp_path):
    (tmp_path / "ptb.valid.txt").write_bytes(TEXTS["valid"])
    (tmp_path / "train.txt").write_bytes(TEXTS["train"])
    fetch("ptb", tmp_path, urls=[f"{server.root}/good/{{split}}.txt"])
    assert server.asked == ["/good/test.txt"]
    fetch("ptb", tmp_path, urls=[])
    assert not (tmp_path / "valid.txt").exists()
    with pytest.raises(DataError, match="got: no URL"):
        fetch("ptb", tmp_path / "new", urls=[])


def test_another_text_is_not_overwritten(tmp_path):
    (tmp_path / "valid.txt").write_text("my own\n")
    with pytest.raises(DataError, match=r"published file of ptb, got another text in .*valid\.txt\. Remove it"):
        fetch("ptb", tmp_path, urls=[folder_of(tmp_path / "there")])
    assert (tmp_path / "valid.txt").read_text() == "my own\n"


def test_a_broken_connection_leaves_no_file(server, tmp_path):
    server.files["/good/train.txt"] = 6
    with pytest.raises(DataError, match="IncompleteRead"):
        fetch("ptb", tmp_path, urls=[f"{server.root}/good/{{split}}.txt"])
    assert not list(tmp_path.iterdir())
    corpus = fetch("ptb", tmp_path, urls=[f"{server.root}/good/{{split}}.txt", folder_of(tmp_path / "there")])
    assert len(corpus.train) == 7


def test_an_interrupted_fetch_continues_with_the_missing_files(server, tmp_path, monkeypatch):
    def interrupted(path, content):
        if path.name == "valid.txt":
            raise KeyboardInterrupt
        return write(path, content)

    write = download.write_atomic
    with monkeypatch.context() as patched:
        patched.setattr(download, "write_atomic", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch("ptb", tmp_path, urls=[f"{server.root}/good/{{split}}.txt"])
    server.asked.clear()
    fetch("ptb", tmp_path, urls=[f"{server.root}/good/{{split}}.txt"])
    assert server.asked == ["/good/valid.txt", "/good/test.txt"]
    assert len(list(tmp_path.iterdir())) == 3


def test_offline_the_error_lists_all_urls_and_the_remedy(tmp_path):
    urls = ["http://127.0.0.1:9/{split}", (tmp_path / "nowhere").as_uri()]
    with pytest.raises(DataError) as caught:
        fetch("ptb", tmp_path, urls=urls)
    said = str(caught.value)
    assert "http://127.0.0.1:9/train: " in said
    assert "nowhere" in said
    assert said.endswith(f"Put the file into {tmp_path} as train.txt by hand.")
    assert "\n" not in said


def test_a_zip_archive_is_downloaded_once(server, tmp_path):
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        for split, text in TEXTS.items():
            archive.writestr(f"in/wiki.{split}.tokens", text)
    server.files |= {"/made.zip": (tmp_path / "made.zip").read_bytes(), "/no.zip": b"<html>"}
    member = "#in/wiki.{split}.tokens"
    urls = [f"{server.root}/{name}" for name in (f"no.zip{member}", "made.zip#nothing", f"made.zip{member}")]
    assert len(fetch("ptb", tmp_path / "ptb", urls=urls).test) == 2
    assert server.asked == ["/no.zip", "/made.zip"]


def test_counts_are_checked_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setitem(PUBLISHED_CORPORA, "ptb", PUBLISHED_CORPORA["ptb"] | {"vocabulary": (5, None)})
    with pytest.raises(DataError, match="must have 5 words in vocabulary, got 4"):
        fetch("ptb", tmp_path / "ptb", urls=[folder_of(tmp_path / "there")])


def test_every_corpus_that_can_be_checked_can_be_fetched():
    assert set(URLS) == set(LICENCES) == set(PUBLISHED_CORPORA)
    with pytest.raises(DataError, match="one of ptb, wikitext-2, got 'wikitext-103'"):
        fetch("wikitext-103", Path("nowhere"))
    assert all("{split}" in url for urls in URLS.values() for url in urls)
