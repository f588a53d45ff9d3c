/* A pack as it stands in its file. See private.h. */
#pragma once

#include "image/store/private.h"

extern const char pack_mark[8], pack_foot_mark[8];

struct pack_head {
	char mark[8];
	uint32_t version, kind;
};
/* Behind the table and the hashes of its leaves. */
struct pack_foot {
	uint64_t frames, table; /* where the table begins */
	uint64_t chunks;
	uint32_t kind, sealed;
	unsigned char salt[STORE_SALT]; /* of what is sealed */
	char mark[8];
};
