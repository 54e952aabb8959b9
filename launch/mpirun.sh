#!/usr/bin/env bash
# Train with Open MPI's mpirun, on one host or several. The arguments are Hydra overrides.
#
#   bash launch/mpirun.sh experiment=demo run_dir=runs/demo    # this host
#   HOSTFILE=hosts bash launch/mpirun.sh experiment=...        # from the first of the hosts: launch/hostfile.example
#
# The hosts are reached by ssh (OMPI_MCA_plm_rsh_args="-p 3022" for another port) and have this folder under the same path.
# NPROC        ranks without a host file; default: one per card, or one on the CPU
# CORES        threads per rank; default: an equal share of this host's cores
# MASTER_ADDR  rank 0's host; default: the first one.  MASTER_PORT  its port; default: a free one
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/common.sh
. "$here/common.sh"

check_numbers NPROC CORES MASTER_PORT
if [ -n "${HOSTFILE:-}" ]; then
  lines=$(hosts "$HOSTFILE")
  ranks=$(awk '{ sum += $2 } END { print sum }' <<<"$lines")
  read -r first each <<<"$lines"
  where=(-n "$ranks" --hostfile "$HOSTFILE")
else
  first=127.0.0.1 each=${NPROC:-$(ranks_here)}
  where=(-n "$each" --host "localhost:$each")
fi
where+=(--bind-to none) # mpirun does not know near which cores a card is; launch/near_card.py binds the ranks
if [ "$(id -u)" = 0 ]; then
  where+=(--allow-run-as-root)
fi
if [ -n "${MPI_ROOT:-}" ]; then # as in the vendor's images; ssh does not set the path
  where+=(--prefix "$MPI_ROOT")
fi

export MASTER_ADDR=${MASTER_ADDR:-$first} MASTER_PORT=${MASTER_PORT:-$(free_port)} BRIDGETOWER_PRELOAD=${LD_PRELOAD:-}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${CORES:-$(cores_each "$each")}}
for name in $(variables_to_forward); do
  where+=(-x "$name")
done

# On SIGTERM and SIGINT mpirun would kill the ranks within seconds; SIGUSR1 it forwards.
tell_ranks() {
  kill -USR1 "$job"
}

supervise tell_ranks mpirun "${where[@]}" bash "$here/rank.sh" "$@"
