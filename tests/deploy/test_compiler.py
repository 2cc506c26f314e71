"""Compiling the kernel: once, into a cache; without a compiler, a warning says why and torch computes."""

import shutil
import warnings

import pytest
import torch
from torch import nn

from hyperpruning.deploy import compiler
from hyperpruning.deploy.compiler import CompilerError, cache_folder, compile_kernel, find_compiler, load_kernel
from hyperpruning.deploy.decoder import Decoder

needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in compiler.COMPILERS), reason="there is no C compiler here"
)


@pytest.fixture
def small_source(tmp_path, monkeypatch):
    """A kernel that compiles at once."""
    source = tmp_path / "kernel.c"
    source.write_text("int hp_has_build(int b) { return !b; } void hp_product(void) {} int hp_step(void) { return 0; }")
    monkeypatch.setattr(compiler, "SOURCE", source)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return source


@needs_compiler
def test_a_kernel_is_compiled_once(small_source, monkeypatch):
    path = compile_kernel()
    assert path.parent == cache_folder()
    assert [file.name for file in cache_folder().iterdir()] == [path.name]  # nothing temporary is left
    before = path.stat().st_mtime_ns
    assert compile_kernel() == path
    assert path.stat().st_mtime_ns == before
    small_source.write_text(small_source.read_text() + "\n")
    other = compile_kernel()
    assert other != path
    monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-DX"))
    assert compile_kernel() not in (path, other)


@needs_compiler
def test_a_cache_that_cannot_be_written_is_replaced(small_source, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert compile_kernel().is_file()


@needs_compiler
def test_a_damaged_library_is_explained(small_source):
    path = compile_kernel()
    path.write_bytes(b"damaged")
    with pytest.raises(CompilerError, match=r"must be a library of this machine, got .*Remove it"):
        load_kernel(path)


@needs_compiler
def test_the_variable_names_the_compiler_with_its_options(small_source, monkeypatch):
    monkeypatch.setenv(compiler.VARIABLE, "cc -DNAMED=1")
    assert find_compiler() == ["cc", "-DNAMED=1"]
    assert compile_kernel().is_file()


def no_compiler(monkeypatch):
    monkeypatch.delenv(compiler.VARIABLE, raising=False)
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    return "needs a C compiler, got none of cc, gcc, clang on the path. Install gcc or clang"


def missing_compiler(monkeypatch):
    monkeypatch.setenv(compiler.VARIABLE, "/nowhere/cc")
    return "got this from /nowhere/cc: .*No such file"


def failing_compiler(monkeypatch, tmp_path):
    script = tmp_path / "broken"
    script.write_text(
        '#!/bin/sh\ncase "$1" in --version) echo 1 ;; *) echo "fatal: the disk is full" >&2; exit 1 ;; esac'
    )
    script.chmod(0o755)
    monkeypatch.setenv(compiler.VARIABLE, str(script))
    return "got this from .*broken: fatal: the disk is full"


@pytest.mark.parametrize("precision", ["exact", "int8"])
@pytest.mark.parametrize("kind", ["none", "missing", "failing"])
def test_without_a_compiler_torch_computes_and_one_warning_says_why(kind, precision, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    broken = {
        "none": lambda: no_compiler(monkeypatch),
        "missing": lambda: missing_compiler(monkeypatch),
        "failing": lambda: failing_compiler(monkeypatch, tmp_path),
    }
    says = broken[kind]()
    network, x = nn.GRU(5, 7).eval(), torch.randn(4, 1, 5)
    with pytest.warns(UserWarning, match=says) as warned:
        decoder = Decoder(network, precision=precision)
    assert len(warned) == 1
    assert str(warned[0].message).endswith("The decoder computes in torch until then, which is slower.")
    assert decoder.instructions == "torch"
    assert "torch" in repr(decoder)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        expected = network(x)[0][-1]
        found = [decoder.step(one) for one in x][-1]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 if precision == "exact" else 0.02)
