# Sourced by train_large.sh, train_small.sh, inference.sh and setup_env.sh, with ROOT set to the repository.
#
#   launch scripts/NAME.py [ARGUMENT...]    replaces the shell by that Python program, started as
#     - one plain process;
#     - torchrun, if GPUS or NNODES is more than 1;
#     - one process of several, if mpiexec (or torchrun) has already started this shell.

: "${GPUS:=1}"         # processes on this machine, one per GPU (on the CPU: just processes)
: "${NNODES:=1}"       # machines; with more than one, run the same script on each of them, and set
: "${NODE_RANK:=}"     #   the number of this machine, from 0
: "${MASTER_ADDR:=}"   #   the name or address of machine 0
: "${MASTER_PORT:=29500}"

fail() {
    echo "error: $*" >&2
    exit 2
}

# The python to use: $PYTHON, the active virtual environment's, the repository's own, python3.
choose_python() {
    if [ -n "${PYTHON:-}" ]; then
        :
    elif [ -n "${VIRTUAL_ENV:-}" ] && [ -x "$VIRTUAL_ENV/bin/python" ]; then
        PYTHON=$VIRTUAL_ENV/bin/python
    elif [ -x "$ROOT/.venv/bin/python" ]; then
        PYTHON=$ROOT/.venv/bin/python
    else
        PYTHON=python3
    fi
    command -v "$PYTHON" >/dev/null 2>&1 ||
        fail "no $PYTHON here: install Python 3.10 or newer, or set PYTHON to the one to use"
}

# True if this shell is one of several processes started by mpiexec or torchrun.
# A job scheduler may set the MPI variables for a lone process as well: then the size is 1.
already_launched() {
    [ -n "${TORCHELASTIC_RUN_ID:-}" ] && return 0
    [ -n "${PMI_RANK:-}${OMPI_COMM_WORLD_RANK:-}${PMIX_RANK:-}" ] || return 1
    [ "${PMI_SIZE:-${OMPI_COMM_WORLD_SIZE:-${SLURM_STEP_NUM_TASKS:-}}}" != 1 ]
}

launch() {
    script=$ROOT/$1
    shift
    case $GPUS in '' | 0* | *[!0-9]* | ?????*) fail "GPUS=$GPUS: must be a whole number, 1 or more" ;; esac
    case $NNODES in '' | 0* | *[!0-9]* | ?????*) fail "NNODES=$NNODES: must be a whole number, 1 or more" ;; esac
    choose_python
    # glibc keeps freed memory for the next step instead of giving it back page by page (5 to 9% of a step on a CPU)
    : "${MALLOC_TRIM_THRESHOLD_:=2147483647}" "${MALLOC_MMAP_THRESHOLD_:=1073741824}"
    export MALLOC_TRIM_THRESHOLD_ MALLOC_MMAP_THRESHOLD_

    if already_launched || { [ "$GPUS" -eq 1 ] && [ "$NNODES" -eq 1 ]; }; then
        exec "$PYTHON" "$script" "$@"
    fi

    # torchrun would give each process a single CPU thread
    cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
    threads=$((cores / GPUS))
    [ "$threads" -ge 1 ] || threads=1
    : "${OMP_NUM_THREADS:=$threads}"
    export OMP_NUM_THREADS

    if [ "$NNODES" -eq 1 ]; then
        set -- --standalone --nproc_per_node="$GPUS" "$script" "$@"
    else
        case $NODE_RANK in '' | *[!0-9]* | ?????*) NODE_RANK=$NNODES ;; esac # none, as one that is too large
        [ "$NODE_RANK" -lt "$NNODES" ] ||
            fail "NNODES=$NNODES: set NODE_RANK to the number of this machine, from 0 to $((NNODES - 1))"
        case $MASTER_ADDR in
            '' | *[[:space:]/]*) fail "NNODES=$NNODES: set MASTER_ADDR to the name or address of machine 0" ;;
        esac
        { expr "$MASTER_PORT" : '[1-9][0-9]\{0,4\}$' >/dev/null && [ "$MASTER_PORT" -le 65535 ]; } ||
            fail "MASTER_PORT=$MASTER_PORT: must be a whole number, 1 to 65535"
        set -- --nnodes="$NNODES" --node_rank="$NODE_RANK" --nproc_per_node="$GPUS" \
            --master_addr="$MASTER_ADDR" --master_port="$MASTER_PORT" "$script" "$@"
    fi
    exec "$PYTHON" -m torch.distributed.run "$@"
}
