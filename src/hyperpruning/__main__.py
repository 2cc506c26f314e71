"""The entry point of the command `hyperprune`: a guard round the seconds that importing torch takes."""

import sys


def main() -> None:
    """Run the command; Ctrl-C is no traceback, even now."""
    try:
        from hyperpruning.cli import main as command
    except KeyboardInterrupt:
        sys.stderr.write("Stopped.\n")
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
