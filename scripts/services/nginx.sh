#!/usr/bin/env bash
# nginx on loopback, serving the files below one directory: the fastest static HTTP server that is at hand everywhere.
#
#   nginx.sh {start|stop}
#
# Needs the Debian package nginx-light, whose own service is not touched. All state lies under NGINX_DIR.
set -euo pipefail

PATH=$PATH:/usr/sbin
dir=${NGINX_DIR:-${TMPDIR:-/tmp}/nginx}
root=${NGINX_ROOT:-$dir/root}
port=${NGINX_PORT:-24480}
ip=127.0.0.1

start() {
    command -v nginx >/dev/null || { echo "nginx is not installed" >&2; exit 1; }
    mkdir -p "$dir" "$root"
    local user=
    # Started by root, its workers would be nobody's, and could not look into private directories.
    [[ $(id -u) != 0 ]] || user='user root;'
    cat >"$dir/nginx.conf" <<CONF
daemon off;
$user
worker_processes auto;
pid $dir/nginx.pid;
error_log $dir/error.log;
events { worker_connections 1024; }
http {
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    keepalive_timeout 1h;
    open_file_cache max=100000 inactive=1h;
    open_file_cache_valid 1h;
    default_type application/octet-stream;
    client_body_temp_path $dir/body;
    proxy_temp_path $dir/proxy;
    fastcgi_temp_path $dir/fastcgi;
    uwsgi_temp_path $dir/uwsgi;
    scgi_temp_path $dir/scgi;
    server {
        listen $ip:$port backlog=1024;
        root $root;
    }
}
CONF
    setsid nginx -e "$dir/error.log" -c "$dir/nginx.conf" >"$dir/nginx.log" 2>&1 </dev/null &
    local pid=$!
    for _ in $(seq 100); do
        kill -0 $pid 2>/dev/null || { cat "$dir/nginx.log" >&2; exit 1; }
        if [[ -s $dir/nginx.pid ]] && (exec 3<>"/dev/tcp/$ip/$port") 2>/dev/null; then
            echo "http://$ip:$port"
            return
        fi
        sleep .1
    done
    echo "no answer within ten seconds" >&2
    exit 1
}

case "${1:-}" in
start) start ;;
stop)
    kill "$(cat "$dir/nginx.pid")" 2>/dev/null || true
    for _ in $(seq 50); do
        [[ -e $dir/nginx.pid ]] || exit 0 # it removes that last
        sleep .1
    done
    ;;
*)
    echo "usage: $0 {start|stop}" >&2
    exit 2
    ;;
esac
