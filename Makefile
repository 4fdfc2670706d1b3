# Two commands are all a newcomer needs: `make up` and `make test`. Both call `make setup` first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.switchgear-setup

.PHONY: up down setup test test-long lint fmt lock crds charts images images-files bench clean

up: setup
	$(BIN)/switchgear up --demo

down: setup
	$(BIN)/switchgear down

setup: $(STAMP)

$(STAMP): locks/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] < (3, 15) else "Switchgear needs Python 3.11 to 3.14, and $(PYTHON) is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12")'
	@$(PYTHON) locks/environment.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: setup lint
	$(BIN)/python -m tests.run

test-long: setup
	$(BIN)/python -m tests.run --long

crds: setup
	$(BIN)/python -m switchgear_model.crds crds

charts: setup
	$(BIN)/python -m charts

# By a container engine where there is one, else (on Debian 12) as OCI archives in dist/images.
images: setup
	$(BIN)/python -m images

images-files: setup
	$(BIN)/python -m images files

# Needs uv (`pip install uv`): resolves again and writes the hashed lock.
lock:
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header pyproject.toml --extra local --extra infra --group dev --no-emit-package switchgear -o locks/dev.txt
	printf '%s\n' pulumi-aws pulumi-eks pulumi-gcp pulumi-azure-native | uv pip compile -q --no-deps --universal --python-version 3.11 --generate-hashes --no-header - -o locks/clouds.txt
	$(BIN)/python -m images files

bench: setup
	$(BIN)/python -m bench
	$(BIN)/python -m bench.sync

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
