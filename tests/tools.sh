#!/usr/bin/env bash
# Make sure that each TOOL is there. What is missing is installed with apt-get where no password is needed for that;
# else one message says what to type. Prints nothing when all are there.
#
#   tests/tools.sh TOOL…     venv, java, mvn, compose, pgbouncer, promtool, systemd-analyze
#                            broker: java and mvn, unless TICKLOOM_TEST_KAFKA or a Docker engine gives us one
#
# PYTHON is the interpreter whose venv is meant, python3 by default.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
cache=.cache/tools
export PATH="$PWD/$cache/usr/bin:$PWD/$cache/usr/sbin:$PATH"

there() {
  case $1 in
    venv) "$python" -c 'import ensurepip, venv' 2>/dev/null ;; # Debian's Python comes without
    compose) docker compose version >/dev/null 2>&1 || docker-compose version >/dev/null 2>&1 ;;
    pgbouncer) PATH="$PATH:/usr/sbin" pgbouncer --version >/dev/null 2>&1 ;; # with its libraries
    broker) [[ -n ${TICKLOOM_TEST_KAFKA:-} ]] || docker info >/dev/null 2>&1 || { there java && there mvn; } ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

debian_packages() {
  case $1 in
    venv) "$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])' ;;
    java) echo default-jre-headless ;;
    mvn) echo maven ;;
    broker) echo default-jre-headless maven ;;
    compose) echo docker-compose ;;
    pgbouncer) echo pgbouncer ;;
    promtool) if apt-cache show promtool >/dev/null 2>&1; then echo promtool; else echo prometheus; fi ;; # since Debian 13
    systemd-analyze) echo systemd ;;
  esac
}

# Only a program out of its package: installing all of it would start a server, of Prometheus or pgbouncer.
fetch() { # TOOL PATH
  local folder
  mkdir -p "$cache"
  folder=$(mktemp -d)
  (cd "$folder" && apt-get download -qq -o APT::Sandbox::User=root "$(debian_packages "$1")") >/dev/null 2>&1 &&
    dpkg-deb --fsys-tarfile "$folder"/*.deb | tar -x -C "$cache" "$2"
  rm -rf "$folder"
}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "$python is not there, or older than 3.11. Name a newer one: PYTHON=/path/to/python make …" >&2
  exit 1
fi

missing=() packages=()
note_missing() {
  missing=() packages=()
  for tool in "$@"; do
    if ! there "$tool"; then
      missing+=("$tool")
      read -ra names <<<"$(debian_packages "$tool")"
      packages+=("${names[@]}")
    fi
  done
}

note_missing "$@"
((${#missing[@]})) || exit 0

as_root=()
if [[ $(id -u) != 0 ]]; then as_root=(sudo -n); fi
if command -v apt-get >/dev/null && "${as_root[@]}" true 2>/dev/null; then
  echo "installing what is missing: ${missing[*]}"
  "${as_root[@]}" apt-get update -qq || true
  if [[ " ${missing[*]} " == *" promtool "* ]]; then
    fetch promtool ./usr/bin/promtool || true # then the package
  fi
  if [[ " ${missing[*]} " == *" pgbouncer "* ]]; then
    fetch pgbouncer ./usr/sbin/pgbouncer || true # where its libraries are not there, then the package
  fi
  note_missing "$@"
  if ((${#packages[@]})); then
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null || true
  fi
  note_missing "$@"
fi
if ((${#missing[@]})); then
  if command -v apt-get >/dev/null; then
    echo "Missing: ${missing[*]}. Type this, then the same again:" >&2
    echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${packages[*]}" >&2
  else
    echo "Missing: ${missing[*]}. Install them with this system's package manager, then type the same again." >&2
    echo "Debian has them in these packages: ${packages[*]}" >&2
  fi
  exit 1
fi
