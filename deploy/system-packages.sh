#!/usr/bin/env bash
# Installs what is missing of the Debian packages in system-packages.txt, one a line, which parts of the suite run. Only in
# a container, as root: on a machine with systemd their services would start, so there it says what to install. Tests skip,
# with the reason, what is not there.
set -euo pipefail
cd "$(dirname "$0")"

missing=()
while read -r package; do
    [ -n "$package" ] || continue
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done < system-packages.txt
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || [ -d /run/systemd/system ]; then
    echo "Some tests will be skipped, for want of: ${missing[*]} (Debian packages)"
    exit 0
fi
echo "Installing ${missing[*]} for the suite"
log="$(mktemp)"
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -3 "$log"
    echo "Some tests will be skipped, for want of: ${missing[*]}"
fi
