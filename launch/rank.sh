#!/usr/bin/env bash
# One rank, started by mpirun, srun or DeepSpeed: sets the variables that torch reads, and the network interface to rank 0.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/common.sh
. "$here/common.sh"

export BRIDGETOWER_PARENT=$PPID # with which it ends
if [ -z "${CROSS_RANK:-}" ]; then # DeepSpeed sets it, and the others as well
  export RANK=${OMPI_COMM_WORLD_RANK:-${SLURM_PROCID:?start this script with mpirun, srun or DeepSpeed}}
  export WORLD_SIZE=${OMPI_COMM_WORLD_SIZE:-${SLURM_NTASKS:-}}
  export LOCAL_RANK=${OMPI_COMM_WORLD_LOCAL_RANK:-${SLURM_LOCALID:-}}
  export LOCAL_WORLD_SIZE=${OMPI_COMM_WORLD_LOCAL_SIZE:-$((${SLURM_NTASKS:-1} / ${SLURM_STEP_NUM_NODES:-1}))}
elif [ "$RANK" = 0 ]; then
  echo $$ >"$BRIDGETOWER_RANK_0" || true # launch/deepspeed.sh was not started on this host
fi
export LOCAL_WORLD_SIZE=${LOCAL_WORLD_SIZE:-$LOCAL_SIZE} # DeepSpeed calls it LOCAL_SIZE
if [ "$LOCAL_WORLD_SIZE" = "$WORLD_SIZE" ]; then
  stay_on_this_host
else
  choose_interface "$MASTER_ADDR"
fi
if [ -n "${BRIDGETOWER_PRELOAD:-}" ]; then
  preload_as_the_launcher
fi
exec python "$here/near_card.py" python -m bridgetower_train train "$@"
