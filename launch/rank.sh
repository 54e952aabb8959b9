#!/usr/bin/env bash
# One rank, as mpirun, srun and DeepSpeed start it: its place under the names that torch knows, and the network to rank 0.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"

if [ -z "${CROSS_RANK:-}" ]; then # which is DeepSpeed's, and so are the others then
  export RANK=${OMPI_COMM_WORLD_RANK:-${SLURM_PROCID:?neither mpirun nor srun nor DeepSpeed started this}}
  export WORLD_SIZE=${OMPI_COMM_WORLD_SIZE:-${SLURM_NTASKS:-}}
  export LOCAL_RANK=${OMPI_COMM_WORLD_LOCAL_RANK:-${SLURM_LOCALID:-}}
elif [ "$RANK" = 0 ]; then
  echo $$ >"$BRIDGETOWER_RANK_0" || true # launch/deepspeed.sh was not started on this host
fi
choose_interface "$MASTER_ADDR"
exec python -m bridgetower_train train "$@"
