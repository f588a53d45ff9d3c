/* See tar.h; the layout is that of tar(5). */
#include "image/tar.h"

struct head {
	char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100], magic[6], version[2], uname[32],
		gname[32], major[8], minor[8], prefix[155], rest[12];
};
_Static_assert(sizeof(struct head) == TAR_BLOCK, "a head is a block");

#define OCTAL_MAX 077777777777ULL

static void put_octal(char *to, size_t width, uint64_t value)
{
	to[width - 1] = '\0';
	for (size_t i = width - 1; i-- > 0; value >>= 3)
		to[i] = (char)('0' + (value & 7));
}

/* Big-endian, with the highest bit set. */
static void put_binary(char to[12], uint64_t value)
{
	memset(to, 0, 12);
	for (size_t i = 12; i-- > 4; value >>= 8)
		to[i] = (char)(value & 0xff);
	to[0] = (char)0x80;
}

static uint32_t checksum(const unsigned char *head)
{
	const size_t at = offsetof(struct head, checksum);
	uint32_t sum = 0;

	for (size_t i = 0; i < TAR_BLOCK; i++)
		sum += i >= at && i < at + 8 ? ' ' : head[i];
	return sum;
}

void tar_head(unsigned char to[TAR_BLOCK], const char *name, uint64_t size, int64_t time)
{
	struct head h = { .type = '0', .magic = "ustar", .version = { '0', '0' }, .uname = "root", .gname = "root" };

	memcpy(h.name, name, MIN(strlen(name), sizeof(h.name)));
	put_octal(h.mode, sizeof(h.mode), 0600);
	put_octal(h.uid, sizeof(h.uid), 0);
	put_octal(h.gid, sizeof(h.gid), 0);
	if (size > OCTAL_MAX)
		put_binary(h.size, size);
	else
		put_octal(h.size, sizeof(h.size), size);
	put_octal(h.mtime, sizeof(h.mtime), time > 0 ? (uint64_t)time : 0);
	put_octal(h.major, sizeof(h.major), 0);
	put_octal(h.minor, sizeof(h.minor), 0);
	put_octal(h.checksum, 7, checksum((const unsigned char *)&h));
	h.checksum[7] = ' ';
	memcpy(to, &h, TAR_BLOCK);
}

static int get_number(const char *from, size_t width, uint64_t *ret)
{
	uint64_t value = 0;
	size_t i = 0;

	if ((unsigned char)from[0] == 0x80) {
		for (i = 1; i < width; i++) {
			if (value >> 55)
				return -EBADMSG;
			value = value << 8 | (unsigned char)from[i];
		}
		*ret = value;
		return 0;
	}
	while (i < width && from[i] == ' ')
		i++;
	for (; i < width && from[i] >= '0' && from[i] <= '7'; i++)
		value = value << 3 | (uint64_t)(from[i] - '0');
	*ret = value;
	return i == width || from[i] == ' ' || !from[i] ? 0 : -EBADMSG;
}

int tar_parse(const unsigned char head[TAR_BLOCK], struct tar_member *ret)
{
	static const unsigned char zeros[TAR_BLOCK];
	struct head h;
	uint64_t sum;

	memcpy(&h, head, TAR_BLOCK);
	*ret = (struct tar_member){ .type = TAR_END };
	if (!memcmp(head, zeros, TAR_BLOCK))
		return 0;
	if (get_number(h.checksum, sizeof(h.checksum), &sum) || sum != checksum(head) || get_number(h.size, sizeof(h.size), &ret->size))
		return -EBADMSG;
	/* What would not fit when it is rounded up, or is added to a place. */
	if (ret->size > (uint64_t)1 << 56)
		return -EBADMSG;
	const char *name = h.name;
	size_t length = strnlen(h.name, sizeof(h.name));
	while (length > 2 && name[0] == '.' && name[1] == '/') {
		name += 2;
		length -= 2;
	}
	memcpy(ret->name, name, length);
	bool prefixed = !memcmp(h.magic, "ustar", 6) && h.prefix[0];
	ret->type = h.type == 'x' ? TAR_PAX : (h.type == '0' || !h.type) && !prefixed ? TAR_FILE : TAR_OTHER;
	/* Links, directories and devices have no content, whatever is written there. */
	if (h.type >= '1' && h.type <= '6')
		ret->size = 0;
	return 0;
}

int64_t tar_pax_size(const char *records, size_t size)
{
	int64_t found = -1;

	for (size_t at = 0; at < size;) {
		size_t length = 0, i = at;
		for (; i < size && records[i] >= '0' && records[i] <= '9' && length < size; i++)
			length = length * 10 + (size_t)(records[i] - '0');
		if (!length || i >= size || records[i] != ' ' || length > size - at || at + length <= i + 1)
			break;
		const char *text = &records[i + 1];
		size_t n = at + length - (i + 1);
		if (n > 5 && n < 30 && !memcmp(text, "size=", 5)) {
			char number[32] = "";
			memcpy(number, text + 5, n - 6);
			found = strtoll(number, NULL, 10);
		}
		at += length;
	}
	return found;
}
