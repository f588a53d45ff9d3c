#!/bin/sh
# Builds the agent and what goes with it: build.sh CC SOURCE_DIR OUTPUT.c — flat binaries as C arrays.
set -eu
cc=$1 dir=$2 out=$3
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
flags="-std=gnu11 -Wall -Wextra -Werror -ffreestanding -fPIC -fvisibility=hidden -fno-stack-protector -fcf-protection=none
	-fno-asynchronous-unwind-tables -mno-red-zone -nostdlib"

# blob NAME ENTRY OBJECT…
blob() {
	name=$1 entry=$2
	shift 2
	ld -T "$dir/agent.ld" -e "$entry" -o "$tmp/$name.elf" "$@"
	objcopy -O binary "$tmp/$name.elf" "$tmp/$name.bin"
	echo "const unsigned char ${name}_blob[] = {"
	od -An -v -tx1 "$tmp/$name.bin" | sed 's/ \([0-9a-f][0-9a-f]\)/0x\1,/g'
	echo '};'
	echo "const unsigned long ${name}_blob_size = sizeof(${name}_blob);"
}

$cc $flags -Os -fno-builtin -mgeneral-regs-only -c -o "$tmp/agent.o" "$dir/agent.c"
$cc -c -o "$tmp/entry.o" "$dir/entry.S"
# -fbuiltin: copies of a few bytes are no calls.
$cc $flags -O2 -fbuiltin -c -o "$tmp/digest.o" "$dir/digest.c"
$cc $flags -O2 -fbuiltin -mavx2 -c -o "$tmp/digest_avx2.o" "$dir/digest.c"
{
	echo '#include "engine/agent/blob.h"'
	blob agent agent_entry "$tmp/entry.o" "$tmp/agent.o"
	blob digest agent_digest "$tmp/digest.o"
	blob digest_avx2 agent_digest "$tmp/digest_avx2.o"
} >"$out"
