# Every target first brings .venv up to date (pipeline/bootstrap.py), which takes no time if it is:
# `venv` for runs, `tools` for development.
PYTHON ?= python3.11
ARGS ?=
# Optional dependencies for .venv, such as EXTRAS=mlflow.
EXTRAS ?=
# Test files at once. One takes up to 3 GB of memory and rarely a whole core.
JOBS ?= logical

.DEFAULT_GOAL := help
.PHONY: help run check test coverage cluster-test browser services disks lint unit workflows format lock docs image sbom \
	licenses audit doctor prism s3 azurite venv tools clean

help: ## Show these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

run: venv ## Train, evaluate and push a model; options in ARGS="--data DIR"
	@.venv/bin/perennial run $(ARGS)

test: tools ## Run the tests; options for pytest in ARGS="-k name", files at once in JOBS
	.venv/bin/python -m pytest --numprocesses=$(JOBS) --maxprocesses=4 --dist=loadfile \
		--no-loadscope-reorder $(ARGS)

check: lint unit ## Lint and unit tests, in under a minute: what to run before each commit

unit: tools ## Run the tests that train nothing and start no server
	.venv/bin/python -m pytest tests/unit --numprocesses=$(JOBS) --maxprocesses=4 $(ARGS)

coverage: tools ## Run the tests, and show the total and the lines that none of them reaches
	$(MAKE) test ARGS="--cov --cov-report=term-missing:skip-covered $(ARGS)"

cluster-test: tools ## Run the tests on the cluster that KUBECONFIG names; image in CLUSTER_IMAGE
	@test -n "$$KUBECONFIG" || { echo "KUBECONFIG names no cluster" >&2; exit 2; }
	.venv/bin/python -m pytest -m cluster tests/cluster -rs --durations=0 $(ARGS)

browser: ## Install the browser of the page tests, which are skipped without (Debian and Ubuntu)
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -qq -y chromium; }

services: ## Install databases, nginx and promtool, for the tests that are skipped without
	@PATH=$$PATH:/usr/sbin command -v mariadbd >/dev/null || { apt-get update -qq && \
		apt-get install -qq -y mariadb-server-core mariadb-client-core; }
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { apt-get update -qq && \
		apt-get install -qq -y postgresql; }
	@PATH=$$PATH:/usr/sbin command -v nginx >/dev/null || { apt-get update -qq && \
		apt-get install -qq -y --no-install-recommends nginx-light; }
	@command -v promtool >/dev/null || { apt-get update -qq && \
		apt-get install -qq -y --no-install-recommends prometheus; }

disks: ## Install what tests of disks need, which are skipped without; they need root too
	@which strace mkfs.xfs mksquashfs bindfs >/dev/null || { apt-get update -qq && \
		apt-get install -qq -y strace xfsprogs squashfs-tools bindfs; }

# Needs Go, and some minutes: it is built of its Go module, for the version of Beam in the lock.
PRISM_DIR ?= /usr/local/bin
prism: ## Build Prism, Beam's runner of the tests that are skipped without, into PRISM_DIR
	@command -v go >/dev/null || { echo "go is not installed" >&2; exit 2; }
	GOBIN=$(PRISM_DIR) go install github.com/apache/beam/sdks/v2/go/cmd/prism@v$$(sed -n \
		's/^apache-beam.*==\([0-9.]*\).*/\1/p' requirements.lock)

lint: tools ## Check style, format and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

workflows: ## Check the workflows of .github; needs Go
	@command -v go >/dev/null || { echo "go is not installed" >&2; exit 2; }
	go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.9

format: tools ## Put the sources in the agreed format
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

# Needs Go. A second implementation of S3, besides moto's, for tests that are skipped without.
S3_DIR ?= /usr/local/bin
s3: ## Build Versity's S3 gateway for the tests of object stores, into S3_DIR
	@command -v go >/dev/null || { echo "go is not installed" >&2; exit 2; }
	GOBIN=$(S3_DIR) go install github.com/versity/versitygw/cmd/versitygw@v1.8.0

# Needs npm. Microsoft's emulator of Azure's blob storage, for tests that are skipped without.
azurite: ## Install Azurite for the tests of az://
	@command -v npm >/dev/null || { echo "npm is not installed" >&2; exit 2; }
	npm install --global --no-fund --no-audit azurite@3

doctor: venv ## Check this machine
	@.venv/bin/perennial doctor $(ARGS)

# Needs uv but not an up-to-date .venv: it is run because the dependencies were changed.
lock: | .venv/bin/uv ## Pin the dependencies of pyproject.toml; the newest with ARGS=--upgrade
	.venv/bin/uv pip compile pyproject.toml --quiet --all-extras --group dev --group setup \
		--generate-hashes \
		--python-version 3.11 --python-platform x86_64-manylinux_2_39 \
		--custom-compile-command "make lock" --output-file requirements.lock $(ARGS)
	@for device in cpu gpu; do \
		.venv/bin/uv pip compile kubeflow/image/$$device.in --constraint requirements.lock \
			$$(test $$device = gpu || echo --no-deps) --quiet --generate-hashes --no-annotate \
			--python-version 3.11 --python-platform x86_64-manylinux_2_39 \
			--custom-compile-command "make lock" --output-file kubeflow/image/$$device.lock; \
	done

docs: tools ## Generate docs/reference from the settings and the commands
	.venv/bin/python -m pipeline.reference

# As CLUSTER_IMAGE of cluster-test; DEVICE is cpu or gpu.
DEVICE ?= cpu
IMAGE ?= perennial:$(DEVICE)
image: ## Build the image of the pods for DEVICE=cpu or gpu, called IMAGE
	docker build --file kubeflow/Dockerfile --target $(DEVICE) --tag $(IMAGE) .

sbom: tools ## Write sbom.cdx.json, a CycloneDX bill of all that is installed
	.venv/bin/cyclonedx-py environment .venv --pyproject pyproject.toml --output-reproducible \
		--output-file sbom.cdx.json

licenses: tools ## List the licences of all that is installed, and refuse unknown and other ones
	.venv/bin/pip-licenses $(ARGS)

# Not in the lock: its result depends on the day and the network, so that no test may need it.
audit: | .venv/bin/uv ## Check all that is locked against the advisory databases; needs the network
	.venv/bin/uv tool run pip-audit@2.10.1 --strict --disable-pip \
		--requirement requirements.lock $(ARGS)

.venv/bin/uv:
	@$(MAKE) --no-print-directory venv

venv: ## Build .venv for runs; further packages in EXTRAS=mlflow
	@command -v $(PYTHON) >/dev/null || { \
		echo "$(PYTHON) is not installed; name a Python 3.11: make run PYTHON=/path/to/python3.11" >&2; \
		exit 1; }
	@$(PYTHON) -m pipeline.bootstrap $(EXTRAS)

tools:
	@$(MAKE) --no-print-directory venv EXTRAS=dev

clean: ## Remove .venv and the caches; the workspace stays
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
