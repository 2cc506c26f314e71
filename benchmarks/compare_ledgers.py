"""Compare the ledger of a run with one that an older version wrote: python benchmarks/compare_ledgers.py OLD NEW.

Older versions called some fields otherwise (`RENAMED`, and the settings in the header). All else must be equal to the
last digit: candidates, losses, spectra, densities, decisions, and the SHA-256 of every final network, line by line.
Exits with 1 when anything differs.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from hyperpruning.search.ledger import LEDGER

RENAMED = {"generation": "batch", "point": "config", "objective": "criterion"}


def facts(folder: Path) -> list[dict[str, Any]]:
    """The lines of a ledger but the header, by their new names and without their checksums."""
    found = []
    for line in (folder / LEDGER).read_text().splitlines():
        fact = {RENAMED.get(key, key): value for key, value in json.loads(line).items() if key != "check"}
        if fact["kind"] != "search":
            found.append(fact)
    return found


def main() -> None:
    """Read both, print what was compared and what differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, help="a run folder")
    parser.add_argument("new", type=Path, help="a run folder")
    options = parser.parse_args()
    old, new = facts(options.old), facts(options.new)
    different = [number for number, (a, b) in enumerate(zip(old, new, strict=False), start=2) if a != b]
    hashes = [fact["sha256"] for fact in new if fact["kind"] == "final"]
    print(f"{len(old)} and {len(new)} facts: {dict(Counter(fact['kind'] for fact in new))}")
    print(f"{len(hashes)} final networks; different lines: {different or 'none'}")
    for number in different[:3]:
        print(f"line {number}:\n  {old[number - 2]}\n  {new[number - 2]}")
    raise SystemExit(bool(different) or len(old) != len(new))


if __name__ == "__main__":
    main()
