#!/usr/bin/env bash
# Train with DeepSpeed's launcher, on one host or several. The arguments are Hydra overrides.
#
#   bash launch/deepspeed.sh engine=zero2 experiment=demo run_dir=runs/demo    # this host
#   HOSTFILE=hosts bash launch/deepspeed.sh engine=zero2 experiment=...        # from the first of the hosts: launch/hostfile.example
#
# The hosts, including this one, are reached by pdsh and ssh, and have this folder and Python under the same paths.
# The variables listed in launch/common.sh are forwarded; more can be set in .deepspeed_env, here or in the home folder.
# NPROC        ranks without a host file; default: one per card, or one on the CPU
# CORES        cores per rank; default: an equal share of this host's
# SSH_PORT     ssh port of the hosts; default: 22.  PDSH_SSH_ARGS_APPEND  more options for ssh, such as "-i key"
# MASTER_ADDR  rank 0's host; default: the first one.  MASTER_PORT  its port; default: a free one
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/common.sh
. "$here/common.sh"

python -m bridgetower_train train "$@" --cfg job >/dev/null # report a wrong key here, not on every rank
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
if [ -n "${HOSTFILE:-}" ]; then
  hosts "$HOSTFILE"
else
  echo "localhost ${NPROC:-$(ranks_here)}"
fi | sed 's/ / slots=/' >"$folder/hosts"
read -r first each < <(hosts "$folder/hosts")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${CORES:-$(cores_each "$each")}}
export BRIDGETOWER_RANK_0="$folder/rank_0" # where launch/rank.sh writes its process id

export DS_ENV_FILE="$folder/.deepspeed_env"
cat ~/.deepspeed_env .deepspeed_env >"$DS_ENV_FILE" 2>/dev/null || true
for name in $(variables_to_forward) BRIDGETOWER_RANK_0; do # DeepSpeed puts values in double quotes, and pdsh replaces %n
  printf '%s=%s\n' "$name" "${!name}" | sed 's/[\\"$`]/\\&/g; s/%/%%/g' >>"$DS_ENV_FILE"
done
if [ "$(wc -l <"$folder/hosts")" -gt 1 ]; then # the other hosts' shells parse the arguments; DeepSpeed quotes only spaces
  for argument in "$@"; do
    printf -v argument %q "${argument//%/%%}"
    set -- "${@:2}" "${argument//\\ /\$\'\\x20\'}"
  done
fi

# On SIGTERM and SIGINT DeepSpeed would kill the loader workers first. A signal to rank 0 makes all ranks save and exit.
setsid python -m deepspeed.launcher.runner --hostfile "$folder/hosts" --no_ssh_check ${SSH_PORT:+--ssh_port "$SSH_PORT"} \
  --master_addr "${MASTER_ADDR:-$first}" --master_port "${MASTER_PORT:-$(free_port)}" \
  --no_local_rank --no_python bash "$here/rank.sh" "$@" &
job=$!
trap 'kill -USR1 "$(cat "$BRIDGETOWER_RANK_0")" 2>/dev/null || kill "$job"' TERM INT
while kill -0 "$job" 2>/dev/null; do
  wait "$job" || true # a signal interrupts it
done
wait "$job"
