#!/bin/sh
# Builds the agent: build.sh CC SOURCE_DIR OUTPUT.c — a flat binary as a C array.
set -eu
cc=$1 dir=$2 out=$3
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
$cc -std=gnu11 -Wall -Wextra -Werror -Os -ffreestanding -fPIC -fvisibility=hidden -fno-stack-protector -fcf-protection=none \
	-fno-asynchronous-unwind-tables -fno-builtin -mgeneral-regs-only -mno-red-zone -nostdlib \
	-c -o "$tmp/agent.o" "$dir/agent.c"
$cc -c -o "$tmp/entry.o" "$dir/entry.S"
ld -T "$dir/agent.ld" -o "$tmp/agent.elf" "$tmp/entry.o" "$tmp/agent.o"
objcopy -O binary "$tmp/agent.elf" "$tmp/agent.bin"
{
	echo '#include "engine/agent/blob.h"'
	echo 'const unsigned char agent_blob[] = {'
	od -An -v -tx1 "$tmp/agent.bin" | sed 's/ \([0-9a-f][0-9a-f]\)/0x\1,/g'
	echo '};'
	echo 'const unsigned long agent_blob_size = sizeof(agent_blob);'
} >"$out"
