#!/usr/bin/env bash
# One rank, started by mpirun, srun or DeepSpeed: sets the variables that torch reads, and the network interface to rank 0.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"

if [ -z "${CROSS_RANK:-}" ]; then # DeepSpeed sets it, and the others as well
  export RANK=${OMPI_COMM_WORLD_RANK:-${SLURM_PROCID:?start this script with mpirun, srun or DeepSpeed}}
  export WORLD_SIZE=${OMPI_COMM_WORLD_SIZE:-${SLURM_NTASKS:-}}
  export LOCAL_RANK=${OMPI_COMM_WORLD_LOCAL_RANK:-${SLURM_LOCALID:-}}
elif [ "$RANK" = 0 ]; then
  echo $$ >"$BRIDGETOWER_RANK_0" || true # launch/deepspeed.sh was not started on this host
fi
choose_interface "$MASTER_ADDR"
exec python -m bridgetower_train train "$@"
