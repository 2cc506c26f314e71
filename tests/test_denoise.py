"""examples/denoise: its signals, its frames, what it measures, and the table on the page."""

import json
import runpy
import sys
import wave
from argparse import Namespace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "denoise"
RESULTS = ROOT / "benchmarks" / "results" / "denoise.json"


@pytest.fixture
def example(monkeypatch):
    """The names of the example's files, together."""
    monkeypatch.syspath_prepend(FOLDER)
    names = runpy.run_path(str(FOLDER / "__main__.py"))
    yield names | vars(sys.modules["frames"]) | vars(sys.modules["sounds"]) | vars(sys.modules["deployed"])
    for name in ("frames", "sounds", "deployed"):
        del sys.modules[name]  # other examples could have files of these names


def write_wav(path, samples, *, rate=16_000, width=2, channels=1):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        values = (samples[:, None].expand(-1, channels) * 30_000).short()
        file.writeframes(values.numpy().tobytes() if width == 2 else bytes(len(samples) * channels))


def test_frames_are_inverted_and_bands_cover_every_bin(example):
    signal = torch.randn(3200, generator=torch.Generator().manual_seed(0))
    back = example["signal_of"](example["spectra"](signal))
    torch.testing.assert_close(back[160:-160], signal[160:-160], atol=1e-5, rtol=0)
    torch.testing.assert_close(example["TRIANGLES"].sum(0), torch.ones(161))
    assert example["TRIANGLES"].shape == (18, 161)


def test_ideal_gains_make_speech_cleaner(example):
    for seed in range(3):
        clean, noisy = example["mixture"](example["synthetic_speech"](seed), seed)
        heard = example["spectra"](noisy)
        gains = example["gains"](*(example["energies"](example["spectra"](one)) for one in (clean, noisy)))
        estimate = example["signal_of"](example["apply_gains"](heard, gains))
        inside = slice(320, len(estimate) - 320)
        assert example["si_sdr"](estimate[inside], clean[inside]) > example["si_sdr"](noisy[inside], clean[inside]) + 3


def test_the_ratio_is_that_of_its_definition(example):
    clean = torch.tensor([1.0, 0.0, 0.0, 0.0])
    assert example["si_sdr"](torch.tensor([2.0, 0.2, 0.0, 0.0]), clean) == pytest.approx(20.0)  # whatever the scale


def test_synthetic_signals_repeat_and_differ(example):
    first, again, other = (example["synthetic_speech"](seed, 1.0) for seed in (1, 1, 2))
    assert first.equal(again)
    assert not first.equal(other)
    assert example["noise"](1, 1000).equal(example["noise"](1, 1000))


def test_wav_files_are_read_and_resampled(example, tmp_path):
    time = torch.arange(96_000) / 48_000
    tone = torch.sin(2 * torch.pi * 440 * time) * torch.hann_window(96_000)
    for number in range(3):
        write_wav(tmp_path / f"{number}.wav", tone, rate=48_000, channels=2)
    write_wav(tmp_path / "short.wav", torch.ones(5000))
    found = example["read_speech"](tmp_path)
    assert [len(one) for one in found] == [32_000] * 3
    torch.testing.assert_close(found[0], tone[::3] * 30_000 / 32_768, atol=2e-3, rtol=0)
    mixtures = example["split_mixtures"](Namespace(speech=tmp_path, small=False))
    assert {split: len(one) for split, one in mixtures.items()} == {"test": 1, "valid": 1, "train": 1}
    assert example["samples"](mixtures["train"])[0].shape == (1, 100, 18)


def test_other_files_are_refused(example, tmp_path):
    with pytest.raises(SystemExit, match=r"at least 3 wav files longer than 1\.1 s, got 0"):
        example["read_speech"](tmp_path)
    write_wav(tmp_path / "a.wav", torch.zeros(100), width=1)
    with pytest.raises(SystemExit, match=r"16-bit PCM, got 8 bits in .*a\.wav"):
        example["read_wav"](tmp_path / "a.wav")
    (tmp_path / "b.wav").write_bytes(b"no sound")
    with pytest.raises(SystemExit, match=r"16-bit PCM, got .*b\.wav"):
        example["read_wav"](tmp_path / "b.wav")


def test_a_denoiser_is_measured_in_the_decoder_and_as_c(example, tmp_path):
    mixtures = [example["mixture"](example["synthetic_speech"](seed, 0.6), seed) for seed in range(2)]
    network = example["Denoiser"](8).eval()
    found = example["measured"]({"dense": network}, mixtures, tmp_path)["dense"]
    assert found["weights"] == 3 * 8 * (18 + 8) + 18 * 8
    assert found["dB"] == pytest.approx(found["int8 dB"], abs=0.2)
    bands = example["features"](example["energies"](example["spectra"](mixtures[0][1])))
    outputs = example["stepped"](example["hp"].Decoder(network), bands)
    torch.testing.assert_close(torch.sigmoid(outputs), network(bands[None])[0].detach())
    assert "| dense | 768 |" in example["markdown"]([{"dense": found | {"gain error": 0.1}}])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_small_form_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(FOLDER), "--small", "--out", str(tmp_path)])
    runpy.run_path(str(FOLDER), run_name="__main__")
    printed = capsys.readouterr().out
    assert "The speech is synthetic" in printed
    for name in ("dense", "dense, as many weights", "pruned, single weights", "pruned, blocks of 8 x 4"):
        assert f"| {name} |" in printed
    assert json.loads((tmp_path / "results.json").read_text())


def test_the_page_has_the_measured_table(example):
    table = example["markdown"](json.loads(RESULTS.read_text()))
    assert table in (ROOT / "docs" / "deployment.md").read_text()
