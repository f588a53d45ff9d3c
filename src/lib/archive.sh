#!/bin/sh
# archive.sh ALL OUT: makes OUT, an archive of one object with all of ALL, in which only the names of the public API are left for others.
set -eu
object="$2.o"
ld -r -o "$object" --whole-archive "$1"
objcopy --wildcard --keep-global-symbol='fermata_*' "$object"
rm -f "$2"
ar rcs "$2" "$object"
rm -f "$object"
