# Thin names for the project's commands. Each installs what it needs, pinned and hashed, into .venv.
# Another interpreter: make test PYTHON=python3.13 VENV=.venv-3.13

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PROJECTS := pyproject.toml $(wildcard libraries/*/pyproject.toml plugins/*/pyproject.toml integrations/*/pyproject.toml)
DISTS := $(patsubst %/,%,$(dir $(PROJECTS)))
INTEGRATIONS := $(filter integrations/%,$(DISTS))
WORKSPACE := $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation
export PYTHONSAFEPATH := 1
# Tests start hundreds of processes: without bytecode on disk, each would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE
PYTEST = $(BIN)/python -P -m pytest

# $(call pins,VENV,NAME): all of requirements/NAME.txt, as wheels, and the two packages of sdists.txt,
# which are plain Python. No compiler is asked for.
wheels = $(1)/bin/python -m pip install --quiet --no-deps --require-hashes --only-binary :all: -r requirements/$(2).txt
sdists = $(1)/bin/python -m pip install --quiet --no-deps --require-hashes --no-binary :all: --no-build-isolation --use-pep517 -r requirements/sdists.txt
pins = $(wheels) && $(sdists)

.DELETE_ON_ERROR:
.PHONY: demo node test test-gate test-all costs interop coverage lint docs pages deploy picture bench chaos soak hostile
.PHONY: large dp-utility audit fuzz swarm-simulation zk-slack
.PHONY: mutants explore isolation compatibility random-swarms sharded-rounds full-stack gallery
.PHONY: torch torch-page ray flower flower-long flower-before wheels rehearse
.PHONY: requirements clean

demo: $(VENV)/.demo
	$(BIN)/qres demo

# What a node needs, and nothing to test or draw with.
node: $(VENV)/.node
	$(BIN)/qres plugins

# What a change needs: a worker for each core and one more, with at most twenty random examples for each test, without
# the experiments marked `long` and the cases that cost more than a second of a processor (scripts/costs.tsv). Minutes.
# What a change of one distribution can break: make test DIST=qres_krum
PARALLEL = -n auto --maxprocesses 8 --dist worksteal
test: $(VENV)/.test
	$(PYTEST) $(PARALLEL) -m "not long and not gate" $(if $(DIST),$$($(BIN)/python -P scripts/costs.py --tests $(DIST)))

# What `make test` leaves to the gate, but for the experiments.
test-gate: $(VENV)/.test
	$(PYTEST) $(PARALLEL) -m "gate and not long"

# Measure what each case costs, for scripts/costs.tsv; then the dearest. On an idle machine, now and then.
costs: $(VENV)/.test
	$(PYTEST) $(PARALLEL) -m "not long" --costs scripts/costs.tsv
	$(BIN)/python -P scripts/costs.py

# Everything, with as many random examples as each test asks for.
test-all: $(VENV)/.test
	$(PYTEST) -n auto --maxprocesses 8 --dist worksteal --hypothesis-profile thorough

# Peers that others wrote: Node.js from the lint requirements, its packages from npm's registry.
interop: $(VENV)/.dev
	QRES_INTEROP=1 $(BIN)/python -P -m pytest tests/interop

# Branch coverage of every distribution under its own tests, as a table. One: make coverage DIST=qres_krum
coverage: $(VENV)/.test
	$(BIN)/python -P scripts/branch_coverage.py $(DIST)

lint: $(VENV)/.lint
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy && $(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/codespell && $(BIN)/python -P scripts/check_style.py && $(BIN)/python -P scripts/claims.py --check
	$(BIN)/python -P scripts/figures.py --check && $(BIN)/python -P scripts/walk.py --check
	$(BIN)/hadolint deploy/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/python -P -m pytest -q tests/unit/test_helm.py

# The manual. The build makes the reference pages that git ignores.
docs: $(VENV)/.docs
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

# Every command of README and tutorials, with wheels in an environment of its own.
pages: wheels
	rm -rf $(VENV)-pages && $(PYTHON) -m venv $(VENV)-pages
	$(call pins,$(VENV)-pages,test)
	$(VENV)-pages/bin/pip install --quiet --no-deps dist/*.whl
	$(BIN)/python -P scripts/run_pages.py --bin $(VENV)-pages/bin

# The steps of the container image, five nodes and their health checks, without a container engine.
deploy:
	$(PYTHON) -P scripts/try_deploy.py

# The picture of README and of the manual's front page.
picture: $(VENV)/.demo
	$(BIN)/qres demo
	cp qres-demo/demo.png docs/demo.png

# Scripts that do not know --quick are parts of others, or take hours.
bench: $(VENV)/.test
	set -e; for script in $(filter-out benchmarks/harness.py,$(shell grep -l quick benchmarks/*.py)); do PYTHONPATH=benchmarks $(BIN)/python -P "$$script" --quick; done

# Real swarms in trouble: three seeds of faults; 1000 rounds; 10 000 hostile frames, then hostile
# links. Minutes each.
chaos: $(VENV)/.test
	PYTHONPATH=scripts timeout 600 $(BIN)/python -P scripts/chaos.py

soak: $(VENV)/.test
	PYTHONPATH=scripts $(BIN)/python -P scripts/soak.py

hostile: $(VENV)/.test
	PYTHONPATH=scripts $(BIN)/python -P scripts/hostile_frames.py
	PYTHONPATH=scripts $(BIN)/python -P scripts/hostile_links.py

# Attacks on whole swarms of 100 and 200 nodes, and boxes of processes that die: tens of minutes, and up to 4 GB.
large: $(VENV)/.test
	QRES_LARGE=1 $(BIN)/python -P -m pytest -m long tests/attacks/test_left_out.py libraries/qres_lab/tests/commands/test_swarm_up.py

# Whole swarms in trouble on a virtual clock, as seeds decide. One, told: make swarm-simulation SEED=17
SEEDS ?= 0:500
swarm-simulation: $(VENV)/.test
	PYTHONPATH=scripts $(BIN)/python -P -m swarm_simulation $(if $(SEED),--seed $(SEED) --verbose,--seeds $(SEEDS)) --lies "$(LIES)" $(if $(SHARDED),--sharded)

# Every state of the engine of agreement with a liar among four nodes; then without each guard. Half an hour.
explore: $(VENV)/.test
	PYTHONPATH=scripts $(BIN)/python -P -m exploration

# Secure aggregation with an adversary, as seeds decide: how few honest inputs can it isolate? Then without
# each guard. An hour or two. One, told: make isolation SEED=17
RUNS ?= 2000
SHARDED_RUNS ?= 100
isolation: $(VENV)/.test
	PYTHONPATH=scripts $(BIN)/python -P -m isolation $(if $(SEED),--seed $(SEED),--seeds 0:$(RUNS))
	$(if $(SEED),,PYTHONPATH=scripts $(BIN)/python -P -m isolation --sharded --seeds 0:$(SHARDED_RUNS))

# Every security check taken out or weakened, one at a time: a test must find each. Some of them: ONLY=zk, or a part
# of a name of a mutant. With new tests: TESTS=their paths.
mutants: $(VENV)/.test
	PYTHONPATH=scripts $(BIN)/python -P -m mutants --only "$(ONLY)" $(if $(TESTS),--tests $(TESTS))

# The accuracy that privacy costs, as a table and a picture. Minutes.
dp-utility: $(VENV)/.test
	$(BIN)/python -P scripts/dp_utility.py

# A million privacy plans and a million damaged proofs. Minutes each.
fuzz: $(VENV)/.test
	$(BIN)/python -P scripts/fuzz_dp_plans.py
	$(BIN)/python -P scripts/fuzz_bundle.py

# Known faults of the privacy plugin, which must be found, and 300 audits, which must raise no alarm. Half an hour.
audit: $(VENV)/.test
	$(BIN)/qres dp audit --faults
	$(BIN)/qres dp audit --runs 300

# What the proofs' slack is, by interval arithmetic; every other term of their security, and a cheater's costs.
zk-slack: $(VENV)/.test
	$(BIN)/python -P scripts/zk_slack.py
	$(BIN)/python -P scripts/zk_soundness.py --grind

# Every pair and triple of modes that the matrix calls supported, played one by one. More than half an hour.
compatibility: $(VENV)/.test
	PYTHONPATH=scripts $(BIN)/python -P -m compatibility

# Random plugins, options and swarms: what passes the check runs. A minute or two.
random-swarms: $(VENV)/.test
	QRES_RANDOM_SWARMS=2500 $(BIN)/python -P -m pytest -q tests/compatibility/test_random.py

# Random rounds with every rule and chain of wrappers, sharded and not: the same models. Twenty minutes.
sharded-rounds: $(VENV)/.test
	QRES_SHARDED_ROUNDS=2000 QRES_SHARDED_SWARMS=100 $(BIN)/python -P -m pytest -q tests/integration/test_sharded_draws.py

# All defences at once, in the simulator: three swarms. Long.
full-stack: $(VENV)/.test
	$(BIN)/python -P scripts/full_stack.py

# Every attack against nothing, single defences and the full stack, as a page.
gallery: $(VENV)/.test
	$(BIN)/qres attack report

# What an integration stands on is not among the pins, so its wheel lies apart: all of dist/ can be installed.
wheels: $(VENV)/.dev
	rm -rf dist && for dist in $(filter-out $(INTEGRATIONS),$(DISTS)); do $(BIN)/python -m build --no-isolation --outdir dist "$$dist" || exit; done
	for dist in $(INTEGRATIONS); do $(BIN)/python -m build --no-isolation --outdir dist/integrations "$$dist" || exit; done
	$(BIN)/check-wheel-contents dist/*.whl dist/integrations/*.whl
	$(BIN)/python -P scripts/distributions.py --check dist
	$(BIN)/twine check --strict dist/*.whl dist/*.tar.gz dist/integrations/*

# A release before it is published: built twice, served, installed by strangers, used; see RELEASING.md.
rehearse: $(VENV)-release/.release
	PYTHONPATH=scripts $(VENV)-release/bin/python -P scripts/rehearse.py

$(VENV)-release/.release: requirements/release.txt
	test -x $(VENV)-release/bin/pip || $(PYTHON) -m venv $(VENV)-release
	$(call wheels,$(VENV)-release,release)
	touch $@

# PyTorch, of the build that pip finds for this machine, in an environment apart: the tests that need it; then the
# page, played command by command.
TORCH ?= torch
torch: $(VENV)-torch/.torch
	$(VENV)-torch/bin/python -P -m pytest -q -m "not long" integrations/qres_torch

torch-page: $(VENV)-torch/.torch
	$(VENV)-torch/bin/python -P scripts/run_pages.py --bin $(VENV)-torch/bin docs/how-to/use-pytorch.md docs/how-to/fine-tune-with-lora.md

$(VENV)-torch/.torch: requirements/test.txt requirements/sdists.txt $(PROJECTS)
	test -x $(VENV)-torch/bin/pip || $(PYTHON) -m venv $(VENV)-torch
	$(call pins,$(VENV)-torch,test)
	$(VENV)-torch/bin/python -m pip install --quiet "$(TORCH)"
	$(VENV)-torch/bin/python -m pip install --quiet --no-deps --no-build-isolation $(DISTS:%=-e %)
	touch $@

# Ray, in an environment apart; where it cannot be installed, the tests that need it are skipped, by name.
ray: $(VENV)-ray/.ray
	$(VENV)-ray/bin/python -P -m pytest -q integrations/qres_ray

$(VENV)-ray/.ray: requirements/test.txt requirements/sdists.txt $(PROJECTS)
	test -x $(VENV)-ray/bin/pip || $(PYTHON) -m venv $(VENV)-ray
	$(call pins,$(VENV)-ray,test)
	$(VENV)-ray/bin/python -m pip install --quiet --only-binary :all: ray || echo "Ray cannot be installed here"
	$(VENV)-ray/bin/python -m pip install --quiet --no-deps --no-build-isolation $(DISTS:%=-e %)
	touch $@

# Flower pins older releases of what others need, so it has pins and an environment of its own, without transports.
flower: $(VENV)-flower/.flower
	$(VENV)-flower/bin/python -m pip check
	$(VENV)-flower/bin/python -P -m pytest -q -m "not long" integrations/qres_flower
	$(VENV)-flower/bin/python -P scripts/run_pages.py --bin $(VENV)-flower/bin docs/how-to/use-qres-inside-flower.md

# A run in Flower's simulation, and deployments of a SuperLink and five SuperNodes: minutes of processes.
flower-long: $(VENV)-flower/.flower
	$(VENV)-flower/bin/python -P -m pytest -q -m long integrations/qres_flower

# The same tests with the minor version before the pinned one, laid over it.
FLOWER_BEFORE := 1.41
flower-before: $(VENV)-flower/.flower
	test -d $(VENV)-flower/before || $(VENV)-flower/bin/python -m pip install --quiet --no-deps --target $(VENV)-flower/before "flwr==$(FLOWER_BEFORE).*"
	PYTHONPATH=$(VENV)-flower/before $(VENV)-flower/bin/python -P -m pytest -q -m "not long" integrations/qres_flower

FLOWER_DISTS := $(filter-out plugins/qres_transport_% integrations/%,$(DISTS)) integrations/qres_flower
$(VENV)-flower/.flower: requirements/flower.txt $(PROJECTS)
	test -x $(VENV)-flower/bin/pip || $(PYTHON) -m venv $(VENV)-flower
	$(call wheels,$(VENV)-flower,flower)
	$(VENV)-flower/bin/python -m pip install --quiet --no-deps --no-build-isolation $(FLOWER_DISTS:%=-e %)
	touch $@

requirements: $(VENV)/.dev
	$(BIN)/nox --session requirements -- $(UPGRADE)

clean:
	rm -rf .venv .venv-* .nox dist build docs/_build $(shell sed -n 's|^/docs/|docs/|p' .gitignore) tests/interop/*/node_modules qres-demo .coverage .*_cache .hypothesis

# A stamp per set of requirements: nothing is installed again until a pin or a project changes.
$(VENV)/.%: requirements/%.txt requirements/sdists.txt $(PROJECTS) | $(BIN)/pip
	$(call pins,$(VENV),$*)
	$(WORKSPACE) $(DISTS:%=-e %)
	touch $@

# The demonstration runs in one process and takes no transport.
$(VENV)/.demo: requirements/demo.txt $(PROJECTS) | $(BIN)/pip
	$(call wheels,$(VENV),demo)
	$(WORKSPACE) $(patsubst %,-e %,$(filter-out plugins/qres_transport_% integrations/%,$(DISTS)))
	touch $@

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)
