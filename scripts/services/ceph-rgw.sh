#!/usr/bin/env bash
# The smallest Ceph, with or without an S3 gateway: one mon, one osd, one radosgw, on loopback, without cephx, systemd
# or containers.
#
#   ceph-rgw.sh {start|stop|kill|status|wipe}
#
# Needs the Debian packages ceph-mon ceph-osd ceph-common, and radosgw unless CEPH_RGW_GATEWAY=0. All state lies under
# CEPH_RGW_DIR, whose path must be short (there are Unix sockets in it); /etc/ceph is not touched. For tests and trials:
# nothing here is safe or durable.
set -euo pipefail

dir=${CEPH_RGW_DIR:-${TMPDIR:-/tmp}/ceph-rgw}
store=${CEPH_RGW_STORE:-bluestore}        # bluestore (a sparse file) or memstore (gone with a kill)
size=${CEPH_RGW_SIZE:-20G}
port=${CEPH_RGW_PORT:-23380}              # of S3
mon_port=${CEPH_RGW_MON_PORT:-23300}      # and the 60 after it
gateway=${CEPH_RGW_GATEWAY:-1}            # 0: no radosgw, for those who speak RADOS
auth=${CEPH_RGW_AUTH:-none}               # cephx: clients have keys (without a gateway only)
access_key=${CEPH_RGW_ACCESS_KEY:-testaccesskey}
secret_key=${CEPH_RGW_SECRET_KEY:-testsecretkey}
ip=127.0.0.1
conf=$dir/ceph.conf
export CEPH_CONF=$conf CEPH_ARGS=

pid_of() { cat "$dir/run/$1.pid" 2>/dev/null; }
runs() { kill -0 "$1" 2>/dev/null && ! grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null; } # a zombie does not
alive() { local pid; pid=$(pid_of "$1") && [[ -n $pid ]] && runs "$pid"; }

spawn() { # name command…: in the foreground, so that the pid is ours
    local name=$1
    shift
    setsid "$@" >"$dir/log/$name.out" 2>&1 </dev/null &
    echo $! >"$dir/run/$name.pid"
}

reap() { # TERM, at most 20 s, KILL
    local pid
    if alive "$1"; then
        pid=$(pid_of "$1")
        kill "$pid" 2>/dev/null || true
        for _ in $(seq 400); do
            runs "$pid" || break
            sleep .05
        done
        kill -9 "$pid" 2>/dev/null || true
    fi
    rm -f "$dir/run/$1.pid"
}

give_up() { # name of the daemon that did not come up
    echo "$1 did not start:" >&2
    tail -n 20 "$dir/log/$1.out" >&2 || true
    exit 1
}

write_conf() {
    cat >"$conf" <<CONF
[global]
fsid = $(cat "$dir/fsid")
mon host = [v2:$ip:$mon_port,v1:$ip:$((mon_port + 1))]
mon initial members = a
public addr = $ip
cluster addr = $ip
ms bind ipv6 = false
ms bind port min = $((mon_port + 10))
ms bind port max = $((mon_port + 60))
auth cluster required = $auth
auth service required = $auth
auth client required = $auth
keyring = $dir/\$name.keyring
# Without cephx the default mode leaves radosgw waiting.
ms mon client mode = crc
ms mon service mode = crc
ms mon cluster mode = crc
run dir = $dir/run
admin socket = $dir/run/\$name.asok
log file = $dir/log/\$name.log
crash dir = $dir/crash
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon allow pool delete = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
osd class default list = *
osd class load list = *
[mon]
mon data = $dir/mon.a
mon data avail warn = 1
mon data avail crit = 1
paxos propose interval = 0.05
mon osd min in ratio = 0
mon tick interval = 1
[osd]
osd data = $dir/osd.0
osd objectstore = $store
memstore device bytes = $(numfmt --from=iec "$size")
bluestore block create = true
bluestore block size = $(numfmt --from=iec "$size")
bluestore block db create = false
bluestore block wal create = false
bluestore fsck on mount = false
bluestore cache autotune = false
bluestore cache size = 536870912
osd memory target = 1073741824
osd op num shards = 2
osd op num threads per shard = 2
osd heartbeat grace = 120
osd fast shutdown = $([[ $store == memstore ]] && echo false || echo true)
osd scrub begin hour = 0
osd max scrubs = 0
# After a killed radosgw the first write of metadata waits for its watch to end.
osd client watch timeout = 8
[client]
objecter tick interval = 2
rgw data = $dir/rgw
# Without tcp_nodelay small answers take 44 ms.
rgw frontends = beast endpoint=$ip:$port tcp_nodelay=1
debug rgw = 0/0
debug ms = 0/0
rgw thread pool size = 64
rgw dynamic resharding = false
rgw enable ops log = false
rgw enable usage log = false
rgw run sync thread = false
rgw enable quota threads = false
rgw lc debug interval = -1
rgw gc obj min wait = 60
rgw gc processor period = 60
rgw crypt require ssl = false
rgw max chunk size = 4194304
rgw obj stripe size = 4194304
CONF
}

start() {
    local programs=(ceph-mon ceph-osd ceph monmaptool)
    ((gateway)) && programs+=(radosgw radosgw-admin)
    for program in "${programs[@]}"; do
        command -v "$program" >/dev/null || { echo "$program is not installed" >&2; exit 1; }
    done
    mkdir -p "$dir"/{run,log,crash,rgw,mon.a,osd.0}
    [[ -s $dir/fsid ]] || cat /proc/sys/kernel/random/uuid >"$dir/fsid"
    write_conf

    if [[ ! -d $dir/mon.a/store.db ]]; then
        monmaptool --create --clobber --fsid "$(cat "$dir/fsid")" \
            --addv a "[v2:$ip:$mon_port,v1:$ip:$((mon_port + 1))]" "$dir/monmap" >/dev/null
        if [[ $auth == cephx ]]; then
            ceph-authtool -C "$dir/client.admin.keyring" --gen-key -n client.admin \
                --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *' >/dev/null
            ceph-authtool -C "$dir/mon.keyring" --gen-key -n mon. --cap mon 'allow *' >/dev/null
            ceph-authtool "$dir/mon.keyring" --import-keyring "$dir/client.admin.keyring" >/dev/null
            ceph-mon -c "$conf" --mkfs -i a --monmap "$dir/monmap" --keyring "$dir/mon.keyring"
        else
            ceph-mon -c "$conf" --mkfs -i a --monmap "$dir/monmap"
        fi
    fi
    alive mon || spawn mon ceph-mon -c "$conf" -i a -f
    for _ in $(seq 100); do
        timeout 10 ceph -c "$conf" --connect-timeout 5 mon stat >/dev/null 2>&1 && break
        alive mon || give_up mon
        sleep .1
    done

    if [[ ! -s $dir/osd.0/ready ]]; then
        local uuid
        uuid=$(cat /proc/sys/kernel/random/uuid)
        ceph -c "$conf" osd new "$uuid" 0 >/dev/null
        if [[ $auth == cephx ]]; then
            ceph -c "$conf" auth get-or-create osd.0 mon 'allow profile osd' osd 'allow *' -o "$dir/osd.0.keyring"
        fi
        ceph-osd -c "$conf" -i 0 --mkfs --osd-uuid "$uuid" >"$dir/log/mkfs.out" 2>&1
        echo ready >"$dir/osd.0/ready"
    fi
    if ! alive osd; then
        # The mon may still believe in the osd of the last run: "1 up" below must be true.
        ceph -c "$conf" osd down 0 >/dev/null 2>&1 || true
        spawn osd ceph-osd -c "$conf" -i 0 -f
    fi
    local up=
    for _ in $(seq 300); do
        alive osd || give_up osd
        ceph -c "$conf" osd stat 2>/dev/null | grep -q '1 up' && { up=1; break; }
        sleep .1
    done
    [[ $up ]] || give_up osd
    ((gateway)) || { echo "$conf"; return; }

    if [[ ! -e $dir/user.ok ]]; then
        radosgw-admin -c "$conf" user create --uid=test --display-name=test --max-buckets=0 \
            --access-key="$access_key" --secret-key="$secret_key" >"$dir/log/user.out" 2>&1
        touch "$dir/user.ok"
    fi
    alive rgw || spawn rgw radosgw -c "$conf" -n client.rgw -f
    up=
    for _ in $(seq 600); do
        alive rgw || give_up rgw
        (exec 3<>"/dev/tcp/$ip/$port") 2>/dev/null && { up=1; break; }
        sleep .1
    done
    [[ $up ]] || give_up rgw
    echo "http://$ip:$port"
}

case "${1:-}" in
start) start ;;
stop) for name in rgw osd mon; do reap "$name"; done ;;
kill) # as a crash would; a bluestore survives it
    for name in rgw osd mon; do
        if alive "$name"; then kill -9 "$(pid_of "$name")"; fi
        rm -f "$dir/run/$name.pid"
    done
    ;;
status)
    for name in mon osd rgw; do
        if alive "$name"; then
            pid=$(pid_of "$name")
            echo "$name: pid $pid, $(awk '/VmRSS/ {print int($2 / 1024)}' "/proc/$pid/status") MiB"
        fi
    done
    timeout 15 ceph -c "$conf" --connect-timeout 5 -s || true
    ;;
wipe)
    "$0" stop
    rm -rf "$dir"
    ;;
*)
    echo "usage: $0 {start|stop|kill|status|wipe}" >&2
    exit 2
    ;;
esac
