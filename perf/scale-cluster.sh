#!/usr/bin/env bash
# A million suppressions over three engines and three members of etcd, by the release binary and its REST API alone.
# Prints what it measures; changes nothing outside its own temporary directory; needs etcd, etcdctl, curl and awk.
#
#   perf/scale-cluster.sh [ENTRIES]
#
# MAILRACE names the program (default: target/release/mailrace), WORK the directory (default: a new one below /tmp), which
# must be on a real disk, PORT the first of some ports on the loopback that are used (default: 18100).
set -euo pipefail

count=${1:-1000000}
mailrace=${MAILRACE:-target/release/mailrace}
work=$(mktemp -d "${WORK:-/tmp}/mailrace-scale-XXXXXX")
port=${PORT:-18100}
export ETCDCTL_API=3
declare -A engine=()
members=()
end() { for pid in "${engine[@]}" "${members[@]}"; do kill "$pid" 2>/dev/null || true; done; wait 2>/dev/null || true; rm -rf "$work"; }
trap end EXIT

now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.2f", b - a }'; }
cpu() { awk '{ print ($14 + $15) / 100 }' "/proc/$1/stat"; }
spent() { awk -v a="$2" -v b="$(cpu "$1")" 'BEGIN { printf "%.2f s CPU", b - a }'; }
memory() { awk '/VmHWM/ { printf "%d MB at most", $2 / 1024 }' "/proc/$1/status"; }

urls='' peers=''
for at in 0 1 2; do
    urls="$urls,http://127.0.0.1:$((port + at))"
    peers="$peers,m$at=http://127.0.0.1:$((port + 3 + at))"
done
urls=${urls#,} peers=${peers#,}
etcdctl() { command etcdctl --endpoints "$urls" "$@"; }
for at in 0 1 2; do
    client=http://127.0.0.1:$((port + at)) peer=http://127.0.0.1:$((port + 3 + at))
    etcd --name "m$at" --data-dir "$work/m$at" --listen-client-urls "$client" --advertise-client-urls "$client" \
        --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "$peers" \
        --auto-compaction-retention=1h --logger=zap --log-level=error >"$work/m$at.log" 2>&1 &
    members+=($!)
done
until etcdctl endpoint health >/dev/null 2>&1; do sleep 0.2; done

# start NAME NUMBER: until it follows etcd and delivers.
start() {
    local name=$1 smtp=$((port + 10 + 2 * $2)) api=$((port + 11 + 2 * $2)) begun; begun=$(now)
    cat >"$work/$name.toml" <<END
server.data_dir = "$work/$name"
server.hostname = "$name.scale.test"
smtp.listen = ["127.0.0.1:$smtp"]
api.listen = "127.0.0.1:$api"
[cluster]
endpoints = ["${urls//,/\", \"}"]
node = "$name"
answer_within = "10s"
END
    "$mailrace" --config "$work/$name.toml" >"$work/$name.log" 2>&1 & engine[$name]=$!
    until "$mailrace" cluster --config "$work/$name.toml" >"$work/said" 2>&1; do
        kill -0 "${engine[$name]}" || { cat "$work/$name.log"; exit 1; }
        sleep 0.05
    done
    echo "$name: follows $(since "$begun") s after its start, $(cpu "${engine[$name]}") s CPU; $(memory "${engine[$name]}")"
}
keys() { etcdctl get --prefix /mailrace/suppressions/ --keys-only | grep -c . || true; }
octets() { etcdctl get --prefix /mailrace/suppressions/ --print-value-only | wc -c; }
database() {
    echo "  etcd: $(keys) keys, $(octets) octets, database $(etcdctl endpoint status | awk -F', ' '{ printf "%s ", $4 }')"
}
held() { "$mailrace" suppress export --config "$work/$1.toml" | wc -l; }

echo "load: $(cut -d' ' -f1-3 /proc/loadavg), $(nproc) cores, $(uname -r)"
for at in 0 1 2; do start "$(printf '\\x6%d' $((at + 1)) | xargs -0 printf '%b')" "$at"; done

# In no order, as lists from a database without one come.
awk -v n="$count" 'BEGIN { for (i = 0; i < n; i++) printf "{\"value\":\"user%08d@d%d.example\",\"type\":\"address\",\"code\":550,\"description\":\"unsubscribed\"}\n", (i * 7919) % n, (i * 104729) % 50000 }' >"$work/list.ndjson"
for round in 'import' 'import again'; do
    begun=$(now) before=$(cpu "${engine[a]}")
    "$mailrace" suppress import "$work/list.ndjson" --config "$work/a.toml"
    echo "$round of $count, in force on all three: $(since "$begun") s, $(spent "${engine[a]}" "$before") of the one asked; $(memory "${engine[a]}")"
    database
done
for name in a b c; do echo "$name holds $(held "$name")"; done

begun=$(now)
for at in $(seq 100); do
    "$mailrace" suppress add "single$at@example.com" --config "$work/b.toml" >"$work/said" || true
done
echo "100 single adds by the command, one after another: $(since "$begun") s"
newest=$(etcdctl get --prefix /mailrace/suppressions/ --sort-by=CREATE --order=DESCEND --limit 1 --print-value-only | wc -c)
echo "one single add: $((newest - 1)) octets in etcd"
sleep 12
database

start d 3
echo "d holds $(held d)"
begun=$(now)
kill -TERM "${engine[c]}"; wait "${engine[c]}" || true
echo "c: stopped in $(since "$begun") s"
start c 2
revision=$(etcdctl get --prefix /mailrace/ --limit 1 --keys-only -w json | grep -o '"revision":[0-9]*' | head -1 | cut -d: -f2)
etcdctl compact "$revision" >/dev/null && etcdctl defrag >/dev/null
echo 'compacted and defragmented:'
database
echo "load: $(cut -d' ' -f1-3 /proc/loadavg)"
