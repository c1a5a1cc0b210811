# Makes and activates the project's Python environment. Source it from bash or zsh:
#
#     source setenv.sh
#
# The first time it makes .venv with Python 3.10 or newer and installs requirements.txt,
# requirements-dev.txt and the project itself (editable) into it; later it only activates it, unless one
# of those files, the Python version or the folder's place has changed. pip's output: .venv/install.log.
# On a machine without a GPU, the much smaller CPU build of torch is taken with
#
#     PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu source setenv.sh
#
# The installing is done by a bash process of its own, this very file run with --install, so that no option,
# variable or working directory of the caller's shell changes and no failure ends that shell.

# ---- part 1: sourced; runs in the caller's shell ----

_context_i2w_setenv() {
    local root
    root="$(command bash -- "$1" --install)" || return 1
    . "$root/.venv/bin/activate"
    # torch's waiting threads sleep instead of spinning, for programs too that do not import context_i2w first
    [ -n "${OMP_WAIT_POLICY+x}${GOMP_SPINCOUNT+x}${KMP_BLOCKTIME+x}" ] || export OMP_WAIT_POLICY=passive
}

if [ "${BASH_VERSION:-}" ] && [ "${BASH_SOURCE:-}" = "$0" ]; then
    : # executed, not sourced: part 2 below
elif [ "${ZSH_VERSION:-}" ]; then
    # ${(%):-%x} is zsh's name of this file; other shells cannot parse it, hence eval
    if eval '_context_i2w_setenv "${(%):-%x}"'; then
        unset -f _context_i2w_setenv
        return 0
    else
        unset -f _context_i2w_setenv
        return 1
    fi
else
    if _context_i2w_setenv "${BASH_SOURCE:-setenv.sh}"; then
        unset -f _context_i2w_setenv
        return 0
    else
        unset -f _context_i2w_setenv
        return 1
    fi
fi

# ---- part 2: executed by part 1; prints the project's folder on stdout, everything else on stderr ----

set -u
say() { echo "setenv: $*" >&2; }
fail() { say "$*"; exit 1; }

[ "${1:-}" = "--install" ] || fail "source this file instead of running it: source ${BASH_SOURCE[0]}"
trap 'echo >&2; fail "interrupted; source setenv.sh again to finish"' INT TERM

unset CDPATH
root="$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)" || fail "cannot enter the project's folder"
venv="$root/.venv"
python="$venv/bin/python"
log="$venv/install.log"
stamp="$venv/.installed"      # what was installed; absent while an install is unfinished
unfinished="$venv/.unfinished" # an install began and did not end

# Prints a hash of everything that decides what is installed; fails if $python does not run.
wanted() {
    (cd -- "$root" && "$python" -I - requirements.txt requirements-dev.txt pyproject.toml <<'EOF'
import hashlib, os, sys
if sys.version_info < (3, 10):
    sys.exit(1)
digest = hashlib.sha256(repr((sys.version, os.getcwd())).encode())
for name in sys.argv[1:]:
    digest.update(open(name, "rb").read())
print(digest.hexdigest())
EOF
    ) 2>/dev/null
}

# Prints the first Python that can make an environment. One inside .venv itself does not count.
find_python() {
    local name
    for name in python3.13 python3.12 python3.11 python3.10 python3 python; do
        if "$name" -I -c "import os, sys, venv, ensurepip
sys.exit(sys.version_info < (3, 10) or os.path.realpath(sys.prefix) == os.path.realpath(sys.argv[1]))" "$venv"; then
            command -v "$name"
            return 0
        fi
    done 2>/dev/null
    return 1
}

# One line that says why the step failed, from the end of the log.
explain() {
    local recent reason
    recent="$(tail -n 40 "$log" 2>/dev/null)"
    reason="$(grep -Ei '^ *[a-z.]*error:' <<<"$recent" | head -n 1 | sed 's/^ *//')"
    case "$recent" in
        *"No space left on device"*)
            fail "$1 failed: the disk is full; free some 8 GB (also under ${TMPDIR:-/tmp}) and source setenv.sh again" ;;
        *[Cc]"onnection"* | *"Temporary failure"* | *"timed out"* | *"ProxyError"* | *"Name or service not known"*)
            fail "$1 failed: no network to the package index; connect or set PIP_INDEX_URL, then source setenv.sh again ($log)" ;;
        *)
            fail "$1 failed: ${reason:-pip or venv gave no reason} (all of it in $log); mend it and source setenv.sh again" ;;
    esac
}

# Whether the environment there is can be added to. A half-done install can leave packages that pip takes for
# whole, and a moved folder has scripts that point to its old place: both are begun anew.
usable() {
    [ -n "$current" ] && [ ! -e "$unfinished" ] && grep -qF -- "$venv" "$venv/bin/activate" \
        && "$python" -I -m pip --version
} >/dev/null 2>&1

make_venv() {
    local base
    base="$(find_python)" || fail "no Python 3.10 or newer with its venv module found; install one" \
        "(Debian or Ubuntu: apt install python3 python3-venv; macOS: brew install python) and source setenv.sh again"
    say "making $venv with $("$base" --version)"
    { mkdir -p -- "$venv" && : >"$unfinished"; } 2>/dev/null \
        || fail "cannot write $venv (disk full or no permission); make room there and source setenv.sh again"
    find "$venv" -mindepth 1 -maxdepth 1 ! -name .unfinished -exec rm -rf {} +
    "$base" -I -m venv -- "$venv" >"$log" 2>&1 || explain "making .venv"
}

install() {
    : >"$unfinished" || fail "cannot write $venv (disk full or no permission); make room there and source setenv.sh again"
    rm -f -- "$stamp"
    say "installing packages, several minutes the first time (progress: tail -f $log)"
    cd -- "$root" || fail "cannot enter $root"
    "$python" -I -m pip --disable-pip-version-check install -r requirements.txt -r requirements-dev.txt >>"$log" 2>&1 \
        || explain "installing the packages"
    "$python" -I -m pip --disable-pip-version-check install --no-deps -e . >>"$log" 2>&1 \
        || explain "installing the project"
    wanted >"$stamp" 2>/dev/null && [ -s "$stamp" ] \
        || { rm -f -- "$stamp"; fail "cannot write $stamp (disk full?); make room and source setenv.sh again"; }
    rm -f -- "$unfinished"
    say "ready: $("$python" --version) in $venv"
}

current="$(wanted)" || current=""
if [ -z "$current" ] || [ "$current" != "$(cat -- "$stamp" 2>/dev/null)" ]; then
    usable || make_venv
    install
fi
echo "$root"
