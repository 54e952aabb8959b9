#!/usr/bin/env bash
# One rank, as mpirun and srun start it: its place under the names that torch knows, and the network to rank 0.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"

export RANK=${OMPI_COMM_WORLD_RANK:-${SLURM_PROCID:?neither mpirun nor srun started this}}
export WORLD_SIZE=${OMPI_COMM_WORLD_SIZE:-${SLURM_NTASKS:-}}
export LOCAL_RANK=${OMPI_COMM_WORLD_LOCAL_RANK:-${SLURM_LOCALID:-}}
choose_interface "$MASTER_ADDR"
exec python -m bridgetower_train train "$@"
