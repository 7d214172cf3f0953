# Run by itself, as `bash scripts/setup_env.sh`: sets up what training, generation and evaluation need.
# Sourced by quickstart.sh, test.sh and the other setup scripts, with ROOT set to the repository:
#
#   setup_env FILE...    sets and exports PYTHON: a python with what these requirements files ask for.
#     It is $PYTHON or the active environment's if that has it all; else .venv's, made where needed.
#   side_env NAME        after setup_env: sets venv to an environment of its own, NAME, that sees PYTHON's packages.

alone=
case $0 in *setup_env.sh)
    set -eu
    alone=yes
    ROOT=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
    ;;
esac
. "$ROOT/scripts/launch.sh"

# lacking PYTHON FILE...: prints the first requirement that is not met; nothing if all are.
lacking() {
    python=$1
    shift
    "$python" - "$@" <<'EOF'
import sys
from importlib.metadata import PackageNotFoundError, version

try:
    from packaging.requirements import Requirement  # comes with matplotlib
except ImportError:
    sys.exit(print("what Defect-Gen needs"))
for path in sys.argv[1:]:
    for line in open(path):
        line = line.split("#")[0].strip()
        if not line or line.startswith("-"):
            continue
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate():
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            found = None
        if found is None or not wanted.specifier.contains(found):
            sys.exit(print(wanted.name + str(wanted.specifier)))
EOF
}

setup_env() {
    files=$*
    for name in $files; do
        set -- "$@" "$ROOT/$name"
        shift
    done
    venv=$ROOT/.venv
    unfinished=$venv/unfinished # is there while .venv is being filled
    [ ! -e "$unfinished" ] || rm -rf "$venv"

    choose_python
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
        fail "$PYTHON is not Python 3.10 or newer: install that, or set PYTHON to where it is"
    base=$PYTHON
    lacks=$(lacking "$base" "$@")
    base_lacks=$lacks
    if [ -n "$lacks" ] && [ -x "$venv/bin/python" ]; then
        PYTHON=$venv/bin/python
        lacks=$(lacking "$PYTHON" "$@")
    fi

    if [ -n "$lacks" ]; then
        echo "$base lacks $base_lacks: installing $files into $venv (once, some minutes)"
        if [ ! -x "$venv/bin/python" ]; then
            rm -rf "$venv"
            mkdir -p "$venv"
            : >"$unfinished"
            "$base" -m venv "$venv" ||
                fail "$base could not make $venv (on Debian and Ubuntu: apt install python3-venv)"
        fi
        PYTHON=$venv/bin/python
        : >"$unfinished"
        for file in "$@"; do
            "$PYTHON" -m pip install -qq --disable-pip-version-check -r "$file" ||
                fail "pip could not install $file: its reason is above; mend that and run this again"
        done
        rm -f "$unfinished"
    fi
    export PYTHON
}

side_env() {
    venv=$ROOT/$1
    [ -x "$venv/bin/python" ] || "$PYTHON" -m venv "$venv"
    echo '*' >"$venv/.gitignore"
    site='import sysconfig; print(sysconfig.get_path("purelib"))'
    "$PYTHON" -c "$site" >"$("$venv/bin/python" -c "$site")/project.pth"
}

[ -z "$alone" ] || {
    setup_env requirements.txt requirements-eval.txt
    echo "ready: $PYTHON"
}
