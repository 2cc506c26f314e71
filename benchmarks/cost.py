"""What the published decisions cost in epochs: benchmarks/cost.py.

The published search of the stacked LSTM asks for 40 candidates, of which 26 are different, and compares them after
every third epoch; 14, 8, 5, 3 and 2 are kept, and the last two are trained for 100 epochs. The published script trains
each survivor from its beginning in every round. Here a candidate continues from its checkpoint, and none is trained
twice: the same decisions are then counted by the search's own `decide`. Prints a table and writes
benchmarks/results/cost.json.
"""

import json
from pathlib import Path

import hyperpruning as hp
from hyperpruning.search.forecast import epochs_of_one_search

RESULTS = Path(__file__).parent / "results" / "cost.json"
ASKED, DIFFERENT, EPOCHS = 40, 26, 100
RUNGS, KEEP = (3, 6, 9, 12, 15), (14, 8, 5, 3, 2)


def published_script() -> int:
    """Epochs by the published script: duplicates are trained, and every round begins again from the first epoch."""
    ends = [*RUNGS[1:], RUNGS[-1] + 3]  # the last two are trained for a sixth round, too
    rounds = sum(count * end for count, end in zip(KEEP, ends, strict=True))
    return ASKED * RUNGS[0] + rounds + KEEP[-1] * EPOCHS


def ours(candidates: int) -> int:
    """Epochs by `decide`, without the dense reference's."""
    plan = hp.Plan(
        task=None,
        dense_task=None,
        train=hp.TrainConfig(epochs=EPOCHS),
        space=hp.SearchSpace({}),
        n_candidates=candidates,
        rungs=RUNGS,
        keep=KEEP,
        criteria=("ls",),
        as_many_weights=False,
    )
    return epochs_of_one_search(plan, "ls", candidates)


def rows() -> dict[str, int]:
    """Epochs by way of searching."""
    return {
        "the published script": published_script(),
        "with exact resume, 40 different candidates": ours(ASKED),
        "with exact resume, without the duplicates": ours(DIFFERENT),
        "all 40 trained to the end": ASKED * EPOCHS,
    }


def main() -> None:
    """Print the table, write the numbers."""
    found = rows()
    whole = found["the published script"]
    for name, epochs in found.items():
        print(f"{name:<44}{epochs:>6}{epochs / whole:>8.3f}")
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
