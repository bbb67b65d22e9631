# Every target sets up what it needs. Logic is in scripts/bootstrap.py, where it can be tested.
#
#   make serve                  start the server at 127.0.0.1:8000
#   make serve PORT=8123        elsewhere; also HOST=, CONFIG=gateway.toml, EXTRAS="torch ui"
#   make test                   lint, types, tests; ARGS="-k media" is passed to pytest
#   make test-coverage          the same with branch coverage
#   make test-windows-runtime   the Whisper tests on the onnxruntime that Windows gets
#   make test-windows           Windows' own Python and packages under Wine (Linux, root)
#   make test-busy              the tests beside a process per core that computes all the time
#   make check                  lint and types only
#   make test-cpu PROFILE=sse42 the models on another processor: avx2, sse42 or arm64
#   make test-security          only the tests of what nobody may do, all of which make test runs as well
#   make test-cluster           the tests over Ray, which it installs
#   make test-clients           real client programs, each installed in an environment of its own (10 minutes at first)
#   make test-realtime-clients  the same for clients of realtime sessions (three minutes, later one)
#   make bench                  the benchmarks of the embedded engines
#   make lock                   write requirements/ after a change of pyproject.toml; ARGS=--upgrade for new releases

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3 || command -v python)
BOOTSTRAP = $(PYTHON) scripts/bootstrap.py

.PHONY: help serve setup test test-coverage test-windows-runtime test-windows test-cpu check fix docs bench clean lock test-busy test-security test-cluster test-clients test-realtime-clients

help:
	@sed -n '2,17s/^# \{0,1\}//p' Makefile

serve:
	@$(BOOTSTRAP) serve --extras "$(EXTRAS)" $(if $(HOST),--host "$(HOST)") $(if $(PORT),--port "$(PORT)") $(if $(CONFIG),--config "$(CONFIG)") -- $(ARGS)

setup:
	@$(BOOTSTRAP) setup --extras "$(EXTRAS)"

test:
	@$(BOOTSTRAP) test -- $(ARGS)

test-coverage:
	@$(BOOTSTRAP) test --coverage -- $(ARGS)

test-windows-runtime:
	@$(BOOTSTRAP) test-windows-runtime -- $(ARGS)

test-windows:
	@$(PYTHON) scripts/windows_lane.py $(ARGS)

PROFILE ?= avx2
test-cpu: check-environment
	@.venv/bin/python scripts/cpu_lane.py $(PROFILE) $(ARGS)

test-busy:
	@$(BOOTSTRAP) test --busy -- $(ARGS)

test-cluster:
	@$(BOOTSTRAP) test-cluster -- $(ARGS)

test-security: check-environment
	@.venv/bin/python -P -m pytest -m security $(ARGS)

test-clients: check-environment
	@.venv/bin/python -P -m pytest -n0 -p no:cov -m clients tests/clients $(ARGS)

test-realtime-clients: check-environment
	@.venv/bin/python -P -m pytest -n0 -p no:cov -m realtime_clients tests/clients $(ARGS)

check:
	@$(BOOTSTRAP) test --checks-only

fix: check-environment
	@.venv/bin/ruff check --fix . && .venv/bin/ruff format .

docs: check-environment
	@.venv/bin/python scripts/docs/generate.py

bench: check-environment
	@.venv/bin/python scripts/bench_embedded.py

lock:
	@$(PYTHON) scripts/lock.py $(ARGS)

clean:
	@rm -rf .coverage .hypothesis .mypy_cache .ruff_cache build dist

.PHONY: check-environment
check-environment:
	@test -x .venv/bin/ruff || $(BOOTSTRAP) test --checks-only
