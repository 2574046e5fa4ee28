#!/usr/bin/env bash
# Rules at the scale of millions, and thousands of connections, by the release binary alone. Prints what it measures; changes
# nothing outside its own temporary directory; needs curl, awk and about 3 GB of disk for a million messages.
#
#   perf/scale.sh suppressions [ENTRIES]    import, import again, export, start with them
#   perf/scale.sh depth [MESSAGES]          pause, release, tag rule and bulk bounce over a deep queue
#   perf/scale.sh start [MESSAGES [DOMAINS]]  starts over a deep queue from a cold disk, and questions about it; needs root
#   perf/scale.sh connections [COUNT]       memory of an idle connection, from injectors and to hosts
#
# MAILRACE and MAILRACE_PERF name the programs (default: target/release), WORK the directory (default: a new one below
# /tmp), which must be on a real disk.
set -euo pipefail

what=${1:?suppressions, depth, start or connections}
mailrace=${MAILRACE:-target/release/mailrace}
perf=${MAILRACE_PERF:-target/release/mailrace-perf}
work=$(mktemp -d "${WORK:-/tmp}/mailrace-scale-XXXXXX")
api=127.0.0.1:${API_PORT:-18077} smtp=127.0.0.1:${SMTP_PORT:-18025}
quick=127.0.0.1:${QUICK_PORT:-18026} slow=127.0.0.1:${SLOW_PORT:-18027}
engine='' others=''
end() { for pid in $engine $others; do kill "$pid" 2>/dev/null || true; done; wait 2>/dev/null || true; rm -rf "$work"; }
trap end EXIT

cat >"$work/mailrace.toml" <<EOF
[server]
data_dir = "$work/data"
hostname = "mx.scale.test"
[smtp]
listen = ["$smtp"]
[api]
listen = "$api"
[[route]]
domain = "deep.test"
hosts = ["$slow"]
[[route]]
domain = "*"
hosts = ["$quick"]
EOF

now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.2f", b - a }'; }
ask() { curl -sS -f -m 60 -H "Authorization: Bearer $(cat "$work/data/token")" -H 'Content-Type: application/json' "$@"; }
memory() { awk '/VmHWM|VmRSS/ { printf "%s %d MB  ", $1, $2 / 1024 }' "/proc/$engine/status"; }
cpu() { awk '{ print ($14 + $15) / 100 }' "/proc/$engine/stat"; }
spent() { awk -v a="$1" -v b="$(cpu)" 'BEGIN { printf "%.2f s CPU", b - a }'; }

start() {
    local begun; begun=$(now)
    "$mailrace" --config "$work/mailrace.toml" >"$work/log" 2>&1 & engine=$!
    until [ -e "$work/data/token" ] && ask -o "$work/out" "http://$api/v1/pauses" 2>/dev/null; do
        kill -0 "$engine" || { cat "$work/log"; exit 1; }
        sleep 0.02
    done
    echo "started in $(since "$begun") s, $(cpu) s CPU; $(memory)"
}
stop() { kill -TERM "$engine"; wait "$engine" || true; engine=''; }

# Median and slowest of so many calls, in milliseconds: times COUNT command…
times() {
    local count=$1; shift
    for _ in $(seq "$count"); do "$@"; done | sort -n | awk '{ t[NR] = $1 * 1000 } END { printf "median %.1f ms, slowest %.1f ms\n", t[int((NR + 1) / 2)], t[NR] }'
}
timed() { ask -o "$work/answer" -w '%{time_total}\n' "$@"; }

suppressions() {
    local count=${1:-1000000} begun before
    # In no order, as lists from a database without one come.
    awk -v n="$count" 'BEGIN { for (i = 0; i < n; i++) printf "{\"value\":\"user%08d@d%d.example\",\"type\":\"address\",\"code\":550,\"description\":\"unsubscribed\"}\n", (i * 7919) % n, (i * 104729) % 50000 }' >"$work/list.ndjson"
    start
    for round in 'import' 'import again'; do
        begun=$(now) before=$(cpu)
        "$mailrace" suppress import "$work/list.ndjson" --config "$work/mailrace.toml"
        echo "$round of $count: $(since "$begun") s, $(spent "$before"); $(memory)"
    done
    for format in jsonl csv; do
        begun=$(now) before=$(cpu)
        "$mailrace" suppress export "$work/out.$format" --config "$work/mailrace.toml"
        echo "export as $format: $(since "$begun") s, $(spent "$before"); $(memory)"
    done
    stop
    start
}

# Messages for a domain, tagged, by KumoMTA's dialect: inject DOMAIN TAG COUNT
inject() {
    local domain=$1 tag=$2 left=$3 first=0 part
    while [ "$left" -gt 0 ]; do
        part=$((left < 1000 ? left : 1000))
        awk -v d="$domain" -v t="$tag" -v n="$part" -v f="$first" 'BEGIN {
            printf "{\"envelope_sender\":\"s@scale.test\",\"content\":\"x-mq-tag: %s\\r\\nSubject: x\\r\\n\\r\\nx\\r\\n\",\"recipients\":[", t
            for (i = 0; i < n; i++) printf "%s{\"email\":\"u%d@%s\"}", i ? "," : "", f + i, d
            print "]}" }' >"$work/injection.json"
        ask -o "$work/answer" --data-binary "@$work/injection.json" "http://$api/api/inject/v1" || { sleep 1; continue; }
        left=$((left - part)) first=$((first + part))
    done
}
field() { grep -o "\"$1\":[0-9a-z]*" "$work/answer" | head -1; }
pause() { timed -d "$1" "http://$api/v1/pauses"; }
release() { timed -X DELETE -d "$1" "http://$api/v1/pauses"; }
pairs() {
    rm -f "$work/p" "$work/r"
    for _ in $(seq 20); do pause "$1" >>"$work/p"; release "$1" >>"$work/r"; sleep 0.1; done
    echo "$2: pause $(times 1 cat "$work/p"); release $(times 1 cat "$work/r")"
}
idle() { local before; before=$(cpu); sleep 10; echo "$1: $(spent "$before") in 10 s"; }
queued() { ask "http://$api/v1/queues?limit=1000" >"$work/queues"; grep -o '"total":[0-9]*' "$work/queues" | awk -F: '{ n += $2 } END { print n + 0 }'; }

depth() {
    local count=${1:-200000} begun before tagged
    tagged=$((count / 4))
    # One takes all at once; the other has each message wait for ten minutes, so that a queue stands before it.
    "$perf" sink --listen "$quick" >"$work/quick.log" 2>&1 & others="$others $!"
    "$perf" sink --listen "$slow" --sink-delay-ms 600000 >"$work/slow.log" 2>&1 & others="$others $!"
    start

    pairs '{"domain":"empty.test"}' 'a domain without mail'
    begun=$(now) before=$(cpu)
    inject deep.test spring "$count"
    echo "$count messages taken in $(since "$begun") s, $(spent "$before"); $(memory)"
    pairs '{"domain":"empty.test"}' "a domain without mail, beside a queue of $count"
    pairs '{"domain":"deep.test"}' "a domain with $count messages"
    pause '{"domain":"deep.test"}' >/dev/null; echo "its answer says $(field matched) $(field counting)"
    idle 'held as a whole'
    echo "dry run over it: $(times 1 pause '{"domain":"deep.test","dry_run":true}'), $(field matched) $(field counting)"
    release '{"domain":"deep.test"}' >/dev/null

    echo "pause by tag over $count others: $(times 1 pause '{"tag":"autumn"}')"
    before=$(cpu)
    inject quick.test autumn "$tagged"
    sleep 5
    echo "$tagged messages with that tag taken and held: $(spent "$before")"
    idle 'held one by one'
    inject quick.test winter 1000
    sleep 2
    idle "after 1000 others went past them"
    echo "list of pauses: $(times 5 timed "http://$api/v1/pauses"); $(grep -o '"held":[0-9]*' "$work/answer" | head -1)"
    echo "list of held messages: $(times 5 timed "http://$api/v1/messages?state=held&limit=100")"
    before=$(cpu)
    echo "release by tag: $(times 1 release '{"tag":"autumn"}')"
    begun=$(now)
    until [ "$(queued)" -le "$count" ]; do sleep 0.2; done
    echo "all of them delivered in $(since "$begun") s, $(spent "$before")"

    # Other mail flows while all of it is bounced.
    "$perf" generate --target "$smtp" --domains 10 --messages 100000 --connections 4 --rate 200 --time-limit 20 \
        >"$work/generate.log" 2>&1 & local generator=$!
    others="$others $generator"
    sleep 2
    begun=$(now) before=$(cpu)
    echo "bounce of $count: $(times 1 timed -d '{"domain":"deep.test","reason":"over","duration":"1h"}' "http://$api/api/admin/bounce/v1")"
    for _ in $(seq 600); do
        ask -o "$work/answer" "http://$api/api/admin/bounce/v1"
        echo "  after $(since "$begun") s $(field total_bounced)"
        [ "$(queued)" -le 100 ] && break
        sleep 1
    done
    echo "bounced in $(since "$begun") s, $(spent "$before"); $(memory)"
    wait "$generator" 2>/dev/null || true
    grep -A4 -E '"(latency_ms|accepted_per_second|accepted|refused)"' "$work/generate.log" || tail -n 20 "$work/generate.log"
}

metric() { ask "http://$api/metrics" >"$work/metrics"; awk -v m="$1" '$1 == m { print $2 }' "$work/metrics"; }
greets() { (exec 3<>"/dev/tcp/${smtp%:*}/${smtp#*:}" && read -r -t 5 line <&3 && [ "${line:0:4}" = '220 ' ]) 2>/dev/null; }

# Starts the engine with nothing of its files in memory, and tells when it does what.
cold_start() {
    local begun greeted='' answered='' found='' taken=''
    sync; echo 3 >/proc/sys/vm/drop_caches
    : >"$work/log"
    begun=$(now)
    "$mailrace" --config "$work/mailrace.toml" >"$work/log" 2>&1 & engine=$!
    until [ -n "$found" ]; do
        kill -0 "$engine" || { cat "$work/log"; exit 1; }
        if [ -z "$greeted" ]; then
            greets && greeted=$(since "$begun") || { sleep 0.01; continue; }
            # Mail is handed in from here on, until all is found.
            "$perf" generate --target "$smtp" --domains 10 --messages 100000 --connections 4 --rate 200 --time-limit 5 \
                >"$work/generate.log" 2>&1 & taken=$!
            others="$others $taken"
        fi
        if [ -z "$answered" ]; then
            ask -o "$work/answer" -D "$work/head" "http://$api/v1/queues?limit=1" 2>/dev/null || { sleep 0.01; continue; }
            answered=$(since "$begun")
            echo "  its first answer says: $(grep -i '^mailrace-recovery' "$work/head" | tr -d '\r' || echo 'all is there')"
        fi
        [ "$(metric mailrace_recovery_active)" = 0 ] && found=$(since "$begun")
        sleep 0.02
    done
    echo "$1: greets after $greeted s, answers after $answered s, all found mail in the queues after $found s, $(cpu) s CPU; $(memory)"
    wait "$taken" 2>/dev/null || true
    grep -E '"accepted"|"refused"|"p50"|"p99"' "$work/generate.log" | tr -d '\n'; echo
    grep -E 'segments are searched|messages found' "$work/log" | sed 's/^/  /'
}

start_deep() {
    local count=${1:-1000000} domains=${2:-1000} before
    "$perf" sink --listen "$quick" >"$work/quick.log" 2>&1 & others="$others $!"
    start
    ask -o "$work/answer" -d '{}' "http://$api/v1/pauses"
    before=$(cpu)
    "$perf" generate --target "$smtp" --size 4096 --domains "$domains" --messages "$count" --connections 50 --time-limit 3600 \
        >"$work/generate.log" 2>&1 || tail -n 20 "$work/generate.log"
    count=$(grep -o '"accepted": [0-9]*' "$work/generate.log" | tail -n 1 | grep -o '[0-9]*')
    echo "$count messages of 4 KiB to $domains domains taken, $(spent "$before"); $(memory)"
    kill -KILL "$engine"; wait "$engine" 2>/dev/null || true
    cold_start 'after SIGKILL'
    stop
    cold_start 'after SIGTERM'
    questions 'nothing else running'
    "$perf" generate --target "$smtp" --domains 10 --messages 100000 --connections 4 --rate 200 --time-limit 60 >"$work/generate.log" 2>&1 &
    others="$others $!"
    sleep 1
    questions 'with 200 messages a second accepted'
}

# Each question some times over the queue as it stands.
questions() {
    local domain
    domain=$(ask "http://$api/v1/queues?limit=1" | grep -o '"domain":"[^"]*"' | cut -d'"' -f4)
    ask "http://$api/v1/messages?limit=1000" >"$work/messages"
    local id; id=$(grep -o '"id":"[0-9a-f]*"' "$work/messages" | tail -1 | cut -d'"' -f4)
    echo "questions, $1:"
    for path in /v1/queues '/v1/queues?limit=1000' "/v1/messages/$id" '/v1/messages?limit=100' "/v1/messages?domain=$domain&limit=1000" \
        '/v1/messages?domain=nobody.example' '/v1/messages?state=in_flight' /v1/rules /metrics; do
        echo "  GET $path: $(times 5 timed "http://$api$path")"
    done
    echo "  dry run, domain: $(times 5 pause "{\"domain\":\"$domain\",\"dry_run\":true}") $(field matched) $(field counting)"
    echo "  dry run, tag: $(times 5 pause '{"tag":"nobody","dry_run":true}') $(field matched) $(field counting)"
    pairs "{\"domain\":\"$domain\"}" "  that domain"
    echo "  cancel: $(times 1 timed -X POST "http://$api/v1/messages/$id/cancel")"
}

resident() { awk '/VmRSS/ { print $2 * 1024 }' "/proc/$engine/status"; }
standing() { ss -Htn state established "$@" | wc -l; }
each() { awk -v a="$1" -v b="$(resident)" -v n="$2" 'BEGIN { printf "%.0f octets each\n", (b - a) / n }'; }

connections() {
    local count=${1:-5000} before old sum address
    ulimit -n "$(ulimit -Hn)"
    # Each domain has a host, hence connections, of its own; all hosts are one sink, which hears on all of them.
    for number in $(seq 0 $((count - 1))); do
        address=127.$((1 + number / 62500)).$((number / 250 % 250)).$((1 + number % 250)):${quick#*:}
        printf '[[route]]\ndomain = "d%05d.perf.test"\nhosts = ["%s"]\n' "$number" "$address"
    done >>"$work/mailrace.toml"
    printf '[[limit]]\nper = "site"\nidle_timeout = "10m"\n[egress]\nallow_private = true\n' >>"$work/mailrace.toml"
    "$perf" sink --listen "0.0.0.0:${quick#*:}" --sink-connections 20000 >"$work/quick.log" 2>&1 & others="$others $!"
    start
    # Buffers and tables that are there once.
    "$perf" generate --target "$smtp" --domains 10 --messages 2000 >"$work/generate.log" 2>&1
    sleep 2
    before=$(resident)
    "$perf" generate --target "$smtp" --domains 1 --messages 3 --connections "$count" --rate 0.05 --time-limit 30 >"$work/idle.log" 2>&1 &
    others="$others $!"
    sleep 15
    sum=$(standing "( sport = :${smtp#*:} )")
    echo "from injectors, idle behind their EHLO: $sum connections, $(each "$before" "$sum")"
    wait "${others##* }" 2>/dev/null || true
    sleep 2
    before=$(resident) old=$(standing "( sport = :${quick#*:} )")
    "$perf" generate --target "$smtp" --size 512 --domains "$count" --messages "$count" --connections 10 >"$work/generate.log" 2>&1
    sleep 5
    sum=$(($(standing "( sport = :${quick#*:} )") - old))
    echo "to hosts, idle behind a message, with the host's and the domain's own records: $sum connections, $(each "$before" "$sum")"
}

echo "load: $(cut -d' ' -f1-3 /proc/loadavg), $(nproc) cores, $(uname -r)"
case $what in
    start) start_deep "${2:-}" "${3:-}" ;;
    *) "$what" "${2:-}" ;;
esac
echo "load: $(cut -d' ' -f1-3 /proc/loadavg)"
