/*
 * What the fuzz targets share. Each target is a file NAME.c with LLVMFuzzerTestOneInput, built twice: with libFuzzer (make fuzz),
 * and with runner.c, which runs the corpus. See the libFuzzer documentation for the three entry points.
 *
 * All of it runs in a sandbox: namespaces of its own, every file system read-only and without devices, and an empty one at
 * SANDBOX, where whatever the input names may be made. So an input can name any file of the machine and do no harm.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define SANDBOX "/mnt"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

/* Writes a file of the sandbox over. */
void fuzz_write(const char *path, const void *data, size_t size);
/* Ends with a message when descriptors were left open: `before` is what fuzz_count_fds gave at first. */
int fuzz_count_fds(void);
void fuzz_check_fds(int before);
