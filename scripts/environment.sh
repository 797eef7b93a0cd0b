# Sourced by scripts/serve and scripts/test, from the repository's root: an environment of the project's own, from uv.lock.
#
# Needs only Python 3.11, 3.12 or 3.13 with its venv module; ITEMLENS_PYTHON names another than the one chosen here.
# Leaves everything in .tools (uv itself) and .venv, and downloads in uv's own cache.
set -euo pipefail

wanted_python=${ITEMLENS_PYTHON:-}
unset ITEMLENS_PYTHON # the service would warn of a setting that it does not know

# What a Python runs as `-c PROGRAM KNOWN`: it fails where the Python does not fit or is one of KNOWN (paths, one a line), else
# it prints how many microseconds a little work takes, and the Python's path. Processor time, and the least of many short tries,
# so that other work on the machine does not decide.
python_probe='
import os, sys, time

if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit(1)
if any(os.path.samefile(sys.executable, known) for known in sys.argv[1].splitlines()):
    sys.exit(1)

import ensurepip, venv


def time_work():
    begun = time.process_time()
    for number in range(300):
        fields = dict(number=number, text=str(number), texts=[number])
        ",".join(f"{name}={value}" for name, value in fields.items()).split(",")
    return time.process_time() - begun


print(round(1e6 * min(time_work() for _ in range(60))), sys.executable)
'

# find_python: print the path of the Python to make environments with: the first that fits, or the quickest if that takes less
# than four fifths of the first one's time. Built without profile-guided optimisation, as pyenv does by default, a Python takes
# one and a half times as long for such work as a distribution's, and the service 3 % more processor time.
find_python() {
  local candidate found known='' first='' quickest=''
  # Each is started, since a command of that name may be there without its Python, or the Python without venv.
  while IFS= read -r candidate; do
    found=$("$candidate" -c "$python_probe" "$known" 2>/dev/null </dev/null) || continue
    found=${found##*$'\n'} # some say more than they are asked for
    known+=${found#* }$'\n'
    [ -n "$first" ] || first=$found quickest=$found
    if [ "${found%% *}" -lt "${quickest%% *}" ]; then quickest=$found; fi
  done < <(if [ -n "$wanted_python" ]; then echo "$wanted_python"; else type -ap python3.{12,13,11} python3 python; fi)
  if [ -n "$first" ]; then
    if [ $((5 * ${quickest%% *})) -lt $((4 * ${first%% *})) ]; then first=$quickest; fi
    echo "${first#* }"
    return
  fi
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
