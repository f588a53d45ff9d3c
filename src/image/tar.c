/* See tar.h; the layout is that of tar(5). */
#include "image/tar.h"

struct head {
	char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100], magic[6], version[2], uname[32],
		gname[32], major[8], minor[8], prefix[155], rest[12];
};
_Static_assert(sizeof(struct head) == TAR_BLOCK, "a head is a block");

#define OCTAL_MAX 077777777777ULL
#define ID_MAX 07777777U /* larger ones: pax records */

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

void tar_head_of(unsigned char to[TAR_BLOCK], const struct tar_entry *e)
{
	struct head h = { .type = e->type, .magic = "ustar", .version = { '0', '0' } };

	memcpy(h.name, e->name, MIN(strlen(e->name), sizeof(h.name)));
	memcpy(h.link, e->link, MIN(strlen(e->link), sizeof(h.link)));
	put_octal(h.mode, sizeof(h.mode), e->mode);
	put_octal(h.uid, sizeof(h.uid), MIN(e->uid, ID_MAX));
	put_octal(h.gid, sizeof(h.gid), MIN(e->gid, ID_MAX));
	if (e->size > OCTAL_MAX)
		put_binary(h.size, e->size);
	else
		put_octal(h.size, sizeof(h.size), e->size);
	put_octal(h.mtime, sizeof(h.mtime), e->mtime > 0 ? MIN((uint64_t)e->mtime, OCTAL_MAX) : 0);
	put_octal(h.major, sizeof(h.major), MIN(e->major, ID_MAX));
	put_octal(h.minor, sizeof(h.minor), MIN(e->minor, ID_MAX));
	put_octal(h.checksum, 7, checksum((const unsigned char *)&h));
	h.checksum[7] = ' ';
	memcpy(to, &h, TAR_BLOCK);
}

void tar_head(unsigned char to[TAR_BLOCK], const char *name, uint64_t size, int64_t time)
{
	struct head h = { .uname = "root", .gname = "root" };
	struct tar_entry e = { .type = '0', .mode = 0600, .size = size, .mtime = time };

	memcpy(e.name, name, MIN(strlen(name), sizeof(h.name)));
	tar_head_of(to, &e);
	memcpy(to + offsetof(struct head, uname), h.uname, sizeof(h.uname));
	memcpy(to + offsetof(struct head, gname), h.gname, sizeof(h.gname));
	put_octal((char *)to + offsetof(struct head, checksum), 7, checksum(to));
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

static int get_id(const char *from, size_t width, uint32_t *ret)
{
	uint64_t value = 0;

	if (get_number(from, width, &value) || value > UINT32_MAX)
		return -EBADMSG;
	*ret = (uint32_t)value;
	return 0;
}

int tar_parse_entry(const unsigned char head[TAR_BLOCK], struct tar_entry *ret)
{
	struct tar_member m;
	struct head h;
	uint64_t mtime;
	int r = tar_parse(head, &m);

	*ret = (struct tar_entry){};
	if (r || m.type == TAR_END)
		return r;
	memcpy(&h, head, TAR_BLOCK);
	const bool prefixed = !memcmp(h.magic, "ustar", 6) && h.prefix[0];
	ret->type = h.type ? h.type : '0';
	snprintf(ret->name, sizeof(ret->name), "%.*s%s%.*s", prefixed ? (int)sizeof(h.prefix) : 0, h.prefix, prefixed ? "/" : "", (int)sizeof(h.name), h.name);
	memcpy(ret->link, h.link, sizeof(h.link));
	ret->size = m.size;
	if (get_id(h.mode, sizeof(h.mode), &ret->mode) || get_id(h.uid, sizeof(h.uid), &ret->uid) || get_id(h.gid, sizeof(h.gid), &ret->gid) ||
	    get_id(h.major, sizeof(h.major), &ret->major) || get_id(h.minor, sizeof(h.minor), &ret->minor) || get_number(h.mtime, sizeof(h.mtime), &mtime))
		return -EBADMSG;
	ret->mtime = (int64_t)mtime;
	return 1;
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
