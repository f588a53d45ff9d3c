/*
 * The checksum (XXH3-128) of what a process that is being made reads into its memory, while that is still in the processor's cache. Code of its own beside the
 * agent, which must leave a target's vector registers alone: a process that is being made has none to lose. Freestanding and position independent, as the agent
 * is; built twice, for what every processor has and for AVX2.
 */
#include "batch.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

_Static_assert(sizeof(XXH3_state_t) <= AGENT_DIGEST_STATE, "AGENT_DIGEST_STATE");

/* What the header and the compiler call. */
void *memcpy(void *to, const void *from, size_t size)
{
	void *result = to;

	asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
	return result;
}

void *memset(void *to, int byte, size_t size)
{
	void *result = to;

	asm volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(byte) : "memory");
	return result;
}

__attribute__((section(".entry"))) void agent_digest(void *state, const void *data, uint64_t size, unsigned char *result)
{
	if (result)
		XXH128_canonicalFromHash((XXH128_canonical_t *)result, XXH3_128bits_digest(state));
	else if (data)
		XXH3_128bits_update(state, data, size);
	else
		XXH3_128bits_reset(state);
}
