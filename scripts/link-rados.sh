#!/usr/bin/env bash
# Lets a virtual environment import the system's python3-rados, and nothing else of the system's: one link to it.
#
#   link-rados.sh .venv/bin/python
set -euo pipefail
python=${1:?which python?}
suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("SOABI"))')
place=$("$python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
for module in /usr/lib/python3/dist-packages/rados."$suffix"*.so /usr/lib64/python3*/site-packages/rados."$suffix"*.so; do
    if [[ -e $module ]]; then
        ln -sf "$module" "$place/"
        "$python" -c 'import rados; print("rados", rados.Rados().version())' 2>/dev/null ||
            "$python" -c 'import rados'
        exit
    fi
done
echo "there is no python3-rados for $suffix: apt-get install python3-rados, and use the Python it is made for" >&2
exit 1
