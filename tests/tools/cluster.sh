#!/usr/bin/env bash
# A private PostgreSQL cluster with the extension preloaded, on a Unix socket and a loopback port:
#   tests/tools/cluster.sh create DIR [OPTIONS]    create it, with these options of initdb
#   tests/tools/cluster.sh start DIR [PORT]        create it if need be, and start it (default: a free port;
#                                                  "-": where its postgresql.conf says)
#   tests/tools/cluster.sh stop DIR [MODE]         stop it (default: fast)
#   tests/tools/cluster.sh psql DIR [ARGS]         psql as its superuser, postgres
#   tests/tools/cluster.sh env DIR                 what other clients need to know of it: PGHOST=...
#   tests/tools/cluster.sh remove DIR              stop it and delete it
# PG_CONFIG names the server (default: the newest one installed), CLUSTER_USER the user that runs it
# when root calls (default: postgres; PostgreSQL refuses to run as root). The cluster is for
# development: every user of the machine can log in to it. The demo uses this script, and the tests and
# benchmarks do by tests/harness/cluster.py.
set -euo pipefail

fail() { echo "cluster.sh: $*" >&2; exit 1; }
usage() { sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

[ $# -ge 2 ] || usage
action=$1
dir=$(realpath -m -- "$2")
shift 2

pg_config=${PG_CONFIG:-$("$(dirname "${BASH_SOURCE[0]}")"/pg_config.sh)}
[ -n "$pg_config" ] || fail 'no PostgreSQL server found; set PG_CONFIG'
bin=$("$pg_config" --bindir)
server_user=$(id -un)
if [ "$EUID" = 0 ]; then server_user=${CLUSTER_USER:-postgres}; fi

# Server programs run from /, because their user may not be allowed into the caller's directory.
as_server() {
    if [ "$EUID" = 0 ]; then
        (cd / && exec runuser -u "$server_user" -- "$@")
    else
        (cd / && exec "$@")
    fi
}

# Whether the server can live in a directory. Its user must reach it, and the path of a socket is limited
# to 107 bytes, 15 of which "/.s.PGSQL.65535" takes.
habitable() {
    [ ${#1} -le 92 ] && as_server test -d "$1" || return 1
    if [ "$EUID" = 0 ]; then chown "$server_user" "$1"; fi
    as_server test -w "$1"
}

# Finds where the cluster lives: in DIR or, if the server cannot live there, in a directory for temporary
# files, whose name DIR/location keeps. Such a directory counts only while the server's user owns it,
# because it may have been deleted, and any user can make a directory of that name under /tmp.
locate() {
    home=$dir
    local elsewhere
    if [ -s "$dir/location" ]; then
        elsewhere=$(cat "$dir/location")
        if [ -d "$elsewhere" ] && [ "$(stat -c %U "$elsewhere")" = "$server_user" ]; then home=$elsewhere; fi
    fi
    data=$home/data log=$home/log
}
settle() {
    id "$server_user" >/dev/null 2>&1 ||
        fail "root cannot run PostgreSQL and there is no user $server_user; create it or set CLUSTER_USER"
    mkdir -p "$dir"
    locate
    if habitable "$home"; then return; fi
    local parent
    for parent in "${TMPDIR:-/tmp}" /tmp; do
        home=$(mktemp -d "$parent/cluster.XXXXXX")
        if habitable "$home"; then
            echo "$home" >"$dir/location"
            echo "User $server_user cannot keep a cluster in $dir; its files are in $home"
            locate
            return
        fi
        rmdir "$home"
    done
    fail "user $server_user can keep a cluster neither in $dir nor in /tmp"
}

running() { [ -s "$data/postmaster.pid" ] && kill -0 "$(head -n 1 "$data/postmaster.pid")" 2>/dev/null; }
running_port() { sed -n 4p "$data/postmaster.pid"; }
port_in_use() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
free_port() {
    local port attempt
    for attempt in {1..50}; do
        port=$((20000 + RANDOM % 12000))
        if ! port_in_use "$port"; then echo "$port"; return; fi
    done
    fail "no free port in $attempt attempts"
}

show_log() {
    echo "PostgreSQL $1. The end of $log:" >&2
    tail -n 20 "$log" >&2 || true
}

initialise() {
    echo "Creating a PostgreSQL cluster in $home (about 2 seconds)"
    as_server "$bin/initdb" -D "$data" -U postgres --auth=trust --encoding=UTF8 --locale=C --no-sync \
        "$@" >/dev/null || fail "initdb failed"
    as_server tee -a "$data/postgresql.conf" >/dev/null <<CONF
listen_addresses = '127.0.0.1'
unix_socket_directories = '$home'
shared_preload_libraries = 'infinite_pages_cache'
CONF
}

case $action in
create)
    settle
    [ ! -e "$data" ] || fail "there is a cluster in $home already"
    initialise "$@"
    ;;
start)
    locate
    if running; then
        echo "Already running on port $(running_port): $home"
        exit
    fi
    [ -s "$data/PG_VERSION" ] || { settle; initialise; }
    major=$("$pg_config" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')
    [ "$(cat "$data/PG_VERSION")" = "$major" ] ||
        fail "$home holds a cluster of PostgreSQL $(cat "$data/PG_VERSION"), PG_CONFIG is of $major; remove the one or change the other"
    port=${1:-$(free_port)}
    options=()
    if [ "$port" != - ]; then
        if port_in_use "$port"; then fail "port $port is in use; give another one or none"; fi
        options=(-o "-p $port -k '$home'")
    fi
    if ! as_server "$bin/pg_ctl" -D "$data" -l "$log" -w -t 60 "${options[@]}" start >/dev/null; then
        show_log 'did not start'
        exit 1
    fi
    echo "PostgreSQL $major is running on port $(running_port): $home"
    ;;
stop | remove)
    locate
    mode=${1:-fast}
    if running; then
        if ! as_server "$bin/pg_ctl" -D "$data" -m "$mode" -w -t 60 stop >/dev/null; then
            show_log 'did not stop'
            exit 1
        fi
        echo "Stopped: $home"
    fi
    if [ "$action" = remove ]; then rm -rf -- "$home" "$dir"; fi
    ;;
psql)
    locate
    running || fail "no cluster is running in $dir; start it with: tests/tools/cluster.sh start $dir"
    # psql runs as the caller, who may read files that the server's user may not.
    client=$bin/psql
    [ -x "$client" ] || client=psql
    PGCLIENTENCODING=UTF8 exec "$client" -h "$home" -p "$(running_port)" -U postgres "$@"
    ;;
env)
    locate
    running || fail "no cluster is running in $dir"
    printf 'PGHOST=%q PGPORT=%q PGUSER=postgres\n' "$home" "$(running_port)"
    ;;
*) usage ;;
esac
