# Everything that these targets create lies in .venv, except the runs themselves, which lie in outputs/.
# Paths are relative on purpose: the checkout's own path may hold spaces.

PYTHON ?=
CANDIDATES := python3.11 python3 python3.12 python3.13 python3.10
BIN := .venv/bin/python

# What a Python has to be able to do: be of a version that Hydra and torch run on, and make an environment with pip.
IS_FIT := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
CAN_VENV := import ensurepip, venv

.DEFAULT_GOAL := help
.PHONY: help venv quickstart test test-slurm drills lint clean

help:
	@echo 'make venv        the environment in .venv, with the versions of constraints.txt'
	@echo 'make quickstart  train a few small models (minutes on two cores) and print their tables'
	@echo 'make test        the whole test suite, on two cores'
	@echo 'make test-slurm  sweeps on a SLURM of its own, which it starts as root and installs with apt (minutes)'
	@echo 'make drills      kills, signals, damage, full disks and races for real (an hour on two cores)'
	@echo 'make lint        ruff'
	@echo 'make clean       remove .venv and caches; outputs/ stays'
	@echo
	@echo 'Needs Python 3.10 to 3.13. PYTHON=/path/to/python chooses one: make venv PYTHON=python3.12'
	@echo 'To change the Python of an environment that exists: make clean first.'

venv: .venv/.installed

# .venv/.unfinished stands while make installs. Left behind, it says that an install was cut short: the environment is
# made again. An environment that someone else made never has it, and is kept.
.venv/.installed: pyproject.toml constraints.txt
	@set -e; \
	if [ -e .venv/.unfinished ]; then echo 'make: the last install did not finish; starting afresh'; rm -rf .venv; fi; \
	if [ ! -e .venv ]; then \
		python=; found=; \
		for candidate in $(if $(PYTHON),'$(PYTHON)',$(CANDIDATES)); do \
			"$$candidate" -c '$(IS_FIT)' >/dev/null 2>&1 || continue; \
			found=$$candidate; \
			"$$candidate" -c '$(CAN_VENV)' >/dev/null 2>&1 || continue; \
			python=$$candidate; break; \
		done; \
		if [ -z "$$found" ]; then \
			echo 'make: no Python 3.10 to 3.13 among: $(if $(PYTHON),$(PYTHON),$(CANDIDATES)); install one, or name it with PYTHON=/path/to/python' >&2; exit 1; \
		elif [ -z "$$python" ]; then \
			echo "make: $$found lacks the venv module (ensurepip); install it (Debian, Ubuntu: apt install python3-venv), or name another with PYTHON=/path/to/python" >&2; exit 1; \
		fi; \
		mkdir .venv; touch .venv/.unfinished; \
		"$$python" -m venv .venv; \
	elif ! $(BIN) -c '$(IS_FIT)' >/dev/null 2>&1; then \
		echo 'make: .venv holds no working Python 3.10 to 3.13; make clean, then try again' >&2; exit 1; \
	fi; \
	if [ -e $@ ]; then mv $@ .venv/.unfinished; fi; \
	echo 'make: installing into .venv; the first time takes minutes, torch is large'; \
	$(BIN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'; \
	rm -f .venv/.unfinished; touch $@

quickstart: .venv/.installed
	$(BIN) -m bitnet.train sweeps=quickstart
	$(BIN) -m bitnet.report outputs/quickstart
	@echo
	@echo 'What to run next, in the environment (source .venv/bin/activate):'
	@echo '  python -m bitnet.train -m model=256,512,768,1024 wd=paper,wd005    four sizes, with and without late decay'
	@echo '  python -m bitnet.train sweeps=phase5_scaling                       a published experiment by its name'
	@echo '  python -m bitnet.report outputs/quickstart                         the tables above, again'
	@echo 'sweeps/ has the other experiments, conf/ every option, docs/ the rest.'

test: .venv/.installed
	$(BIN) -m pytest -n 2 --dist loadfile

# ARGS=--or-say-why: where no SLURM can be started, say why and end well
test-slurm: .venv/.installed
	$(BIN) tests/slurm/checks.py $(ARGS)

drills: .venv/.installed
	@set -e; for drill in kill_anywhere signals hung_run closed_pipes damage lost_records full_disk racing; do echo "$$drill"; $(BIN) tests/drills/$$drill.py; done

lint: .venv/.installed
	$(BIN) -m ruff check .

clean:
	rm -rf .venv .pytest_cache .ruff_cache build dist
	find bitnet tests -name __pycache__ -type d -prune -exec rm -rf {} +
