/*
 * The key of a store that is encrypted. All hashes are then HMAC-SHA256 with it, so that nobody without it can tell what a chunk is, or make one;
 * what is sealed (frames, recipes) is AES-256-GCM, each pack and recipe with a key of its own that is made from a random salt, so that
 * a number is never used twice with the same one.
 */
#include "image/store/key.h"

#include <fcntl.h>
#include <nettle/memops.h>
#include <nettle/sha2.h>
#include <sys/random.h>
#include <sys/stat.h>

#define KEY_MIN 32 /* bytes of the file: what is not random enough is no key */
#define KEY_MAX 4096

static void derive(const unsigned char from[DIGEST], const void *label, size_t size, unsigned char to[DIGEST])
{
	struct hmac_sha256_ctx c;

	hmac_sha256_set_key(&c, DIGEST, from);
	hmac_sha256_update(&c, size, label);
	hmac_sha256_digest(&c, DIGEST, to);
}

int store_key_read(const char *path, struct store_key **ret)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	unsigned char data[KEY_MAX + 1], whole[DIGEST], half[DIGEST];
	struct sha256_ctx sha;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	ssize_t size = S_ISREG(st.st_mode) ? read(fd, data, sizeof(data)) : 0;
	if (size < 0)
		return -errno;
	if (size < KEY_MIN || size > KEY_MAX)
		return -EKEYREJECTED;
	struct store_key *k = malloc(sizeof(*k));
	if (!k)
		return -ENOMEM;
	sha256_init(&sha);
	sha256_update(&sha, (size_t)size, data);
	sha256_digest(&sha, DIGEST, whole);
	derive(whole, "fermata store: hashes", 21, half);
	hmac_sha256_set_key(&k->hash, DIGEST, half);
	derive(whole, "fermata store: content", 22, k->content);
	derive(whole, "fermata store: check", 20, k->check);
	explicit_bzero(data, sizeof(data));
	explicit_bzero(whole, sizeof(whole));
	explicit_bzero(half, sizeof(half));
	*ret = k;
	return 0;
}

void store_key_free(struct store_key *k)
{
	if (k)
		explicit_bzero(k, sizeof(*k));
	free(k);
}

void store_digest(const struct store_key *k, const void *data, size_t size, unsigned char to[DIGEST])
{
	if (k) {
		struct hmac_sha256_ctx c = k->hash;
		hmac_sha256_update(&c, size, data);
		hmac_sha256_digest(&c, DIGEST, to);
	} else {
		struct sha256_ctx c;
		sha256_init(&c);
		sha256_update(&c, size, data);
		sha256_digest(&c, DIGEST, to);
	}
}

int store_salt(unsigned char to[STORE_SALT])
{
	return getrandom(to, STORE_SALT, 0) == STORE_SALT ? 0 : -EIO;
}

void store_cipher(const struct store_key *k, const unsigned char salt[STORE_SALT], struct store_cipher *ret)
{
	unsigned char own[DIGEST];

	derive(k->content, salt, STORE_SALT, own);
	aes256_set_encrypt_key(&ret->aes, own);
	gcm_set_key(&ret->gcm, &ret->aes, (nettle_cipher_func *)aes256_encrypt);
	explicit_bzero(own, sizeof(own));
}

static void begin(const struct store_cipher *c, uint64_t number, struct gcm_ctx *ret)
{
	unsigned char iv[GCM_IV_SIZE] = {};

	memcpy(iv, &number, sizeof(number));
	gcm_set_iv(ret, &c->gcm, sizeof(iv), iv);
}

void store_seal(const struct store_cipher *c, uint64_t number, unsigned char *data, size_t size, unsigned char tag[STORE_TAG])
{
	struct gcm_ctx g;

	begin(c, number, &g);
	gcm_encrypt(&g, &c->gcm, &c->aes, (nettle_cipher_func *)aes256_encrypt, size, data, data);
	gcm_digest(&g, &c->gcm, &c->aes, (nettle_cipher_func *)aes256_encrypt, STORE_TAG, tag);
}

int store_unseal(const struct store_cipher *c, uint64_t number, unsigned char *data, size_t size, const unsigned char tag[STORE_TAG])
{
	unsigned char is[STORE_TAG];
	struct gcm_ctx g;

	begin(c, number, &g);
	gcm_decrypt(&g, &c->gcm, &c->aes, (nettle_cipher_func *)aes256_encrypt, size, data, data);
	gcm_digest(&g, &c->gcm, &c->aes, (nettle_cipher_func *)aes256_encrypt, STORE_TAG, is);
	return memeql_sec(is, tag, STORE_TAG) ? 0 : -EBADMSG;
}
