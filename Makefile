# Two commands do everything: `make demo` (the main job on the embedded default) and `make test`. Both install first.
PYTHON ?= $(shell for p in python3 python3.11 python3.12; do $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PROJECT ?= clippo
DOMAIN ?= production
# Address of an index that has torch's CPU builds (torch's page on installing names one); empty = the usual torch.
TORCH_INDEX_URL ?=
# The client's configuration, and the images' names.
FLYTE ?= flyte.yaml
# One code, one image, one version: images are tagged with the commit, and what is registered is named after the commit and the shape.
COMMIT := $(shell git rev-parse --short=12 HEAD)
VERSION ?= $(COMMIT)-$(or $(CLIPPO_CLUSTER),laptop)
TRAIN_IMAGE = $(shell sed -n 's/^  train: //p' $(FLYTE)):$(COMMIT)
CPU_IMAGE = $(shell sed -n 's/^  cpu: //p' $(FLYTE)):$(COMMIT)
IMAGES = --image "train=$(TRAIN_IMAGE)" --image "cpu=$(CPU_IMAGE)"
PYFLYTE := $(BIN)/pyflyte -c $(FLYTE)
CLUSTER = $(BIN)/python tools/cluster.py --configuration $(FLYTE) --project $(PROJECT) --domain $(DOMAIN)
# One process per core, but no more than eight: each of them imports torch. The tests of a file stay in
# one process, for many files train one model that all their tests read.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

.PHONY: setup help demo photos test test-slow test-nightly test-gpu fuzz check bench package images register preflight run \
	activate deactivate abort relaunch clean

setup: $(VENV)/.installed ## make .venv and install both locks; TORCH_INDEX_URL=ADDRESS takes torch from there (CPU build)

help: ## this list
	@awk -F ':.*## ' '/^[a-z][a-z -]*:.*## /{printf "%-22s%s\n", $$1, $$2}' Makefile

$(VENV)/.installed: requirements.lock requirements-dev.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed, and neither was found; install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing requirements.lock and requirements-dev.lock into $(VENV) (some minutes, once) ..."
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX_URL),grep -E '^torch(vision)?==' requirements.lock | xargs $(BIN)/python -m pip install --quiet \
		--disable-pip-version-check --no-deps --index-url "$(TORCH_INDEX_URL)")
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-r requirements.lock -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## the whole pipeline on handwritten numbers
	$(BIN)/pyflyte run workflows demo

photos: setup ## the whole pipeline on real photos: make photos DATA=FOLDER, which holds flickr8k, flickr30k_multi30k and glue
	@test -n "$(DATA)" || { echo "Name the folder of flickr8k, flickr30k_multi30k and glue: make photos DATA=FOLDER"; exit 1; }
	@mkdir -p build
	$(BIN)/clippo preset photos --data "$(abspath $(DATA))" > build/photos.json
	$(BIN)/pyflyte run workflows pretrain_and_evaluate --config build/photos.json

test: setup ## the default tests
	$(PYTEST)

test-slow: setup ## the tests that take minutes
	$(PYTEST) -m "slow and not nightly"

fuzz: setup ## damaged files against one decoder or reader: make fuzz FORMAT=tar SECONDS=600
	$(BIN)/python tests/fuzz/fuzz.py $(or $(FORMAT),json) --seconds $(or $(SECONDS),60)

test-nightly: setup ## soaks and many-seed runs
	$(PYTEST) -m nightly

test-gpu: setup ## the tests that need a CUDA device, one after the other; without one all are skipped
	$(BIN)/python -m pytest -m gpu tests/gpu

check: setup ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# These train for up to an hour each, or want a GPU; run them by hand.
STUDIES := benchmarks/towers.py benchmarks/sentences.py benchmarks/robustness.py benchmarks/blank_rows.py benchmarks/gpu.py benchmarks/precision.py benchmarks/reading.py

bench: setup ## every benchmark that runs on this machine within minutes, and RESULTS.md from their figures
	@for question in $(filter-out $(STUDIES) benchmarks/measure.py,$(wildcard benchmarks/*.py)); do echo "== $$question"; $(BIN)/python $$question || exit 1; done
	$(BIN)/python benchmarks/measure.py

package: setup ## the protobufs that a cluster would get, without a cluster
	@mkdir -p build
	$(PYFLYTE) --pkgs workflows package --force $(IMAGES) --output build/workflows.tgz

committed:
	@test -z "$$(git status --porcelain -- clippo_core tasks workflows requirements.lock containers)" || { \
		echo "Commit first: images and versions are named after the commit, and these files differ from it:"; \
		git status --porcelain -- clippo_core tasks workflows requirements.lock containers; exit 1; }

images: committed ## build and push both images, tagged with the commit
	docker build -f containers/train.Dockerfile -t "$(TRAIN_IMAGE)" . && docker push "$(TRAIN_IMAGE)"
	docker build -f containers/cpu.Dockerfile -t "$(CPU_IMAGE)" . && docker push "$(CPU_IMAGE)"

register: setup committed ## register workflows and launch plans, inactive
	$(PYFLYTE) register workflows --project $(PROJECT) --domain $(DOMAIN) --copy none $(IMAGES) --version "$(VERSION)"

preflight: setup ## all that a cluster lacks: make preflight ROOT=s3://bucket/runs
	$(CLUSTER) preflight --version "$(VERSION)" --root "$(ROOT)"

run: setup ## launch the registered version: make run CONFIG=run.json; PLAN=demo brings its own data
	$(CLUSTER) run "$(or $(PLAN),pretrain_and_evaluate)" --version "$(VERSION)" --config "$(CONFIG)"

activate: setup ## switch one launch plan on: make activate PLAN=weekly_retraining
	$(PYFLYTE) launchplan --project $(PROJECT) --domain $(DOMAIN) --activate "$(PLAN)" "$(VERSION)"

deactivate: setup ## switch one launch plan off, whichever version is active
	$(CLUSTER) deactivate "$(PLAN)"

abort: setup ## stop an execution: make abort EXECUTION=f2c9a1b0 WHY='wrong data'
	$(CLUSTER) abort "$(EXECUTION)" --why "$(or $(WHY),stopped by hand)"

relaunch: setup ## start an execution once more, with its version and inputs: make relaunch EXECUTION=f2c9a1b0
	$(CLUSTER) relaunch "$(EXECUTION)"

clean: ## remove results of local runs and Flyte's local cache of them
	rm -rf runs build
	$(BIN)/pyflyte local-cache clear
