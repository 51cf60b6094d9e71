#!/usr/bin/env bash
# Ceph's S3 test-suite against a gateway of this checkout: the selection in docs/s3-tests.txt (docs/s3.md tells by what
# rule, and what fails and why).
#
#   git clone https://github.com/ceph/s3-tests && scripts/s3-tests.sh s3-tests [pytest options]
#
# S3TESTS_VENV: a virtual environment with the suite's requirements; default: .venv in its checkout, made when missing.
# PYTHON: one that has objectcache; default: .venv/bin/python of this checkout, which `make setup` builds.
set -euo pipefail
[[ -f ${1:-}/s3tests/functional/test_s3.py ]] || { echo "usage: $0 CHECKOUT-OF-CEPH/S3-TESTS [pytest options]" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
suite=$(cd "$1" && pwd)
shift
python=${PYTHON:-$root/.venv/bin/python}
venv=${S3TESTS_VENV:-$suite/.venv}
if [[ ! -x $venv/bin/pytest ]]; then
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet -r "$suite/requirements.txt"
fi

scratch=$(mktemp -d)
gateway=
finish() {
    if [[ -n $gateway ]]; then
        kill "$gateway" 2>/dev/null || true
        wait "$gateway" || true
    fi
    rm -rf "$scratch"
}
trap finish EXIT

# The second key belongs to another user, who owns nothing here: keys have grants, not buckets. The suite wants two more
# users to be named, and makes what they own when it begins.
for user in MAIN ALT TENANT; do
    printf '[[key]]\nid = "%s"\nsecret = "secret-of-%s"\n[key.grants]\n"*" = "admin"\n' $user $user
done >"$scratch/keys.toml"
chmod 600 "$scratch/keys.toml"
cat >"$scratch/gateway.toml" <<CONFIG
data = "$scratch/data"
port = 0
region = "default"
access_keys = "$scratch/keys.toml"
CONFIG
"$python" -m objectcache serve --config "$scratch/gateway.toml" --ready-json \
    >"$scratch/ready.json" 2>"$scratch/gateway.log" &
gateway=$!
until [[ -s $scratch/ready.json ]]; do
    kill -0 "$gateway" 2>/dev/null || { cat "$scratch/gateway.log" >&2; exit 1; }
    sleep 0.1
done
port=$("$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["port"])' "$scratch/ready.json")

{
    printf '[DEFAULT]\nhost = 127.0.0.1\nport = %s\nis_secure = False\nssl_verify = False\n' "$port"
    printf '[fixtures]\nbucket prefix = s3t-{random}-\niam name prefix = s3-tests-\niam path prefix = /s3-tests/\n'
    for user in main:MAIN alt:ALT tenant:TENANT; do
        key=${user#*:}
        printf '[s3 %s]\napi_name = default\nuser_id = objectcache\ndisplay_name = objectcache\nemail = %s@example.org\n' \
            "${user%:*}" "${user%:*}"
        printf 'access_key = %s\nsecret_key = secret-of-%s\ntenant = testx\n' "$key" "$key"
    done
    # Asked for, and not used by the selection.
    for section in iam "iam root" "iam alt root"; do
        printf '[%s]\nuser_id = none\ndisplay_name = none\nemail = none@example.org\naccess_key = NONE\nsecret_key = none\n' \
            "$section"
    done
} >"$scratch/s3tests.conf"

cd "$suite"
S3TEST_CONF=$scratch/s3tests.conf "$venv/bin/pytest" -q -p no:cacheprovider --tb=line -rf "$@" "@$root/docs/s3-tests.txt"
