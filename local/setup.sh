#!/usr/bin/env bash
# Make the environments that the Makefile works with. Run by make; quick when nothing changed.
#   local/setup.sh dev    .venv      what the functions import, and what testing needs
#   local/setup.sh sam    .venv-sam  the SAM CLI, apart: its pins contradict ours
#   local/setup.sh audit  .venv-audit  checkov and pip-audit, apart for the same reason
#   local/setup.sh python            print the interpreter that would be used
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fits() { # a path: is it a working CPython, exactly 3.13 ("$2" = exact) or later, with venv?
  [[ -x "$1" ]] && "$1" - "${2:-later}" >/dev/null 2>&1 <<'PY'
import sys
import ensurepip, venv  # Debian leaves ensurepip out of python3 itself
version = sys.version_info[:2]
sys.exit(0 if version == (3, 13) or (sys.argv[1] == "later" and version > (3, 13)) else 1)
PY
}

candidates() { # every place a 3.13 or later is likely to be, best first
  local root
  for name in python3.13 python3 python3.14 python3.15; do type -aP "$name" 2>/dev/null || true; done
  for root in "${PYENV_ROOT:-}" "${HOME:-/nonexistent}/.pyenv" /opt/pyenv /usr/local/pyenv; do
    [[ -n "$root" ]] && printf '%s\n' "$root"/versions/3.1[3-9]*/bin/python
  done
  printf '%s\n' "${UV_PYTHON_INSTALL_DIR:-$HOME/.local/share/uv/python}"/cpython-3.1[3-9]*/bin/python3 \
    "$HOME"/.local/bin/python3.1[3-9] "$HOME"/.asdf/installs/python/3.1[3-9]*/bin/python \
    "$HOME"/.local/share/mise/installs/python/3.1[3-9]*/bin/python \
    /usr/bin/python3.1[3-9] /usr/local/bin/python3.1[3-9] /opt/python*/bin/python3.1[3-9] /opt/*/bin/python3.1[3-9] \
    /opt/homebrew/bin/python3.1[3-9] /Library/Frameworks/Python.framework/Versions/3.1[3-9]/bin/python3
}

find_python() {
  local found each
  mapfile -t found < <(candidates)
  for wanted in exact later; do
    for each in "${found[@]}"; do
      if fits "$each" "$wanted"; then
        # Through pyenv's shims to the interpreter itself: a shim follows the folder it is called in.
        "$each" -c 'import sys; print(sys.executable)'
        return
      fi
    done
  done
  cat >&2 <<'TEXT'
No Python 3.13 was found (looked on PATH, in pyenv, uv, asdf and mise folders, /usr, /usr/local and /opt).
Install one of these, then run the same command again:
    pyenv install 3.13                            https://github.com/pyenv/pyenv
    uv python install 3.13                        https://docs.astral.sh/uv
    apt-get install python3.13 python3.13-venv    Debian 13 and Ubuntu 25.04 or later
A Python without venv and ensurepip does not count: on Debian they come with python3.13-venv.
TEXT
  return 1
}

make_environment() { # folder, lock file
  local folder=$1 lock=$2 stamp python
  stamp="$folder/.made-from-$(sha256sum "$lock" | cut -c1-16)"
  [[ -e "$stamp" ]] && "$folder/bin/python" -c '' 2>/dev/null && return
  # Two makes at once wait for each other rather than install into each other's folder.
  exec 9>"$folder.lock"
  if command -v flock >/dev/null; then flock 9; fi
  [[ -e "$stamp" ]] && "$folder/bin/python" -c '' 2>/dev/null && return
  if ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    echo "Making $folder with $("$python" --version)" >&2
    "$python" -m venv --clear "$folder"
  fi
  echo "Installing $lock into $folder (once; about a minute)" >&2
  "$folder/bin/python" -m pip install -qq --disable-pip-version-check --no-input --require-hashes -r "$lock"
  rm -f "$folder"/.made-from-*
  touch "$stamp"
}

case "${1:-dev}" in
  dev) make_environment .venv local/requirements/dev.txt ;;
  sam) make_environment .venv-sam local/requirements/sam.txt ;;
  audit) make_environment .venv-audit local/requirements/audit.txt ;;
  python) find_python ;;
  *) echo "usage: local/setup.sh dev|sam|audit|python" >&2; exit 2 ;;
esac
