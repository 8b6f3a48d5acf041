#!/bin/sh
# Run a program as process 1, as nobody, in a root that can only be read, without /tmp, /dev/shm or a home: as strict a
# container as there is. To be called in namespaces of its own, by box.py:
#   inside.sh NEWROOT APP WRITABLE DIRECTORY... -- PROGRAM ARGUMENT...
# APP: a directory, which is seen as /app and can only be read; WRITABLE: one that is seen as /state and may be written, or "-".
# DIRECTORY: what else the program sees of this machine, under its own name, to be read only.
set -eu
new=$1 app=$2 writable=$3 workdir=/app
shift 3
mount --make-rprivate /
mount -t tmpfs -o mode=755 confined "$new"
while [ "$1" != -- ]; do
    # A directory that lies within one that is there already is seen in it.
    if [ ! -e "$new$1" ]; then
        mkdir -p "$new$1"
        mount --bind "$1" "$new$1"
        mount -o remount,bind,ro "$new$1"
    fi
    shift
done
shift
mkdir -p "$new/proc" "$new/dev" "$new/app"
mount --bind "$app" "$new/app"
mount -o remount,bind,ro "$new/app"
if [ "$writable" != - ]; then
    workdir=/state
    mkdir "$new/state"
    mount --bind "$writable" "$new/state"
fi
for device in null zero random urandom; do
    : > "$new/dev/$device"
    mount --bind "/dev/$device" "$new/dev/$device"
done
mount -t proc proc "$new/proc"
ln -s usr/bin "$new/bin"
ln -s usr/lib "$new/lib"
[ ! -e /lib64 ] || ln -s usr/lib64 "$new/lib64"
mount -o remount,ro "$new"
# The program takes this process's place and id, with no right that it had.
exec chroot "$new" sh -c 'cd "$1" && shift && exec setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs \
    --inh-caps=-all --bounding-set=-all -- "$@"' sh "$workdir" "$@"
