# make setup   virtual environment with exact versions        make demo   compare techniques on real data, with a report
# make test    the tests                                      make check  format, lint, types, import rules
# make bench   speed and memory against the peers, on an idle machine (FULL=1: more rows, three seeds, hours)
# make peers   more peers for it, in environments of their own
# make crash-test   kills runs at random instants and compares what they leave, bit for bit (KILLS=200: half an hour)
# make fuzz         feeds every reader with nearly right files, and the server with nearly right requests (SECONDS=3600: an hour)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SEEDS ?= 0,1,2
ROWS ?= 3000
EPOCHS ?= 2

.PHONY: setup demo test check format bench peers crash-test fuzz clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit('tunesmith needs Python 3.11 or later; set PYTHON=') if sys.version_info < (3, 11) else 0"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[qlora,serve,onnx,tracking,ray,dev]"
	@touch $@

demo: setup
	$(BIN)/tunesmith compare --model asset:bert-tiny --train asset:movie-reviews --max-train-rows $(ROWS) --max-eval-rows 1000 \
	  --epochs $(EPOCHS) --seeds $(SEEDS) --output demo

# One process a core, one thread each: tiny models gain nothing from more.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

check: setup
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/mypy
	$(BIN)/lint-imports

# TRL stands beside: nothing of tunesmith needs it, and what it needs is there.
PEERS := .peers
bench: setup
	test -d $(PEERS)/trl || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(PEERS)/trl trl==1.16.0
	PYTHONPATH=$(PEERS)/trl $(BIN)/python benchmarks/bench.py $(if $(FULL),--full)
	$(if $(FULL),$(BIN)/python benchmarks/bench.py --quality)

# Peers that need other versions of transformers and peft, in environments of their own (1.5 GB); `bench` takes those that are there.
peers: setup
	for name in "adapters==1.3.0 accelerate==1.11.0" llamafactory==0.9.5; do place=$(PEERS)/$${name%%=*}; $(PYTHON) -m venv $$place && \
	  $$place/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 && \
	  $$place/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 $$name || exit 1; done
	$(PEERS)/llamafactory/bin/python -m pip uninstall --quiet --yes torchvision torchaudio  # built for another torch

KILLS ?= 200
crash-test: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/crash/crash.py --kills $(KILLS)

# atheris, which follows what the code does, where it can be had; our own mutations anyway.
SECONDS ?= 3600
fuzz: setup
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps atheris==3.0.0
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/fuzz.py --seconds $(SECONDS)

format: setup
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

clean:
	rm -rf $(VENV) $(PEERS) demo dist build
