#!/bin/sh
# Programs outside Python that some tests drive. Installs them where it may (root, apt-get); where it may not, says which
# tests will be skipped. Never fails: a missing program is the tests' to report.
set -u
cd "$(dirname "$0")/../.."

needed() { # program, how a test that needs it can be told, what is not run without it
  command -v "$1" >/dev/null 2>&1 && return
  grep -rqsF --include='*.py' "$2" tests || return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing $1 (once)…"
    apt_get install "$1" || { apt_get update && apt_get install "$1"; }
  fi
  command -v "$1" >/dev/null 2>&1 || echo "$1 is not here and could not be installed: $3 are not run"
}

apt_get() {
  mkdir -p .cache
  case $1 in
    install) DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -y -q --no-install-recommends "$2" ;;
    update) timeout 120 apt-get update -q ;;
  esac >>.cache/apt.log 2>&1 </dev/null
}

case $(uname) in Linux) needed strace strace 'the fault runs at each system call' ;; esac
needed chromium mark.browser 'the browser tests'
exit 0
