#!/bin/sh
# Starts JupyterLab on the notebooks, on 127.0.0.1 alone. It lives in a folder of its own, installed when first asked for
# from requirements-lab.lock, so that .venv stays what requirements.lock says; its kernel is .venv's Python.
set -eu
cd "$(dirname "$0")/../.."

lab=.cache/lab
stamp="folder $PWD $(cksum requirements-lab.lock)"
if [ ! -f "$lab/.ready" ] || [ "$stamp" != "$(cat "$lab/.ready")" ] || ! "$lab/bin/python" -c '' 2>/dev/null; then
  echo "Installing JupyterLab (about a minute, once)…"
  rm -rf "$lab"
  .venv/bin/python -m venv "$lab"
  # Wheels only, each with its hash: building from source would fetch build tools that no lock names.
  "$lab/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps \
    --require-hashes --only-binary :all: --requirement requirements-lab.lock
  .venv/bin/python -m ipykernel install --prefix "$lab" --name python3 --display-name kircerta >/dev/null
  echo "$stamp" >"$lab/.ready"
fi

# What an analyst runs stays out of git: it works on copies, and what is here stays without outputs.
work=${KIRCERTA_HOME:-$PWD}/.kircerta/lab
mkdir -p "$work"
for notebook in notebooks/*.ipynb; do
  [ -e "$work/${notebook##*/}" ] || cp "$notebook" "$work/"
done
export KIRCERTA_HOME="${KIRCERTA_HOME:-$PWD}"
# It asks nobody for news or extensions; the token that it prints is the way in.
exec "$lab/bin/jupyter-lab" --ServerApp.ip=127.0.0.1 --ServerApp.root_dir="$work" --no-browser \
  --LabApp.news_url=None --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate \
  --LabApp.extension_manager=readonly "$@"
