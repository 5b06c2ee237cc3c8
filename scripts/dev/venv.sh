#!/bin/sh
# Makes .venv from requirements.lock, once. A second call compares a few lines and returns in milliseconds.
# Here: what must be cheap, and finding a Python; the work itself is in install.py, which that Python runs.
set -eu
cd "$(dirname "$0")/../.."

fail() {
  echo "error: $*" >&2
  exit 1
}

# What .venv was made from. Contents, not times: git changes times; the folder, because scripts in .venv name it.
stamp() {
  echo "folder $PWD"
  cksum requirements.lock pyproject.toml
}

python=${PYTHON:-}
if [ -z "$python" ] && [ -f .venv/.ready ] && [ "$(stamp)" = "$(cat .venv/.ready)" ] &&
  [ -x .venv/bin/kircerta ] && .venv/bin/python -c '' 2>/dev/null; then
  exit 0
fi

new_enough='import sys; sys.exit(sys.version_info < (3, 11))'
makes_venvs='import ensurepip, venv'
without_venv=
for candidate in ${python:-python3 python3.13 python3.12 python3.11 python3.14}; do
  "$candidate" -c "$new_enough" 2>/dev/null || continue
  if "$candidate" -c "$makes_venvs" 2>/dev/null; then
    found=$candidate
    break
  fi
  without_venv=${without_venv:-$candidate}
done

if [ -z "${found:-}" ]; then
  [ -z "$without_venv" ] || fail "$without_venv cannot make virtual environments (no venv or ensurepip): apt-get install ${without_venv##*/}-venv, or name another with make PYTHON=…"
  [ -z "$python" ] || fail "PYTHON=$python is not a Python 3.11 or newer"
  fail "no Python 3.11 or newer found (tried python3, python3.11 to python3.14): install one, or name it with make PYTHON=…"
fi

if [ -e .venv ]; then folder=.venv; else folder=.; fi
[ -w "$folder" ] || fail "cannot write to $PWD as $(id -un): make the folder yours, or copy the project to a folder that is"
STAMP=$(stamp)
export STAMP
exec "$found" -B scripts/dev/install.py
