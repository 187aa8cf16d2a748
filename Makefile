# `make demo`: French text to a scaling law and generated French. `make test`: the checks. Each sets itself up.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUNS ?= runs/demo
# Two simulated devices, so that the demonstration trains on a sharded mesh; an accelerator is used as it is.
DEMO_ENV := XLA_FLAGS="$$XLA_FLAGS --xla_force_host_platform_device_count=2"

.PHONY: demo test test-slow lint benchmark clean

demo: $(VENV)/.data
	$(DEMO_ENV) $(BIN)/pagnol ladder --gin_file gin/ladders/demo.gin --output $(RUNS)
	$(BIN)/pagnol scaling fit $(RUNS)
	$(BIN)/pagnol scaling plot $(RUNS) --output $(RUNS)/law.png
	$(BIN)/pagnol generate --model $(RUNS)/5 --mode nucleus --max_tokens 80 \
	  "La commande ls affiche" "Pour ouvrir un document, cliquez sur"
	@echo "figure: $(RUNS)/law.png"

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n auto --dist loadfile

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck tpu_scripts/*.sh

# One rule for both: .data is what the demonstration needs, .dev adds torch, transformers and the checkers.
$(VENV)/.data $(VENV)/.dev: $(VENV)/.%: pyproject.toml | $(VENV)
	@echo "setting up: installing pagnol_jax[$*] into $(VENV), a few minutes"
	@$(BIN)/python -m pip install --retries 1 -e '.[$*]' 2> $(VENV)/install.log \
	  | awk '/^ *(Collecting|Downloading|Installing|Building)/ {printf "\r\033[K%.78s", $$0; fflush()} END {print ""}' \
	  || { echo "pagnol: packages are missing and could not be installed: is a package index reachable? ($(VENV)/install.log)" >&2; exit 1; }
	@touch $@

$(VENV):
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
