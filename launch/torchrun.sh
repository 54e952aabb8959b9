#!/usr/bin/env bash
# Train with torchrun, on one host or several. The arguments are Hydra overrides.
#
#   bash launch/torchrun.sh experiment=demo run_dir=runs/demo                       # one host
#   NODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 bash launch/torchrun.sh experiment=... # on each host, NODE_RANK from 0
#   HOSTFILE=hosts bash launch/torchrun.sh experiment=...                           # on each host: launch/hostfile.example
#
# NPROC         ranks on this host; default: one per card, or one on the CPU
# MASTER_PORT   port of host 0; default: 29500, or a free one for a single host
# MAX_RESTARTS  how often all ranks may restart from the newest checkpoint after one was lost; default: 3
# All hosts must have the same data.root and run_dir.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"

if [ -n "${HOSTFILE:-}" ]; then
  NODE_RANK=$(index_here "$HOSTFILE")
  NODES=$(hosts "$HOSTFILE" | wc -l)
  NPROC=$(hosts "$HOSTFILE" | awk -v line=$((NODE_RANK + 1)) 'NR == line { print $2 }')
  MASTER_ADDR=${MASTER_ADDR:-$(hosts "$HOSTFILE" | awk 'NR == 1 { print $1 }')}
fi
NODES=${NODES:-1} NPROC=${NPROC:-$(ranks_here)}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(cores_each "$NPROC")}
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600} # seconds for saving after a signal
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # or restarted ranks may read the addresses of the previous ones

if [ "$NODES" = 1 ]; then
  meet=(--standalone)
else
  : "${NODE_RANK:?set it to the index of this host, from 0}" "${MASTER_ADDR:?set it to the address of host 0}"
  meet=(--nnodes="$NODES" --rdzv-backend=c10d --rdzv-id=bridgetower
    --rdzv-endpoint="$MASTER_ADDR:${MASTER_PORT:-29500}" --rdzv-conf="is_host=$((NODE_RANK == 0))")
  choose_interface "$MASTER_ADDR"
  meet+=(${address:+"--local-addr=$address"})
fi

python -m bridgetower_train train "$@" --cfg job >/dev/null # report a wrong key here, not on every rank
exec python -m torch.distributed.run "${meet[@]}" --nproc-per-node="$NPROC" --max-restarts="${MAX_RESTARTS:-3}" \
  -m bridgetower_train train "$@"
