"""Speech from a folder of wav files, or a synthetic signal like speech; and noise."""

import sys
import wave

import numpy as np
import torch
from frames import HERTZ, HOP, RATE, signal_of, spectra


def read_speech(folder):
    """The wav files of a folder and those below it, (N,) samples each: 16-bit PCM, the first channel, at 16 kHz."""
    found = [read_wav(path) for path in sorted(folder.rglob("*.wav"))]
    long = [one for one in found if len(one) > 1.1 * RATE and one.any()]
    if len(long) < 3:
        sys.exit(f"--speech must have at least 3 wav files longer than 1.1 s, got {len(long)} in {folder}. Add files.")
    return long


def read_wav(path):
    try:
        with wave.open(str(path)) as file:
            kind, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            raw = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        kind, raw, problem = 0, b"", f"{path} ({error})"
    else:
        problem = f"{8 * kind} bits in {path}"
    if kind != 2:
        sys.exit(f"Speech must be wav files of 16-bit PCM, got {problem}. Convert it: sox IN.wav -b 16 OUT.wav")
    samples = torch.from_numpy(np.frombuffer(raw, "<i2").reshape(-1, channels)[:, 0] / 32768).float()
    if rate == RATE:
        return samples
    length = len(samples) * RATE // rate  # resampled without aliasing: the spectrum is cut, or zeros are added
    return torch.fft.irfft(torch.fft.rfft(samples), n=length) * (length / len(samples))


def synthetic_speech(seed, seconds=4.0):
    """Voiced harmonics under moving formants, fricatives and pauses: (N,) samples of one invented speaker."""
    draw, count = np.random.default_rng(seed), int(seconds * RATE / HOP)
    pitch, tract = draw.uniform(90, 230), draw.uniform(0.85, 1.2)  # Hz; short vocal tracts have higher formants
    voiced, hissing, formants, hiss = np.zeros(count), np.zeros(count), np.zeros((count, 3)), np.ones(count)
    start, target = 0, np.array([500, 1500, 2500]) * tract
    while start < count:  # phones of 50 to 250 ms
        end = start + int(draw.integers(5, 25))
        before, target = target, draw.uniform([250, 800, 2200], [850, 2300, 3200]) * tract
        kind, loud = draw.choice(4, p=[0.55, 0.1, 0.15, 0.2]), draw.uniform(0.3, 1.0)
        voiced[start:end] = loud * (kind <= 1)  # 0: vowel, 1: voiced fricative, 2: fricative, 3: pause
        hissing[start:end] = 0.3 * loud * (kind in (1, 2))
        hiss[start:end] = draw.uniform(2000, 6000)
        way = np.linspace(0, 1, end - start)[: count - start, None]
        formants[start:end] = before + (target - before) * way
        start = end
    glide = np.exp(np.convolve(draw.normal(0, 0.02, count), np.ones(40), "same"))  # of the pitch
    phase = np.cumsum(np.repeat(pitch * glide, HOP)) / RATE
    pulses = np.diff(np.floor(phase), prepend=0) * np.sqrt(RATE / pitch)
    resonances = 1 / (1 + ((HERTZ.numpy() - formants[..., None]) / np.array([60, 90, 140])[:, None]) ** 2)
    tilt = 1 / (1 + HERTZ.numpy() / 700)
    vowel = (resonances * np.array([1, 0.6, 0.3])[:, None]).sum(1) * tilt + 0.002
    consonant = 1 / (1 + np.exp((hiss[:, None] - HERTZ.numpy()) / 300))
    parts = [(pulses, vowel, voiced), (draw.normal(0, 1, len(pulses)), consonant, hissing)]
    smooth = np.hanning(7) / np.hanning(7).sum()
    total = 0
    for source, filtered, level in parts:
        whole = spectra(torch.from_numpy(source).float())
        shape = filtered * np.convolve(level, smooth, "same")[:, None]
        total = total + signal_of(whole * torch.from_numpy(shape[: len(whole)]).float())
    return total


def noise(seed, length):
    """Noise (length,): a random colour, louder and softer, with a hum or clicks in half of the cases each."""
    draw, time = np.random.default_rng(seed), np.arange(length) / RATE
    spectrum = np.fft.rfft(draw.normal(0, 1, length))
    hertz = np.fft.rfftfreq(length, 1 / RATE)
    spectrum *= (hertz + 30.0) ** -draw.uniform(0, 1) * (
        1 + 3 * np.exp(-(((hertz - draw.uniform(0, 6000)) / 500) ** 2))
    )
    found = np.fft.irfft(spectrum, length)
    found *= (
        1 + draw.uniform(0, 0.9) * np.sin(2 * np.pi * (draw.uniform(0.2, 3) * time + draw.random()))
    ) / found.std()
    if draw.random() < 0.5:
        hum = draw.uniform(45, 130)
        found += sum(draw.normal() / k * np.sin(2 * np.pi * k * hum * time) for k in range(1, 12))
    if draw.random() < 0.5:
        found += (draw.random(length) < 3 / RATE) * draw.normal(0, 60, length)
    return torch.from_numpy(found).float()


def mixture(speech, seed):
    """Clean speech (N,) at a level of its own, and the same with noise at 0 to 15 dB below it."""
    draw = np.random.default_rng(seed)
    clean = speech * (0.1 * 10 ** draw.uniform(-0.5, 0.5) / (speech.std() + 1e-9))
    added = noise(seed, len(clean))
    return clean, clean + added * (clean.std() / added.std() * 10 ** (-draw.uniform(0, 15) / 20))
