PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all lint docs

# On one thread, so that it ends as the README's table does, however many CPUs there are; a second thread would save 13 seconds.
demo: export OMP_NUM_THREADS = 1
demo: .venv/ready  ## the three stages and the evaluation on scikit-learn's digits, on the CPU
	$(BIN)/python simclr.py --config_exp configs/pretext/simclr_digits.yml root_dir=results
	$(BIN)/python scan.py --config_exp configs/scan/scan_digits.yml root_dir=results
	$(BIN)/python selflabel.py --config_exp configs/selflabel/selflabel_digits.yml root_dir=results
	$(BIN)/python eval.py --config_exp configs/selflabel/selflabel_digits.yml \
		--model results/digits/selflabel/model.pth.tar --visualize_prototypes
	@echo "Pictures: results/digits/pretext/neighbors.png, results/digits/selflabel/prototypes.png," \
		"confusion_matrix.png and curves.png of each stage"

test: .venv/ready
	$(BIN)/python -m pytest

test-all: .venv/ready
	$(BIN)/python -m pytest -m ""

lint: .venv/ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

docs: .venv/ready  ## docs/config.md, from the key table
	$(BIN)/python -m docs.config_page

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@
