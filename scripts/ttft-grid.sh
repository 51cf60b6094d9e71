#!/usr/bin/env bash
# The grid of `objectcache bench ttft` on a host with a GPU, in calls that end within ten minutes:
#
#   scripts/ttft-grid.sh core RESULTS     9 runs of each cell
#   scripts/ttft-grid.sh rest RESULTS     3 runs of each cell that differs from the core in one thing
#   scripts/ttft-grid.sh merge RESULTS    puts the parts together as RESULTS/ttft.json
#
# Each context and hit is a part, in a file of its own in RESULTS, of the cells that were whole when the limit cut it off
# (to have the others, remove it); a call again goes on with the parts that are missing. LIMIT_S (580) is for the whole
# call. PYTHON is the interpreter that has torch; further arguments go to the benchmark, like `--gateway-cores 8`. Without
# a GPU, to see that it works: CONTEXTS="256 1024" scripts/ttft-grid.sh core RESULTS --device cpu --runs 1
set -euo pipefail

part=${1:?core, rest or merge}
results=${2:?a directory for the results}
shift 2
python=${PYTHON:-python}
until_s=$((SECONDS + ${LIMIT_S:-580}))
here=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$here/src${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$results"

bench() {
    "$python" -m objectcache bench ttft "$@"
}

if [ "$part" = merge ]; then
    merged=()
    for file in "$results"/core-*.json "$results"/rest-*.json; do
        [ -e "$file" ] && merged+=(--merge "$file")
    done
    bench "${merged[@]}" --json "$results/ttft.json" "$@"
    exit
fi

case $part in
    core) hits=(0.5 0.875) decodes=16 ;;
    rest) hits=(0.875 0.96875) decodes=0 ;;
    *) echo "core, rest or merge, not $part" >&2 && exit 2 ;;
esac

contexts=(${CONTEXTS:-4096 16384 65536})
for context in "${contexts[@]}"; do
    # The longest is also computed in several steps.
    [ "$part $context" = "rest ${contexts[-1]}" ] && hits+=(0.5)
    for hit in "${hits[@]}"; do
        file=$results/$part-$context-$hit.json
        [ -e "$file" ] && continue
        left_s=$((until_s - SECONDS))
        [ "$left_s" -gt 0 ] || { echo "no time is left for $file: call again" >&2 && exit 3; }
        PYTHONUNBUFFERED=1 timeout --signal=INT --kill-after=20 "$left_s" \
            "$python" -m objectcache bench ttft --part "$part" --cells "$context:$hit" --receiver process --streams 12 \
            --decodes "$decodes" --json "$file" "$@"
    done
done
