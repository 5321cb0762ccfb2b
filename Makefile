# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := zoo:digits_resnet
COVERING := $(wildcard tests/test_norms*.py tests/test_rules*.py tests/test_kernel*.py) $(addprefix tests/test_, \
	centring.py chains.py evaluation.py expected.py expressions.py instantiate.py local_blocks.py \
	measures_attention.py mutations.py normalised_attention.py packed_convolution.py proofs.py semidefinite.py \
	shapes.py spectrum.py stacks.py) $(addprefix fimtheory/, inference.py kernel.py measures norms proofs rules)

.PHONY: demo test slow lint coverage reports clean

demo: $(VENV)/.installed
	$(BIN)/fimtheory verify $(DEMO)
	$(BIN)/fimtheory report $(DEMO) --out build

test: $(VENV)/.tested
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

slow: $(VENV)/.tested
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow

lint: $(VENV)/.linted
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# Of the rules, the kernels and the norms, by the tests of these: prints the table, and fails below 95 %.
coverage: $(VENV)/.linted
	OMP_NUM_THREADS=1 $(BIN)/python -m coverage run -m pytest -p no:xdist $(COVERING)
	$(BIN)/python -m coverage report --show-missing

reports: $(VENV)/.installed
	$(BIN)/python reports/build.py

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

$(VENV)/.linted: $(VENV)/.tested
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build
