#!/bin/sh
# Writes the locks, for every platform, with hashes: requirements.lock (every package of pyproject.toml and its dev extra)
# and requirements-lab.lock (JupyterLab, in versions that agree with the first). The index is the one pip is set up with;
# the locks name none.
set -eu
cd "$(dirname "$0")/../.."
scripts/dev/venv.sh

tool=.cache/lock
[ -x "$tool/bin/uv" ] || {
  .venv/bin/python -m venv "$tool"
  "$tool/bin/python" -m pip install --quiet --disable-pip-version-check 'uv==0.13.*'
}

index=$("$tool/bin/python" -m pip config get global.index-url 2>/dev/null || true)
[ -z "${PIP_INDEX_URL:-$index}" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-$index}}"
[ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$PIP_CERT}"

new=$(mktemp .cache/requirements.XXXXXX)
trap 'rm -f "$new" "$new.done"' EXIT

# lock FILE WHAT…: what is locked already is kept where it still fits, but with UPGRADE=1
lock() {
  file=$1
  shift
  rm -f "$new"
  [ -n "${UPGRADE:-}" ] || [ ! -f "$file" ] || cp "$file" "$new"
  {
    echo '# Made by `make lock` from pyproject.toml; do not edit.'
    "$tool/bin/uv" pip compile "$@" --universal --python-version 3.11 --generate-hashes \
      --no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet --output-file "$new" >/dev/null
    cat "$new"
  } >"$new.done"
  mv "$new.done" "$file"
  echo "$file: $(grep -c '^[A-Za-z0-9._-]*==' "$file") packages"
}

lock requirements.lock pyproject.toml --extra dev
echo 'jupyterlab>=4.4' >.cache/lab.in
lock requirements-lab.lock .cache/lab.in --constraint requirements.lock
