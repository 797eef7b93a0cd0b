# Sourced by scripts/serve and scripts/test, from the repository's root: an environment of the project's own, from uv.lock.
#
# Needs only Python 3.11, 3.12 or 3.13 with its venv module; ITEMLENS_PYTHON names another than the first one found.
# Leaves everything in .tools (uv itself) and .venv, and downloads in uv's own cache.
set -euo pipefail

wanted_python=${ITEMLENS_PYTHON:-}
unset ITEMLENS_PYTHON # the service would warn of a setting that it does not know

# find_python: print the path of the Python to make environments with.
find_python() {
  local candidate candidates=(python3.12 python3.13 python3.11 python3 python)
  [ -z "$wanted_python" ] || candidates=("$wanted_python")
  # Each is started, since a command of that name may be there without its Python, or the Python without venv.
  for candidate in "${candidates[@]}"; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  if [ -n "$wanted_python" ]; then
    echo "itemlens: ITEMLENS_PYTHON must name a Python 3.11, 3.12 or 3.13 with venv; this is none: $wanted_python" >&2
  else
    echo "itemlens: found no Python 3.11, 3.12 or 3.13 with venv; install one (Debian: apt install python3 python3-venv)" \
      "or name it in ITEMLENS_PYTHON" >&2
  fi
  return 1
}

# install_uv: put the locked uv at .tools/uv, in one step, so that scripts may start side by side.
install_uv() {
  local python builder=.tools/builder.$$
  if [ -x .tools/uv ] && cmp -s scripts/uv-requirements.txt .tools/uv-requirements.txt 2>/dev/null; then
    return
  fi
  python=$(find_python)
  echo "itemlens: installing uv into .tools (once)" >&2
  "$python" -m venv --clear "$builder"
  "$builder/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r scripts/uv-requirements.txt
  mv "$builder/bin/uv" .tools/uv
  cp scripts/uv-requirements.txt .tools/
  rm -rf "$builder"
}

# is_synced NAME: whether .venv was last brought to this uv.lock for NAME. All that a second start waits for.
is_synced() {
  [ -z "$wanted_python" ] && [ -x .venv/bin/python ] && cmp -s uv.lock ".venv/$1.lock" 2>/dev/null
}

# sync_environment NAME ARG...: bring .venv to what uv.lock says for NAME; ARGs go to `uv sync`.
sync_environment() {
  local name=$1 python=.venv/bin/python verbosity=--quiet
  shift
  install_uv
  if ! is_synced "$name"; then
    echo "itemlens: preparing the environment in .venv (once per change of uv.lock)" >&2
    if [ -t 2 ]; then verbosity=''; fi
  fi
  if [ -n "$wanted_python" ] || [ ! -x "$python" ]; then
    python=$(find_python)
  fi
  rm -f .venv/*.lock
  # Frozen: the lock file is believed as it is, so that a package mirror set for uv cannot make it look out of date.
  VIRTUAL_ENV='' UV_PROJECT_ENVIRONMENT=.venv UV_PYTHON_DOWNLOADS=never \
    .tools/uv sync $verbosity --frozen --no-install-project --python "$python" "$@"
  cp uv.lock ".venv/$name.lock"
}
