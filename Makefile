# make demo         the five steps and the inference stage on an embedded data set
# make test         ruff and pytest
# make test-lowest  the tests with the lowest versions that requirements.txt allows
# make attack       plays the adversary on what make demo delivered
# make tables       tables, figures and numbers of all pages from the records in results/
# make evidence     runs the commands behind all results that are still missing; says how long
# make paper        the paper's setting, 300 epochs on CIFAR-10: a GPU's job; says how long
# make bench        each step's speed beside the reference's algorithm; nothing else may run
# make attack-matrix  the attacks over first layers, cores and blocks, on images in data/
# make tables-he    a first layer on encrypted images (TenSEAL) beside MoLe, then the tables
# make stress       kills, full disks and hostile files, hundreds of them
PYTHON ?= python3
STEP = .venv/bin/python

# The tests run two processes side by side, whose waiting threads would slow each other down.
QUIET = OMP_WAIT_POLICY=PASSIVE

.PHONY: demo test test-lowest attack attack-matrix tables tables-he evidence stress bench paper clean
.DELETE_ON_ERROR:

demo: .venv/runtime
	$(STEP) pretrain.py --preset demo
	$(STEP) gen_morphing_matrix.py --preset demo
	$(STEP) gen_augconv.py --preset demo
	$(STEP) train_with_ac.py --preset demo
	$(STEP) train_no_ac.py --preset demo
	$(STEP) -m images.shapes data/demo/new_images 20 28
	$(STEP) morph_images.py --preset demo --images data/demo/new_images
	$(STEP) predict.py --preset demo

test: .venv/tests
	.venv/bin/ruff check .
	$(QUIET) $(STEP) -m pytest

test-lowest: .venv-lowest/tests
	$(QUIET) .venv-lowest/bin/python -m pytest

attack: .venv/runtime
	$(STEP) attack.py --preset demo --score --results_dir data/demo/results

attack-matrix: .venv/runtime
	mkdir -p data/evidence/first_layers
	cp results/first_layers/vgg11-augmented.pt data/evidence/first_layers/vgg11.pt
	$(STEP) -m experiments.attack_matrix --first_layers data/evidence/first_layers --output results
	$(STEP) reproduce_tables.py

tables: .venv/runtime
	$(STEP) reproduce_tables.py

tables-he: .venv/he
	$(STEP) -m experiments.homomorphic --output results
	$(STEP) reproduce_tables.py

evidence: .venv/runtime .venv/he
	$(STEP) -m experiments.evidence

stress: .venv/tests
	$(QUIET) $(STEP) -m tests.stress

bench: .venv/runtime
	$(STEP) -m experiments.speed --output results

paper: .venv/runtime
	$(STEP) -m experiments.paper_setting 1e9 results/accuracy --data_dir data/paper $(OPTIONS)

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

# The lowest versions, in an environment of their own: "torch>=2.9,<3" becomes "torch==2.9".
.venv-lowest/tests: requirements.txt requirements-test.txt
	$(PYTHON) -m venv .venv-lowest
	sed -nE 's/^([A-Za-z-]+)>=([0-9.]+).*/\1==\2/p' requirements.txt > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet -r .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet -c .venv-lowest/lowest.txt -r requirements-test.txt
	touch $@
