# `make demo` and `make test` need Python 3.11 or later and nothing else: they make their own environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# setuptools warns at length of folders that are laid out as they should be.
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip --disable-pip-version-check --quiet
DEMO_OUT := demo-out

.PHONY: demo test test-slow test-gpu-wheel dev lint lint-js format docs wheel golden clean

demo: $(VENV)/.runtime  ## Translate the bundled summer clip to winter and say where the result is
	@mkdir -p $(DEMO_OUT)
	$(BIN)/dsmap-video runtime/assets/demo-summer.mp4 --domain winter -o $(DEMO_OUT)/demo-winter.mp4 --overwrite

TRITON := build/tritonserver
AT_ONCE ?= 2
test: $(VENV)/.dev  ## Run all tests except the slow ones
	@# Once: a server for the tests of serving with Triton (56 MB). Without it they are skipped.
	@cmp -s tests/tritonserver.py $(TRITON)/.prepared || { $(BIN)/python tests/tritonserver.py $(TRITON) && \
	cp tests/tritonserver.py $(TRITON)/.prepared; } || echo "no Triton server: its tests are skipped"
	@# Files at a time, the longest first. A third one at a time gains nothing on two cores (12 minutes);
	@# torch's threads would only wait for one another.
	@# Browsers, cameras, servers and clocks share the machine: what fails beside others runs once more, alone. A fault of
	@# the code fails again; what passes then is unsteady, is told, and is to be mended.
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(AT_ONCE) --dist loadfile --no-loadscope-reorder || { [ $$? = 1 ] && \
	printf '\nThe tests that failed run once more, alone:\n' && \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --last-failed --last-failed-no-failures none --maxfail 5 && \
	printf '\nUNSTEADY: the tests named as FAILED in the first summary passed when they ran alone.\n'; }

test-slow: $(VENV)/.dev  ## Paste every page of the documentation, build an image's contents, kill jobs at random (KILLS=200: longer)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

GPU_WHEEL := build/gpu-wheel
test-gpu-wheel: $(VENV)/.dev  ## The cuda backend with the real onnxruntime-gpu on stand-ins for CUDA; other wheels (360 MB)
	$(BIN)/python tests/gpu_wheel/prepare.py $(GPU_WHEEL)
	DSMAP_GPU_WHEEL=$(GPU_WHEEL) LD_LIBRARY_PATH=$(CURDIR)/$(GPU_WHEEL)/lib PYTHONPATH=$(CURDIR)/$(GPU_WHEEL)/site \
		OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/gpu_wheel/checks.py
	DSMAP_OTHER_WHEELS=build/other-wheels OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/gpu_wheel/other_wheels.py

dev: $(VENV)/.dev  ## Set up the environment for development in .venv

lint: $(VENV)/.dev lint-js  ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# The four folders are one package only once installed; mypy is shown a copy laid out like that.
	@rm -rf build/types && mkdir -p build/types && cp -R dsmap build/types/dsmap
	@cp -R export runtime tools build/types/dsmap/
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p dsmap

lint-js:  ## Style and types of the page's JavaScript; needs npm
	@if ! command -v npm > /dev/null || ! node -e 'process.exit(Number(process.versions.node.split(".")[0] < 20))'; then \
	echo "JavaScript is not checked: that needs Node.js 20 or later, with npm"; exit 0; fi; \
	mkdir -p build/js && rm -rf build/js/app build/js/lib build/js/runtime && cp -R runtime/web/page/. build/js/ && cd build/js && \
	{ cmp -s package.json .installed || { npm install --silent --no-audit --no-fund --no-package-lock --ignore-scripts && \
	cp package.json .installed; }; } && npm run --silent lint

format: $(VENV)/.dev  ## Let ruff write
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev  ## The documentation as a site, in build/site
	$(PIP) install --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python -m mkdocs build --strict

wheel: $(VENV)/.dev  ## The package for PyPI in dist/, with the files that a web page of a model needs
	$(BIN)/python -m dsmap.runtime.web.vendor
	$(PIP) wheel --no-deps --wheel-dir dist .

golden: $(VENV)/.dev  ## Compare with the authors' numbers: make golden FOLDER=path
	$(BIN)/python -m dsmap.tools.golden $(FOLDER)

clean:
	rm -rf $(VENV) build *.egg-info $(DEMO_OUT)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "dsmap needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) -V). Try make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade pip

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install --constraint constraints.txt --editable '.[cpu]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.runtime
