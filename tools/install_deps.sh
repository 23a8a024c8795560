#!/bin/sh
# Installs the Debian packages that are missing when it may (root, or sudo without a password); otherwise prints the one
# command that does and fails. `install_deps.sh lint` adds the packages of `make lint`; `install_deps.sh missing` only names
# what is missing.
set -eu
here=$(dirname "$0")
lists="$here/debian-packages.txt"
[ "${1:-}" = lint ] && lists="$lists $here/debian-packages-lint.txt"

if ! command -v dpkg-query >/dev/null 2>&1; then
  echo "install_deps: not a Debian system; Rarefy needs the equivalents of: $(cat $lists | tr '\n' ' ')" >&2
  exit 0
fi

missing=
for package in $(cat $lists); do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if [ "${1:-}" = missing ]; then
  echo $missing
  exit 0
fi

if [ "$(id -u)" = 0 ]; then
  as_root=
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
  as_root=sudo
else
  echo "install_deps: these Debian packages are missing; please run:" >&2
  echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends$missing" >&2
  exit 1
fi
echo "installing:$missing"
$as_root apt-get update -qq
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
