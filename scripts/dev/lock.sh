#!/bin/sh
# Writes requirements.lock: every package of pyproject.toml and its dev extra, for every platform, with hashes.
# The index is the one pip is set up with; the lock names none.
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
[ -n "${UPGRADE:-}" ] || cp requirements.lock "$new" # what is locked already is kept where it still fits
{
  echo '# Made by `make lock` from pyproject.toml; do not edit.'
  "$tool/bin/uv" pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
    --no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet --output-file "$new" >/dev/null
  cat "$new"
} >"$new.done"
mv "$new.done" requirements.lock
echo "requirements.lock: $(grep -c '^[A-Za-z0-9._-]*==' requirements.lock) packages"
