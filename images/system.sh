#!/bin/sh
# Makes the system layer in an empty folder: the Debian packages of packages.txt, unpacked, without their documentation
# and without scripts. Run by the Containerfiles and by `python -m images`. Needs Debian 12's apt-get, not root.
set -eu
root=$1
list=$(dirname "$0")/packages.txt
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

names=$(sed -e 's/#.*//' "$list")
chmod 755 "$work"
# shellcheck disable=SC2086
(cd "$work" && apt-get -qq download $names 2>"$work/errors") || { cat "$work/errors" >&2; exit 1; }

mkdir -p "$root/var/lib/dpkg/status.d" "$root/etc/ssl/certs" "$root/tmp" "$root/run" "$root/usr/lib/ssl"
for package in "$work"/*.deb; do
  dpkg-deb --extract "$package" "$root"
  name=$(dpkg-deb --field "$package" Package)
  # Where scanners look for the packages of images without dpkg.
  dpkg-deb --field "$package" > "$root/var/lib/dpkg/status.d/$name"
done

# What the packages' own scripts would have done.
cat $(find "$root/usr/share/ca-certificates" -name '*.crt' | LC_ALL=C sort) > "$root/etc/ssl/certs/ca-certificates.crt"
ln -s /etc/ssl/certs/ca-certificates.crt "$root/usr/lib/ssl/cert.pem"
ln -s ../run "$root/var/run"
ln -sf python3.11 "$root/usr/bin/python3"
printf 'root:x:0:0:root:/:/none\nswitchgear:x:10001:10001:switchgear:/:/none\n' > "$root/etc/passwd"
printf 'root:x:0:\nswitchgear:x:10001:\n' > "$root/etc/group"
printf 'hosts: files dns\n' > "$root/etc/nsswitch.conf"

# What a server never reads.
rm -rf "$root/usr/share/ca-certificates" "$root/usr/share/man" "$root/usr/share/locale" "$root/usr/share/info" \
  "$root/usr/share/lintian" "$root/usr/share/applications" "$root/usr/share/pixmaps" "$root/usr/share/binfmts" \
  "$root/usr/sbin" "$root/etc/cron.daily" "$root/usr/lib/x86_64-linux-gnu/gconv" "$root/usr/lib/aarch64-linux-gnu/gconv"
find "$root/usr/share/doc" -type f ! -name copyright -delete
find "$root/usr/share/doc" -type l -delete
find "$root/usr/share/doc" -type d -empty -delete
for module in distutils ensurepip idlelib lib2to3 pydoc_data turtledemo; do
  rm -rf "$root/usr/lib/python3.11/$module"
done
rm -rf "$root"/usr/lib/python3.11/config-*
chmod 1777 "$root/tmp"
