"""The exported C: no warning of the strictest C99, and the recorded sequence to the bit (int8) or to 1e-6 (float)."""

import shutil
import struct
import subprocess

import pytest
import torch

from hyperpruning.deploy.c_export import export_c
from hyperpruning.deploy.decoder import Decoder
from hyperpruning.models.language_model import LanguageModel
from hyperpruning.models.rhn import RHNLayer
from hyperpruning.models.sequence_model import Forecaster, SequenceClassifier
from packed import sparse

FLAGS = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1"]
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
STEPS = 25
MAIN = """
#include <stdio.h>
#include <string.h>
#include "net.h"
static const %(type)s recorded[] = {%(values)s};
int main(void) {
    static net_state state;
    float output[NET_OUTPUTS];
    printf("%%lu\\n", (unsigned long)sizeof state);
    for (int again = 0; again < 2; again++) {
        net_reset(&state);
        for (int t = 0; t < %(steps)d; t++) {
            if (net_step(&state, %(input)s, output)) return 1;
            for (int j = 0; again && j < NET_OUTPUTS; j++) {
                uint32_t bits;
                memcpy(&bits, output + j, 4);
                printf("%%lx\\n", (unsigned long)bits);
            }
        }
    }
    %(refused)s
    return 0;
}
"""
NETWORKS = {
    "lstm of tokens": lambda: LanguageModel(20, embedding=12, hidden=24, layers=2),
    "gru, mean": lambda: SequenceClassifier(5, 3, hidden=20, pool="mean"),
    "rnn, forecast": lambda: Forecaster(4, 3, cell="rnn", hidden=17),
    "rhn layer": lambda: RHNLayer(6, 18, depth=2),
}


def made(name):
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    with torch.no_grad():
        for value in network.parameters():
            if value.ndim == 2:
                value.mul_(sparse(*value.shape, 0.3, seed=1) != 0)
    return network


def outputs(folder, network, compiler):
    """What a main() prints after compiling: the size of a state, and the outputs (steps, outputs)."""
    tokens = isinstance(network, LanguageModel)
    width = 1 if tokens else {"RHNLayer": 6, "SequenceClassifier": 5, "Forecaster": 4}[type(network).__name__]
    x = torch.randint(20, (STEPS,)) if tokens else torch.randn(STEPS, width)
    text = {
        "type": "int32_t" if tokens else "float",
        "values": ",".join(f"{value!r}" for value in x.flatten().tolist()),
        "steps": STEPS,
        "input": "recorded[t]" if tokens else f"recorded + {width} * t",
        "refused": "if (net_step(&state, NET_INPUTS, output) != 1) return 1;" if tokens else "",
    }
    (folder / "main.c").write_text(MAIN % text)
    subprocess.run([compiler, *FLAGS, "net.c", "main.c", "-o", "net"], cwd=folder, check=True)
    size, *words = subprocess.run([folder / "net"], check=True, capture_output=True, text=True).stdout.split()
    numbers = [struct.unpack("f", struct.pack("I", int(word, 16)))[0] for word in words]
    return x, int(size), torch.tensor(numbers).view(STEPS, -1)


@pytest.mark.skipif(not COMPILERS, reason="no C compiler")
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("precision", ["exact", "int8"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_exported_c_reproduces_a_recorded_sequence(tmp_path, name, precision, compiler):
    network = made(name)
    written = export_c(network, tmp_path / "net.c", precision=precision)
    x, size, found = outputs(tmp_path, network, compiler)
    decoder = Decoder(network, precision=precision)
    expected = torch.stack([decoder.step(one[None])[0].flatten() for one in x])
    assert size == written.state
    for path in (written.source, written.header):
        assert f"{written.constants:,} bytes of constants, {size:,} bytes for each state" in path.read_text()
    if precision == "int8":
        assert found.equal(expected)
    else:
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_exported_c_allocates_nothing_and_has_no_variables(tmp_path):
    text = export_c(made("gru, mean"), tmp_path / "net.c").source.read_text()
    assert "malloc" not in text
    assert not [line for line in text.splitlines() if line.startswith(("float ", "int32_t hp", "void hp"))]


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("net.cpp", {}, "must be named as a C identifier with .c, got net.cpp"),
        ("2nd.c", {}, "must be named as a C identifier with .c, got 2nd.c"),
        ("net.c", {"precision": "fp16"}, "precision of a C file must be one of exact, int8, got 'fp16'"),
    ],
)
def test_what_c_cannot_have_is_refused(tmp_path, name, options, says):
    with pytest.raises(ValueError, match=says):
        export_c(made("gru, mean"), tmp_path / name, **options)


def test_a_mixture_of_softmaxes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must have one softmax, got a mixture of softmaxes"):
        export_c(LanguageModel(20, embedding=12, hidden=12, experts=2), tmp_path / "net.c")
    assert not list(tmp_path.iterdir())
