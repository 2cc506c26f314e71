"""A streaming speech denoiser: bands -> GRU -> gains, pruned by a search, then run by the decoder and as C.

    python examples/denoise [--speech FOLDER] [--seeds 3] [--out FOLDER]

The speech is that of the wav files, or a synthetic signal; the noise is generated. One search prunes single weights, a
second one blocks of 8 x 4. Both search under a latency target: a frame takes half as long as in the dense network. The
decoder is measured here before each search, and gives each matrix its number of weights.
"""

import argparse
import json
import random
import tempfile
from functools import partial
from pathlib import Path

import torch
from deployed import markdown, measured
from frames import BANDS, energies, features, gains, spectra
from sounds import mixture, read_speech, synthetic_speech
from torch.nn.functional import mse_loss

import hyperpruning as hp
from hyperpruning.exports import network_of
from hyperpruning.models.sequence_model import SequenceClassifier

SEGMENT = 100  # frames
METHODS = ("gmp", "rigl-erk", "selfish-rnn-gates")
UNTIL = 0.375  # of the training: densities have fallen, and candidates are compared


class Denoiser(SequenceClassifier):  # the decoder knows it: it gives the output layer's values after every step
    def __init__(self, hidden, seed=0):
        super().__init__(BANDS, BANDS, hidden=hidden, seed=seed)

    def forward(self, bands):  # (B, T, 18) -> gains (B, T, 18)
        return torch.sigmoid(self.output(self.rnn(bands.transpose(0, 1))[0])).transpose(0, 1)


def loss(network, batch):
    return mse_loss(network(batch[0]).sqrt(), batch[1].sqrt())  # of square roots, as in RNNoise


def samples(mixtures):
    """Segments of what the network reads and of the ideal gains, (N, 100, 18) each."""
    found = [(energies(spectra(clean)), energies(spectra(noisy))) for clean, noisy in mixtures]
    pairs = [(features(noisy), gains(clean, noisy)) for clean, noisy in found]
    joined = [torch.cat(part) for part in zip(*pairs, strict=True)]
    return tuple(part[: len(part) // SEGMENT * SEGMENT].view(-1, SEGMENT, BANDS) for part in joined)


def split_mixtures(options):
    """(clean, noisy) of each split; a speaker or a file is in one split alone."""
    count = 12 if options.small else 200
    seconds = 1.2 if options.small else 4.0
    if options.speech is None:
        print("The speech is synthetic. --speech FOLDER reads wav files.", flush=True)
        speech = [synthetic_speech(seed, seconds) for seed in range(count)]
    else:
        speech = read_speech(options.speech)
        random.Random(0).shuffle(speech)
    held_out = max(1, len(speech) // 10)
    mixed = [mixture(one, seed) for seed, one in enumerate(speech)]
    return {"test": mixed[:held_out], "valid": mixed[held_out : 2 * held_out], "train": mixed[2 * held_out :]}


def searched(task, options, seed, folder):
    """The networks by name: "dense", "as many weights", and the winner of each granularity."""
    epochs, methods = (2, METHODS[:2]) if options.small else (options.epochs, METHODS)
    train = hp.TrainConfig(epochs=epochs, lr=0.01, schedule="cosine", seed=seed)
    plan = partial(
        hp.Plan,
        task=task,
        dense_task=task,
        train=train,
        latency=options.latency,
        n_candidates=len(methods),
        ask_batch=len(methods),
        rungs=(train.epochs_in(UNTIL),),
        keep=(1,),
        spectrum=hp.SpectrumConfig(warmup=20),
    )
    networks = {}
    for granularity, named in (("weight", "single weights"), ("block_8x4", "blocks of 8 x 4")):
        space = hp.SearchSpace({"method": methods, "granularity": (granularity,), "density_until": (UNTIL,)})
        first = not networks  # the second search has the dense network of the first as its reference
        run = plan(space=space) if first else plan(space=space, dense=networks["dense"], as_many_weights=False)
        history = hp.hyperprune(run, folder / granularity)
        if first:
            networks["dense"] = network_of(folder / granularity, run, candidate="dense")
            networks["dense, as many weights"] = network_of(folder / granularity, run, candidate="small")
        name = min(history.winners.values(), key=lambda name: history.finals[name].valid_loss)
        print(f"seed {seed}, {named}: {history.candidates[name].config['method']} wins", flush=True)
        networks[f"pruned, {named}"] = network_of(folder / granularity, run, candidate=name)
    return networks


def main():
    """Search, export, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--speech", type=Path, help="a folder of wav files, 16-bit PCM")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of the whole; the table has their mean")
    parser.add_argument("--out", type=Path, help="for the runs, the C files and results.json; goes on where it stopped")
    parser.add_argument("--hidden", type=int, default=256, help="units of the GRU")
    parser.add_argument("--latency", default="0.5x", help="of a frame in the decoder, e.g. 0.5x or 6us")
    parser.add_argument("--epochs", type=int, default=16, help="of a full training")
    parser.add_argument("--small", action="store_true", help="seconds, and shows nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    hidden = 128 if options.small else options.hidden
    if options.small:
        options.latency = "0.9x"  # a small network spends most of its time outside its matrices
    out = options.out or Path(tempfile.mkdtemp())
    mixtures = split_mixtures(options)
    data = {split: samples(one) for split, one in mixtures.items()}
    task = hp.SupervisedTask(
        Denoiser, data, loss, sizes={"hidden": hidden}, batch=16, metric=hp.Metric("gain error", unit="")
    )
    kept = out / "results.json"
    results = json.loads(kept.read_text()) if kept.exists() else []
    for seed in range(len(results), options.seeds):
        networks = searched(task, options, seed, out / f"seed{seed}")
        found = measured(networks, mixtures["test"], out / f"seed{seed}" / "c")
        for name, network in networks.items():
            found[name]["gain error"] = task.evaluate(network, "test")
        results.append(found)
        kept.write_text(json.dumps(results, indent=1) + "\n")
    print(markdown(results))


if __name__ == "__main__":
    main()
