"""Random damage to a file: to its bytes, to the values in it (with a new checksum), or to what lies at its path."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tomlkit
import torch

from hyperpruning.deploy.model_file import FORMAT
from hyperpruning.files import json_check
from hyperpruning.search.ledger import _check as ledger_check

Damage = Callable[[bytes, random.Random], bytes]


def one_bit(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    if changed:
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def some_bytes(content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content) + 1)
    return content[:at] + draw.randbytes(draw.choice([1, 4, 64])) + content[at + draw.choice([0, 1, 64]) :]


def truncated(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def a_part_twice(content: bytes, draw: random.Random) -> bytes:
    begin, end = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return content[:end] + content[begin:]


def a_part_less(content: bytes, draw: random.Random) -> bytes:
    begin, end = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return content[:begin] + content[end:]


def zeros(content: bytes, draw: random.Random) -> bytes:
    begin, end = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return content[:begin] + bytes(end - begin) + content[end:]


def lines_exchanged(content: bytes, draw: random.Random) -> bytes:
    lines = content.split(b"\n")
    draw.shuffle(lines)
    return b"\n".join(lines)


def something_else(content: bytes, draw: random.Random) -> bytes:
    return draw.choice([b"", b"\n", b"null", b"{}", b"[" * 10**5, b"a." * 10**5, b"\x80\x04N.", draw.randbytes(2000)])


RANDOM: list[Damage] = [
    one_bit, one_bit, some_bytes, truncated, a_part_twice, a_part_less, zeros, lines_exchanged, something_else,
]  # fmt: skip
VALUES: list[Any] = [
    None, True, 0, 1, -1, 2**31, 10**19, 1e308, -1e-300, float("nan"), float("inf"), "", "x", "c01", "dense", "../../x",
    "</script><script>alert(1)</script>", "[/red]", "\n", "\x00", "\ud800", [], [1], [[]], ["x"] * 3, {}, {"x": 1},
]  # fmt: skip


def changed_value(values: Any, draw: random.Random) -> Any:
    """The same JSON value with one change somewhere in it."""
    if isinstance(values, dict) and values and draw.random() < 0.9:
        key = draw.choice(list(values))
        if draw.random() < 0.1:
            return {name: value for name, value in values.items() if name != key}
        return values | {key: changed_value(values[key], draw)}
    if isinstance(values, list) and values and draw.random() < 0.8:
        at = draw.randrange(len(values))
        new = [] if draw.random() < 0.1 else [changed_value(values[at], draw)]
        return [*values[:at], *new, *values[at + 1 :]]
    return draw.choice(VALUES)


def forged_line(content: bytes, draw: random.Random) -> bytes:
    lines = content.splitlines()
    at = draw.choice([0, draw.randrange(len(lines))])
    values = json.loads(lines[at])
    del values["check"]
    values = changed_value(values, draw)
    if isinstance(values, dict):
        values["check"] = ledger_check(values)
    lines[at] = json.dumps(values).encode()
    return b"\n".join(lines) + b"\n"


def forged_sidecar(content: bytes, draw: random.Random) -> bytes:
    values = json.loads(content)
    del values["check"]
    values = changed_value(values, draw)
    return json.dumps(values | {"check": json_check(values)} if isinstance(values, dict) else values).encode()


def forged_toml(content: bytes, draw: random.Random) -> bytes:
    values = changed_value(tomllib.loads(content.decode()), draw)
    try:
        return tomlkit.dumps(values).encode()
    except Exception:
        return b"x = " + json.dumps(values).encode()  # TOML has no null


def forged_header(content: bytes, draw: random.Random) -> bytes:
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    if draw.random() < 0.3:
        header = changed_value(header, draw)
    else:
        described = json.loads(header["__metadata__"][FORMAT])
        part = draw.choice(["model", "model", *described])
        header["__metadata__"][FORMAT] = json.dumps(described | {part: changed_value(described[part], draw)})
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def forged_arrays(content: bytes, draw: random.Random) -> bytes:
    arrays = dict(np.load(io.BytesIO(content)))
    name, buffer = draw.choice(list(arrays)), io.BytesIO()
    old = arrays[name]
    new = [np.zeros(0), np.zeros((2**10, 2**10)), old[..., None], np.array(["x"]), old.astype(object)]
    if old.dtype.kind in "fiu":
        new += [old.astype(complex), old * np.nan, -np.ones_like(old), old.astype(np.int8)]
    arrays[name] = draw.choice(new)
    draw.choice([np.savez, np.savez_compressed])(buffer, **arrays)
    return buffer.getvalue()


def forged_tensors(path: Path, draw: random.Random) -> None:
    """Other tensors in a checkpoint, with a sidecar of which all hashes are right."""
    values = json.loads(path.with_suffix(".json").read_bytes())
    state, part = torch.load(path, weights_only=True), draw.choice(["network", "optimizer", "sparsifier", "best", None])
    other = draw.choice([None, [], {}, torch.zeros(3), {"x": torch.zeros(3)}, {"x": 1}])
    torch.save(other if part is None else state | {part: other}, path)
    content = path.read_bytes()
    values |= {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    del values["check"]
    path.with_suffix(".json").write_text(json.dumps(values | {"check": json_check(values)}))


def bomb(content: bytes, draw: random.Random) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in zipfile.ZipFile(io.BytesIO(content)).namelist():
            with archive.open(name, "w") as member:
                np.lib.format.write_array_header_1_0(
                    member, {"descr": "<f8", "fortran_order": False, "shape": (2**30,)}
                )
                member.write(bytes(2**20))
    return buffer.getvalue()


FORGED: dict[str, list[Damage]] = {
    ".jsonl": [forged_line],
    ".json": [forged_sidecar],
    ".toml": [forged_toml],
    ".safetensors": [forged_header],
    ".npz": [forged_arrays, forged_arrays, bomb],
}


def removed(path: Path) -> None:
    path.unlink()


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    os.truncate(path, 2**33)  # sparse: it fills no disk


def another_file(path: Path) -> None:
    others = sorted(other for other in path.parent.iterdir() if other.is_file() and other != path)
    if others:
        shutil.copy(others[-1], path)


PLACES = [removed, folder_instead, dangling, fifo, endless, huge, another_file]


def damage(path: Path, draw: random.Random) -> tuple[str, bool]:
    """Damage a file; return how, and whether the damage has a new checksum."""
    kind = draw.random()
    if kind < 0.15:
        place = draw.choice(PLACES)
        place(path)
        return place.__name__, False
    if kind < 0.3 and path.suffix == ".pt":
        forged_tensors(path, draw)
        return "forged_tensors", True
    forged = kind < 0.5 and path.suffix in FORGED
    change = draw.choice(FORGED[path.suffix] if forged else RANDOM)
    path.write_bytes(change(path.read_bytes(), draw))
    return change.__name__, forged
