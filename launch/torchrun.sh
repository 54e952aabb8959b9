#!/usr/bin/env bash
# Train with torchrun, on one host or several. The arguments are Hydra overrides.
#
#   bash launch/torchrun.sh experiment=demo run_dir=runs/demo                       # one host
#   NODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 bash launch/torchrun.sh experiment=... # on each host, NODE_RANK from 0
#   HOSTFILE=hosts bash launch/torchrun.sh experiment=...                           # on each host: launch/hostfile.example
#
# NPROC         ranks on this host; default: one per card, or one on the CPU
# MASTER_PORT   port of host 0, which uses the next one too; default: 29500. A single host has no such port
# MAX_RESTARTS  how often all ranks may restart from the newest checkpoint after one was lost; default: 3
# All hosts must have the same data.root and run_dir.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/common.sh
. "$here/common.sh"

check_numbers NODES NODE_RANK NPROC MASTER_PORT MAX_RESTARTS
if [ -n "${HOSTFILE:-}" ]; then
  NODE_RANK=$(index_here "$HOSTFILE")
  lines=$(hosts "$HOSTFILE")
  NODES=$(wc -l <<<"$lines")
  NPROC=$(awk -v line=$((NODE_RANK + 1)) 'NR == line { print $2 }' <<<"$lines")
  MASTER_ADDR=${MASTER_ADDR:-${lines%% *}}
fi
NODES=${NODES:-1} NPROC=${NPROC:-$(ranks_here)}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(cores_each "$NPROC")}
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # or restarted ranks may read the addresses of the previous ones

if [ "$NODES" = 1 ]; then
  stay_on_this_host
  meet=(--rdzv-backend=c10d --rdzv-conf=store_type=file --local-addr=127.0.0.1) # a temporary file: no port
else
  : "${NODE_RANK:?set it to the index of this host, from 0}" "${MASTER_ADDR:?set it to the address of host 0}"
  MASTER_PORT=${MASTER_PORT:-29500}
  # The c10d backend would unpickle what anyone writes into its store, which listens on all interfaces. The static backend's
  # listens there too, so that ranks do not use it, but a store of rank 0 on one interface.
  export BRIDGETOWER_STORE_PORT=$((MASTER_PORT + 1))
  meet=(--nnodes="$NODES" --node-rank="$NODE_RANK" --rdzv-backend=static --rdzv-endpoint="$MASTER_ADDR:$MASTER_PORT")
  choose_interface "$MASTER_ADDR"
fi

python -m bridgetower_train train "$@" --cfg job >/dev/null # report a wrong key here, not on every rank

# On SIGTERM and SIGINT torchrun would kill the ranks 30 seconds later, saved or not, and exit with 1.
tell_ranks() {
  if [ -z "${ranks+x}" ]; then
    ranks=$(ranks_now)
    end_instead_of_a_restart &
  fi
  # shellcheck disable=SC2086
  kill -"$1" ${ranks:-"$job"} 2>/dev/null || true
}

# torchrun's children: the ranks of this host.
ranks_now() {
  cat "/proc/$job/task/"*/children 2>/dev/null || true
}

# torchrun starts ranks again that have ended with another code than 0, as they do for Kubernetes and Slurm.
end_instead_of_a_restart() {
  local rank
  while sleep 0.2 && kill -0 "$job" 2>/dev/null; do
    for rank in $(ranks_now); do
      case " $ranks " in *" $rank "*) ;; *) kill "$job"; return ;; esac
    done
  done
}

# BRIDGETOWER_PARENT: the ranks end with torchrun, also while they start
# shellcheck disable=SC2016
supervise tell_ranks bash -c 'BRIDGETOWER_PARENT=$$ exec python -m torch.distributed.run "$@"' torchrun \
  "${meet[@]}" --nproc-per-node="$NPROC" --max-restarts="${MAX_RESTARTS:-3}" \
  "$here/near_card.py" python -u -m bridgetower_train train "$@"
