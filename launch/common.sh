# Functions of the launchers, which source this file.
# shellcheck shell=bash

# Number of Gaudi cards of this host.
gaudi_cards() {
  if [ -n "${HABANA_VISIBLE_MODULES:-}" ]; then
    tr ',' '\n' <<<"$HABANA_VISIBLE_MODULES" | wc -l
  elif command -v hl-smi >/dev/null; then
    hl-smi -Q index -f csv,noheader | grep -c '^[0-9]' || true
  else
    echo 0
  fi
}

# Number of ranks of this host: one per card, or one if there are none.
ranks_here() {
  local cards
  cards=$(gaudi_cards)
  if [ "$cards" = 0 ] && [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    cards=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | wc -l)
  elif [ "$cards" = 0 ] && command -v nvidia-smi >/dev/null; then
    cards=$(nvidia-smi -L | grep -c '^GPU' || true)
  fi
  echo $((cards > 0 ? cards : 1))
}

# Number of cores for each of $1 ranks.
cores_each() {
  local allowed physical cores
  allowed=$(env -u OMP_NUM_THREADS nproc)
  physical=$(lscpu -p=CORE,SOCKET | grep -v '^#' | sort -u | wc -l)
  cores=$((allowed < physical ? allowed : physical))
  echo $((cores > $1 ? cores / $1 : 1))
}

# A free port of this host.
free_port() {
  python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}

# Exit with one line if a variable named in the arguments is set to something other than a number.
# Bash would evaluate it in arithmetic, as code if it has the form x[$(command)].
check_numbers() {
  local name
  for name; do
    if ! [[ ${!name:-0} =~ ^(0|[1-9][0-9]{0,8})$ ]]; then
      printf 'error: %s=%q: set it to a number\n' "$name" "${!name}" >&2
      exit 2
    fi
  done
}

# A line "host slots" for each host of the host file $1; exits with one line if something else stands there.
hosts() {
  local line words word slots number=0 found=0
  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1)) slots=1
    read -ra words <<<"${line%%#*}"
    [ ${#words[@]} -gt 0 ] || continue
    for word in "${words[@]:1}"; do
      case $word in slots=*) slots=${word#slots=} ;; esac
    done
    if ! [[ ${words[0]} =~ ^[A-Za-z0-9.:_][A-Za-z0-9.:_-]*$ && $slots =~ ^[1-9][0-9]{0,5}$ ]]; then
      printf 'error: HOSTFILE=%q: line %d is not "HOST slots=NUMBER"\n' "$1" "$number" >&2
      return 2
    fi
    echo "${words[0]} $slots"
    found=1
  done <"$1"
  if [ "$found" = 0 ]; then
    printf 'error: HOSTFILE=%q lists no host\n' "$1" >&2
    return 2
  fi
}

# The index of this host in the host file $1, from 0.
index_here() {
  local lines mine host name index=0
  lines=$(hosts "$1") || return
  mine=" $(hostname) $(hostname -f) $(hostname -I) "
  while read -r host _; do
    for name in "$host" $(getent ahostsv4 "$host" | awk '{ print $1; exit }'); do
      case $mine in *" $name "*) echo "$index"; return ;; esac
    done
    index=$((index + 1))
  done <<<"$lines"
  echo "error: HOSTFILE=$1 lists none of$mine: add this host by one of them" >&2
  return 2
}

# The names of the variables to pass on to the ranks of all hosts. Some hold keys: their values never stand in an argument.
# mpirun passes on those of Open MPI (OMPI_) by itself.
variables_to_forward() {
  local begin='PT_|HCCL_|HCL_|HABANA_|HLS_|GC_|FI_|RDMA|OPAL_|TCMALLOC_|LOG_LEVEL_|ENABLE_CONSOLE|NCCL_|GLOO_|MASTER_|OMP_'
  begin+='|USE_CPU_AFFINITY|DS_ACC|BRIDGETOWER_|PYTHON|WANDB_|HF_|AWS_|KUBERNETES_SERVICE_HOST'
  compgen -e | grep -E "^($begin)|^(LD_LIBRARY_)?PATH\$|_(proxy|PROXY)\$"
}

# Preload what the launcher's host does, such as tcmalloc in the vendor's images, where this host has it too.
preload_as_the_launcher() {
  local library found=
  for library in ${BRIDGETOWER_PRELOAD//:/ }; do
    if [ -e "$library" ]; then
      found+=${found:+:}$library
    fi
  done
  export LD_PRELOAD=$found
}

# Run the command $2... as $job until it ends. What asks this script to end calls $1 with the signal, which lets the ranks save
# and exit. Returns the job's code, or 128 + signal where it is not 0 after one.
supervise() {
  local code=0
  python "${BASH_SOURCE[0]%/*}/own_session.py" $$ "${@:2}" &
  job=$! told='' interrupted=''
  # shellcheck disable=SC2064
  trap "told=TERM; $1 TERM" TERM HUP
  # shellcheck disable=SC2064
  trap "interrupt $1" INT
  while kill -0 "$job" 2>/dev/null; do
    wait "$job" || true # a signal interrupts it
  done
  wait "$job" || code=$?
  if [ "$code" != 0 ] && [ -n "$told" ]; then
    code=$((128 + $(kill -l "$told")))
  fi
  return "$code"
}

# SIGINT again after a pause ends the job; until then it is a key that is held.
interrupt() {
  local before=${interrupted:-$SECONDS}
  told=INT interrupted=$SECONDS
  if [ $((SECONDS - before)) -gt 5 ]; then
    kill "$job"
  else
    "$1" INT
  fi
}

# Let gloo, NCCL and hccl of a run on this host alone listen on the loopback.
stay_on_this_host() {
  export GLOO_SOCKET_IFNAME=lo NCCL_SOCKET_IFNAME=lo HCCL_SOCKET_IFNAME=lo
}

# Make gloo and hccl use the interface towards host $1.
# By default they resolve this host's name, which often is 127.0.1.1 on the host itself.
choose_interface() {
  local address interface
  address=$(ip -o route get "$(getent ahostsv4 "$1" | awk '{ print $1; exit }')" | sed -n 's/.* src \([^ ]*\).*/\1/p') || true
  interface=$(ip -o addr show to "${address:-none}" | awk '{ print $2; exit }') || true
  case $interface in
    '') echo "no interface towards $1: set GLOO_SOCKET_IFNAME and HCCL_SOCKET_IFNAME if ranks cannot connect" >&2 ;;
    lo) ;; # $1 is this host, by its local name
    *) export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$interface} HCCL_SOCKET_IFNAME=${HCCL_SOCKET_IFNAME:-$interface} ;;
  esac
}
