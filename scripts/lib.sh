# Shared by the scripts beside it: where things are, and how .venv comes to be. Sourced, never run.
# shellcheck shell=bash

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${VENV:-$root/.venv}"
python="$venv/bin/python"
torch_version="2.13.0"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PYTHONUTF8=1

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# The first interpreter that runs and is of a version penstock supports; PYTHON chooses another.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3 python}; do
        if "$candidate" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    die "no Python 3.11 to 3.13 found (tried: ${PYTHON:-python3.11 python3.12 python3.13 python3 python});" \
        "install one, or name it: PYTHON=/path/to/python $0"
}

ensure_venv() {
    if [[ -x $python ]] && "$python" -m pip --version >/dev/null 2>&1; then return; fi
    local base
    base="$(find_python)"
    say "making $venv with $("$base" --version)"
    "$base" -m venv --clear "$venv" || die "could not make $venv; on Debian and Ubuntu install python3-venv"
}

# One line that changes when the declared dependencies do.
fingerprint() { "$python" -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' \
    "$root/pyproject.toml"; }

stamped() { [[ -f "$venv/$1.stamp" && "$(cat "$venv/$1.stamp")" == "$(fingerprint)" ]]; }

stamp() { fingerprint >"$venv/$1.stamp"; }

# Runs a command while holding a lock, because two pips in one environment, or two builds, trip each other up.
locked() {
    mkdir -p "$root/build"
    if command -v flock >/dev/null; then
        (
            flock 9
            "$@" 9>&-
        ) 9>"$root/build/.lock"
    else
        "$@"
    fi
}

# What a build without isolation needs; the compiler is the machine's own.
build_tools() {
    "$python" -c 'import nanobind, scikit_build_core' 2>/dev/null && command -v "$venv/bin/ninja" >/dev/null && return
    say "installing build tools"
    "$python" -m pip install -q 'scikit-build-core>=0.11' 'nanobind>=2.9' 'ninja>=1.11'
}

# A developer's install: src/penstock itself is imported, and scripts/build puts the extension into it.
# The argument names extras.
developer_install() {
    local name="install-${1:-core}"
    if stamped "$name" && "$python" -c 'import importlib.metadata as m; m.version("penstock")' 2>/dev/null &&
        [[ ! -d "$(site_packages)/penstock" ]]; then return; fi
    build_tools
    say "installing penstock for development${1:+ with [$1]}"
    "$python" -m pip install -q --no-build-isolation -C wheel.cmake=false -C editable.mode=inplace \
        -e "$root${1:+[$1]}"
    stamp "$name"
}

site_packages() { "$python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))'; }

# Torch is an oracle of the tests, on the CPU. Asked for by its plain name, pip may take the CUDA build instead,
# which is several gigabytes.
ensure_torch() {
    if "$python" -c "import importlib.metadata as m, sys; sys.exit(m.version('torch').split('+')[0] != '$torch_version')" \
        2>/dev/null; then return; fi
    say "installing torch $torch_version for CPUs"
    "$python" -m pip install -q "torch==$torch_version+cpu" 2>/dev/null ||
        "$python" -m pip install -q --index-url https://download.pytorch.org/whl/cpu "torch==$torch_version" ||
        die "torch $torch_version for CPUs is not to be had for $("$python" --version);" \
            "try another Python: PYTHON=python3.11 VENV=/tmp/other $0"
}

# CMake 3.25 or later: the machine's own, else pip's.
find_cmake() {
    local candidate version
    for candidate in cmake "$venv/bin/cmake"; do
        version="$("$candidate" --version 2>/dev/null | sed -n 's/^cmake version \([0-9]*\.[0-9]*\).*/\1/p')" || true
        if [[ -n $version && "$(printf '%s\n3.25\n' "$version" | sort -V | head -n 1)" == 3.25 ]]; then
            echo "$candidate"
            return
        fi
    done
    "$python" -m pip install -q 'cmake>=3.25' >&2
    echo "$venv/bin/cmake"
}
