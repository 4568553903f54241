# Two commands matter: `make demo` plays a game, `make test` runs every test.
# Both build .venv on first use; afterwards they start at once.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
TEST_PROCESSES ?= 2

.PHONY: demo test check format bench readme clean help

help:
	@echo "make demo    play one full game through the in-memory broker"
	@echo "make test    run all tests (starts private RabbitMQ/Redis/PostgreSQL when it can)"
	@echo "make check   format, lint, types, import directions"
	@echo "make format  rewrite the code in the project's format"
	@echo "make bench   measure against stock memory://"
	@echo "make readme  renew the capability table in transports/README.md"
	@echo "make clean   remove .venv and caches"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group test --group check
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/python -m game_tasks play --seed 7

test: $(VENV)/.installed-dev
	$(BIN)/python -m tests.servers install
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy examples/*.py
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

readme: $(VENV)/.installed-dev
	$(BIN)/python -m tests.readme

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .cache build *.egg-info
