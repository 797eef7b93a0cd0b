# Sourced by scripts/serve and scripts/test: an environment of the project's own, made from uv.lock.
#
# Needs only Python 3.11, 3.12 or 3.13 with its venv module. Leaves everything in .tools (uv itself) and .venv.
set -euo pipefail
uv_version=0.13.9

find_python() {
  local candidate
  for candidate in ${ITEMLENS_PYTHON:-} python3.12 python3.13 python3.11 python3; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  echo "itemlens: needs Python 3.11, 3.12 or 3.13 with venv (Debian: apt install python3 python3-venv); set ITEMLENS_PYTHON to name one" >&2
  return 1
}

# sync_environment ARG...: bring .venv to what uv.lock says; arguments go to `uv sync`.
sync_environment() {
  local python
  if [ ! -x .tools/bin/uv ] || [ "$(.tools/bin/uv --version | cut -d' ' -f2)" != "$uv_version" ]; then
    python=$(find_python)
    echo "itemlens: preparing the environment in .venv (once)" >&2
    "$python" -m venv --clear .tools
    .tools/bin/python -m pip install --quiet --disable-pip-version-check "uv==$uv_version"
  fi
  if [ ! -x .venv/bin/python ]; then
    python=$(find_python)
    .tools/bin/uv venv --quiet --python "$python" .venv
  fi
  VIRTUAL_ENV= UV_PROJECT_ENVIRONMENT=.venv UV_PYTHON_DOWNLOADS=never .tools/bin/uv sync --quiet --locked --no-install-project "$@"
}
