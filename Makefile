# make demo: the five steps and the inference stage on the embedded data set.
# make test: ruff and pytest.
# make attack: plays the adversary on what make demo delivered.   make tables: the README's tables.
# make attack-matrix: the attacks over first layers, cores and blocks, on images in data/; 40 minutes.
# make tables-he: a first layer on encrypted images (TenSEAL) beside MoLe, then the tables.
# make stress: kills, full disks and hostile files, hundreds of them; 25 minutes.
# make paper: the paper's setting, 300 epochs on CIFAR-10, a GPU's job; says how long it will take.
# make bench: each step's speed beside the reference's algorithm; 25 minutes, nothing else running.
PYTHON ?= python3
STEP = .venv/bin/python

.PHONY: demo test attack attack-matrix tables tables-he stress bench paper clean
.DELETE_ON_ERROR:

demo: .venv/runtime
	$(STEP) pretrain.py --preset demo
	$(STEP) gen_morphing_matrix.py --preset demo
	$(STEP) gen_augconv.py --preset demo
	$(STEP) train_with_ac.py --preset demo
	$(STEP) train_no_ac.py --preset demo
	$(STEP) -m images.shapes data/demo/new_images 20
	$(STEP) morph_images.py --preset demo --images data/demo/new_images
	$(STEP) predict.py --preset demo

test: .venv/tests
	.venv/bin/ruff check .
	$(STEP) -m pytest

attack: .venv/runtime
	$(STEP) attack.py --preset demo --score --results_dir data/demo/results

attack-matrix: .venv/runtime
	$(STEP) -m experiments.attack_matrix
	$(STEP) reproduce_tables.py

tables: .venv/runtime
	$(STEP) reproduce_tables.py

tables-he: .venv/he
	$(STEP) -m experiments.homomorphic
	$(STEP) reproduce_tables.py

stress: .venv/tests
	$(STEP) -m tests.stress

bench: .venv/runtime
	$(STEP) -m experiments.speed

paper: .venv/runtime
	$(STEP) -m experiments.paper_setting 1e9 results/accuracy $(OPTIONS)

clean:
	rm -rf .venv data/demo

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/runtime: .venv/bin/python requirements.txt
	$(STEP) -m pip install --quiet -r requirements.txt
	touch $@

.venv/tests: .venv/bin/python requirements.txt requirements-test.txt
	$(STEP) -m pip install --quiet -r requirements-test.txt
	touch $@

.venv/he: .venv/bin/python requirements.txt requirements-he.txt
	$(STEP) -m pip install --quiet -r requirements-he.txt
	touch $@
