# Sourced by demo.sh and test.sh: goes to the repository root and makes sure that .venv there holds
# the packages of requirements.txt and this one, to be edited in place. Sets VENV_PYTHON.
# shellcheck shell=bash

die() {
  echo "error: $*" >&2
  exit 2
}

is_new_enough() {
  # Runs it, because a shim may be on the PATH without an interpreter behind it.
  "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

newest_python() {
  local candidate
  for candidate in python3.13 python3.12 python3.11 python3; do
    if command -v "$candidate" >/dev/null && is_new_enough "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  die "no Python 3.11 or newer with the venv module was found (looked for python3.13, python3.12," \
    "python3.11, python3). Install one (Debian, Ubuntu: apt-get install python3 python3-venv)."
}

wanted_stamp() {
  "$1" - requirements.txt <<'PYTHON'
import hashlib
import sys

with open(sys.argv[1], "rb") as requirements:
    print(hashlib.sha256(requirements.read()).hexdigest(), "python", sys.version.split()[0])
PYTHON
}

prepare_environment() {
  local root venv stamp python
  root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
  cd -- "$root" || die "cannot enter $root"
  venv="$root/.venv"
  stamp="$venv/installed"
  VENV_PYTHON="$venv/bin/python"
  if [[ -f "$stamp" && -x "$VENV_PYTHON" ]] && is_new_enough "$VENV_PYTHON" &&
    [[ "$(cat -- "$stamp")" == "$(wanted_stamp "$VENV_PYTHON")" ]]; then
    return
  fi
  python="$(newest_python)"
  echo "Installing the packages of requirements.txt with $("$python" --version) into .venv (a minute or two) ..." >&2
  rm -rf -- "$venv"
  "$python" -m venv -- "$venv"
  "$VENV_PYTHON" -m pip install -qq --requirement requirements.txt
  "$VENV_PYTHON" -m pip install -qq --no-deps --editable .
  # Last and whole: an interrupted install has no stamp and starts again.
  wanted_stamp "$VENV_PYTHON" >"$stamp.part"
  mv -- "$stamp.part" "$stamp"
}

prepare_environment
