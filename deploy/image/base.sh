#!/usr/bin/env bash
# A base image from Debian's own packages, for where no registry of images can be reached: Debian 12 with its Python 3.11,
# neither compiler nor pip. Needs mmdebstrap and buildah. Elsewhere the base is FRAUD_IMAGE_BASE, python:3.11-slim-bookworm.
# base.sh [NAME [PACKAGE…]]: what else of Debian's is to be in it; nginx makes the image that FRAUD_IMAGE_NGINX names.
set -euo pipefail
name="${1:-localhost/fraud-base:bookworm}"
packages="$(IFS=,; echo "python3,libpython3-stdlib,ca-certificates,libstdc++6,tzdata${2:+,${*:2}}")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT

# tar keeps root's files root's without mounting anything; pages, locales and package lists are nothing to a server
mmdebstrap --quiet --variant=minbase --include="$packages" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' \
    bookworm "$folder/root.tar" "${FRAUD_DEBIAN_MIRROR:-http://deb.debian.org/debian}"
container="$(buildah from scratch)"
buildah add --quiet "$container" "$folder/root.tar" / >/dev/null
buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
buildah commit --quiet "$container" "$name" >/dev/null
buildah rm "$container" >/dev/null
echo "$name"
