"""A denoiser in the decoder and as C: what a frame costs, and how much cleaner unheard signals become."""

import ctypes
import math
import statistics
import subprocess
import time
from functools import partial

import torch
from frames import BANDS, WINDOW, apply_gains, energies, features, si_sdr, signal_of, spectra

import hyperpruning as hp
from hyperpruning.deploy.c_export import export_c
from hyperpruning.deploy.compiler import FLAGS, CompilerError, find_compiler

FRAME = 10_000  # microseconds from one frame to the next
TIMED = 20  # frames: so few that other programs do not come between
LOOP = """
#include "denoiser.h"
void run(denoiser_state *state, const float *x, int frames, float *y) {
    denoiser_reset(state);
    for (int t = 0; t < frames; t++) denoiser_step(state, x + DENOISER_INPUTS * t, y + DENOISER_OUTPUTS * t);
}
"""


def measured(networks, mixtures, folder):
    """For each network: its weights, bytes as C, microseconds of a frame, and dB gained in SI-SDR."""
    heard = features(energies(spectra(mixtures[0][1])))  # (T, 18)
    jobs, found = {}, {}
    for name, network in networks.items():
        exact, int8 = (hp.Decoder(network, precision=precision) for precision in ("exact", "int8"))
        in_c, size = as_c(network, folder / name.replace(", ", "_").replace(" ", "_"))
        found[name] = {
            "weights": sum(int(one.count_nonzero()) for one in network.parameters() if one.ndim == 2),
            "bytes": size,
            "dB": improvement(exact, mixtures),
            "int8 dB": improvement(int8, mixtures),
        }
        jobs[name, "us"], jobs[name, "int8 us"] = partial(stepped, exact), partial(stepped, int8)
        if in_c is not None:
            jobs[name, "C us"] = in_c
            if not in_c(heard).equal(stepped(int8, heard)):
                raise AssertionError("The exported C must give the bits of the int8 decoder, got others.")
    for (name, what), seconds in shortest(jobs, heard[:TIMED]).items():
        found[name][what] = 1e6 * seconds / TIMED
    return found


def stepped(decoder, heard):
    """The outputs (T, 18) of a decoder, frame by frame."""
    decoder.reset()
    return torch.cat([decoder.step(frame) for frame in heard.split(1)])


def improvement(decoder, mixtures):
    """The mean gain in SI-SDR in dB; the first and the last 20 ms are left out."""
    gained = []
    for clean, noisy in mixtures:
        whole = spectra(noisy)
        estimate = signal_of(apply_gains(whole, torch.sigmoid(stepped(decoder, features(energies(whole))))))
        inside = slice(WINDOW, len(estimate) - WINDOW)
        gained.append(si_sdr(estimate[inside], clean[inside]) - si_sdr(noisy[inside], clean[inside]))
    return statistics.mean(gained)


def as_c(network, folder):
    """The network as C with int8 weights, compiled: frames (T, 18) -> outputs (T, 18); and its bytes of constants."""
    folder.mkdir(parents=True, exist_ok=True)
    written = export_c(network, folder / "denoiser.c", precision="int8")
    (folder / "loop.c").write_text(LOOP)
    try:
        command = [*find_compiler(), *FLAGS, "denoiser.c", "loop.c", "-o", "denoiser.so", "-lm"]
    except CompilerError as error:
        print(error)
        return None, written.constants
    subprocess.run(command, cwd=folder, check=True)
    library, state = ctypes.CDLL(str(folder / "denoiser.so")), ctypes.create_string_buffer(written.state)

    def run(heard):
        outputs = torch.empty(len(heard), BANDS)
        address = ctypes.c_void_p
        library.run(state, address(heard.data_ptr()), len(heard), address(outputs.data_ptr()))
        return outputs

    return run, written.constants


def shortest(jobs, heard, rounds=400):
    """Seconds of each job on these frames, the least of some rounds; the jobs take turns."""
    best = dict.fromkeys(jobs, math.inf)
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.perf_counter()
            job(heard)
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def markdown(results):
    """The table of one dict of `measured` for each seed: means; for the quality also standard deviations."""
    columns = ["network", "weights", "bytes in C", "us: decoder, exact", "decoder, int8", "C, int8", "real-time factor"]
    columns += ["gain error", "dB gained, exact", "dB gained, int8"]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for name, first in results[0].items():
        seeds = {key: [result[name][key] for result in results] for key in first}
        mean = {key: statistics.mean(values) for key, values in seeds.items()}
        spread = {key: f" ± {statistics.stdev(values):.2f}" for key, values in seeds.items() if len(values) > 1}
        cells = [f"{mean['weights']:,.0f}", f"{mean['bytes']:,.0f}", f"{mean['us']:.1f}", f"{mean['int8 us']:.1f}"]
        cells += [f"{mean['C us']:.2f}" if "C us" in mean else "-"]
        cells += [f"{mean.get('C us', mean['int8 us']) / FRAME:.5f}", f"{mean['gain error']:.4f}"]
        cells += [f"{mean[key]:.2f}{spread.get(key, '')}" for key in ("dB", "int8 dB")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
