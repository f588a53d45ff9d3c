/* See key.c. */
#pragma once

#include "image/store/private.h"

#include <nettle/gcm.h>
#include <nettle/hmac.h>

struct store_key {
	struct hmac_sha256_ctx hash;
	unsigned char content[DIGEST];
	unsigned char check[DIGEST]; /* stands in the store's mark, to tell a wrong key */
};

/* Of a pack or a recipe. Any thread. */
struct store_cipher {
	struct aes256_ctx aes;
	struct gcm_key gcm;
};

/* -EKEYREJECTED: the file has too little to be a key, or too much. */
int store_key_read(const char *path, struct store_key **ret);
/* Takes NULL. */
void store_key_free(struct store_key *k);
int store_salt(unsigned char to[STORE_SALT]);
void store_cipher(const struct store_key *k, const unsigned char salt[STORE_SALT], struct store_cipher *ret);
/* In place. `number`: never the same twice for one cipher. */
void store_seal(const struct store_cipher *c, uint64_t number, unsigned char *data, size_t size, unsigned char tag[STORE_TAG]);
/* -EBADMSG: it is not what was sealed. */
int store_unseal(const struct store_cipher *c, uint64_t number, unsigned char *data, size_t size, const unsigned char tag[STORE_TAG]);
