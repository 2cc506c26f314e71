# Two commands do everything on a machine with Python >= 3.11 and make: `make demo`, `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow check docs gpu wheel evidence clean

demo: .venv/ready
	$(BIN)/hyperprune demo

test: .venv/ready
	$(BIN)/pytest -n auto -m "not slow"

slow: .venv/ready  ## what `make test` leaves out
	$(BIN)/pytest -m slow

check: .venv/ready  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/ready  ## the site, into site/: offline, every warning is an error
	$(BIN)/python -c "from pathlib import Path; from hyperpruning.experiment import settings_page as page; Path('docs/settings.md').write_text(page())"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean

gpu: .venv/ready  ## checks on a machine with a CUDA GPU, which CI has not; the numbers go into gpu.json
	$(BIN)/python benchmarks/gpu.py

wheel: .venv/ready  ## the wheel in an empty environment runs a search and the examples without the source tree
	rm -rf build/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip install --quiet --constraint constraints.txt build/wheel/*.whl
	cp -r examples build/wheel
	printf '%s\n' '[data]' 'fraction = 0.02' '[training]' 'epochs = 3' '[search]' 'n_candidates = 6' 'rungs = [1]' 'keep = [2]' > build/wheel/small.toml
	cd build/wheel && venv/bin/hyperprune search small.toml
	build/wheel/venv/bin/python -m pip install --quiet --constraint constraints.txt "$$(echo build/wheel/*.whl)[examples]"
	cd build/wheel && for each in examples/*.py examples/denoise; do venv/bin/python $$each --small || exit 1; done

evidence: .venv/ready  ## the tables and figures of docs/results.md, from benchmarks/tables
	$(BIN)/python benchmarks/evidence.py

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed; name one: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis
