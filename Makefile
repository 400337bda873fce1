# Two commands on a fresh machine: `make demo` and `make test`. Each does its own set-up in .venv.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: demo test clean

.venv/ready: pyproject.toml requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --editable '.[train,plot,data,test]'
	touch $@

demo: .venv/ready
	$(BIN)/likeness demo --out demo.png --concept demo.safetensors

test: .venv/ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	cd tests && ../$(BIN)/pytest --numprocesses auto --dist loadfile

clean:
	rm -rf .venv build *.egg-info demo.png demo.safetensors
