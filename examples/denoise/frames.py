"""Signals <-> frames <-> bands: windows of 20 ms every 10 ms, and RNNoise's bands, of which 18 lie below 8 kHz."""

import torch
from torch.nn.functional import fold

RATE, WINDOW, HOP = 16_000, 320, 160  # samples
EDGES = [0, 200, 400, 600, 800, 1000, 1200, 1400, 1600, 2000, 2400, 2800, 3200, 4000, 4800, 5600, 6800, 8000]  # Hz
BANDS = len(EDGES)
HERTZ = torch.fft.rfftfreq(WINDOW, 1 / RATE)  # of each of the 161 bins
SHAPE = torch.hann_window(WINDOW).sqrt()


def triangles():
    """Weights (18, 161): a band falls linearly from its centre to the centres of its neighbours."""
    edges = torch.tensor([-1.0, *EDGES, 9000.0])
    rising = (HERTZ - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - HERTZ) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0)


TRIANGLES = triangles()


def spectra(signal):
    """(N,) samples -> complex (T, 161)."""
    return torch.fft.rfft(signal.unfold(0, WINDOW, HOP) * SHAPE)


def signal_of(spectra):
    """The inverse of `spectra`, but for the first and the last 10 ms: windows are added where they overlap."""
    frames, length = torch.fft.irfft(spectra, n=WINDOW) * SHAPE, (len(spectra) - 1) * HOP + WINDOW
    return fold(frames.T[None], (1, length), (1, WINDOW), stride=(1, HOP)).flatten()


def energies(spectra):
    """Complex (T, 161) -> energies of the bands (T, 18)."""
    return spectra.abs().square() @ TRIANGLES.T


def features(energies):
    """What the network reads: logarithms of the bands' energies, of about unit scale."""
    return torch.log10(energies + 1e-4)


def gains(clean, noisy):
    """The gains (T, 18) that give each noisy band the energy of the clean one, at most 1."""
    return (clean / (noisy + 1e-9)).clamp(max=1).sqrt()


def apply_gains(spectra, gains):
    """The noisy spectra (T, 161) with a gain for each bin, between those of its bands."""
    return spectra * (gains @ TRIANGLES)


def si_sdr(estimate, clean):
    """The scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019)."""
    target = estimate.dot(clean) / clean.dot(clean) * clean
    return float(10 * torch.log10(target.square().sum() / (estimate - target).square().sum()))
