/*
 * What the processor can do, as far as programs make use of it: they look once when they start, and what they have chosen then (the C library's memcpy, a
 * kernel of a numeric library, compiled code of a virtual machine) would end by SIGILL on a processor that lacks it. CPUID, as the processors' manuals have it.
 */
#pragma once

#include "base/base.h"

#define PROCESSOR_WORDS 9

/* The words are as wide as CPUID's; which leaf each is of stays as it is, since images have them. */
void processor_read(uint32_t ret[PROCESSOR_WORDS]);
/* Of this one, and that its system lets programs use it. */
bool processor_has_avx2(void);
/* States (bits of XCR0) that a process must ask for before it may use them, as far as this processor has them: tiles of AMX. Few do. */
uint64_t processor_on_demand(void);
/* The names of what `then` has and `now` lacks, "avx512f avx512bw"; false: there is nothing. Words that `then` does not have are nothing. */
bool processor_lacks(const uint32_t *then, size_t n, const uint32_t now[PROCESSOR_WORDS], char *ret, size_t size);
