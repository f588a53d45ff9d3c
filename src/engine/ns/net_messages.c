/* See net_messages.h. */
#include "engine/ns/net_messages.h"

#include "engine/dump.h"
#include "engine/kinds/netlink_ask.h"
#include "engine/restore.h"

#define IMAGE_MAX (256UL << 20)
#define ASK_TRIES 10

bool net_messages_add(struct net_messages *m, const struct nlmsghdr *h)
{
	const size_t size = MNL_ALIGN(h->nlmsg_len), at = m->bytes.count;

	if (!vec_reserve((void **)&m->bytes.data, &m->bytes.capacity, at + size, 1))
		return false;
	memset(m->bytes.data + at, 0, size);
	memcpy(m->bytes.data + at, h, h->nlmsg_len);
	m->bytes.count += size;
	return true;
}

struct question {
	struct net_messages *to;
	uint16_t answer;
	bool (*wanted)(const struct nlmsghdr *h, void *data);
	void *data;
	bool failed;
};

static int take(const struct nlmsghdr *h, void *data)
{
	struct question *q = data;

	if (h->nlmsg_type == q->answer && (!q->wanted || q->wanted(h, q->data)) && !net_messages_add(q->to, h))
		q->failed = true;
	return MNL_CB_OK;
}

/* A RTM_GET… is two above the RTM_NEW… that it is answered with. What changes meanwhile, as neighbours do, is asked for once more. */
int net_messages_ask(struct net_messages *m, uint16_t type, const void *header, size_t size, bool (*wanted)(const struct nlmsghdr *h, void *data), void *data)
{
	const size_t before = m->bytes.count;
	struct question q = { m, (uint16_t)(type - 2), wanted, data, false };
	int r = -EINTR;

	for (int tries = 0; r == -EINTR && tries < ASK_TRIES; tries++) {
		char buffer[256] = {};
		struct nlmsghdr *h = mnl_nlmsg_put_header(buffer);
		h->nlmsg_type = type;
		h->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
		memcpy(mnl_nlmsg_put_extra_header(h, size), header, size);
		m->bytes.count = before;
		r = netlink_ask(NETLINK_ROUTE, h, take, &q);
	}
	return r ? r : q.failed ? -ENOMEM : 0;
}

void net_messages_free(struct net_messages *m)
{
	VEC_FREE(&m->bytes);
}

const struct nlmsghdr *net_messages_next(const struct net_messages *m, const struct nlmsghdr *h)
{
	const size_t at = h ? (size_t)((const char *)h - m->bytes.data) + MNL_ALIGN(h->nlmsg_len) : 0;

	return at < m->bytes.count ? (const struct nlmsghdr *)(m->bytes.data + at) : NULL;
}

/* ---- images ---- */

int net_messages_write(struct dump *d, const char *name, uint32_t magic, const struct net_messages *m)
{
	struct image_file *file;

	if (!m->bytes.count)
		return 0;
	int r = image_create_raw(d->dir, name, &file);
	if (!r) {
		r = image_write_bytes(file, &magic, sizeof(magic));
		if (!r)
			r = image_write_bytes(file, m->bytes.data, m->bytes.count);
		int closed = image_close(file);
		r = r ? r : closed;
	}
	return r ? error_errno(d->e, r, "cannot write %s", name) : 0;
}

static bool is_whole(const struct nlmsghdr *h, uint16_t type, size_t header)
{
	if (h->nlmsg_type != type || h->nlmsg_len < MNL_NLMSG_HDRLEN + MNL_ALIGN(header) || h->nlmsg_len > NET_MESSAGE_MAX)
		return false;
	size_t left = h->nlmsg_len - MNL_NLMSG_HDRLEN - MNL_ALIGN(header);
	for (const struct nlattr *a = mnl_nlmsg_get_payload_offset(h, header); left; a = mnl_attr_next(a)) {
		if (left < sizeof(*a) || a->nla_len < sizeof(*a) || a->nla_len > left)
			return false;
		left -= MIN(left, (size_t)MNL_ALIGN(a->nla_len));
	}
	return true;
}

int net_messages_take(struct net_messages *m, const struct nlmsghdr *h, uint16_t type, size_t header)
{
	return !is_whole(h, type, header) ? -EBADMSG : net_messages_add(m, h) ? 0 : -ENOMEM;
}

static bool all_are_whole(const char *bytes, size_t size, uint16_t type, size_t header)
{
	struct nlmsghdr h;

	for (size_t at = 0; at < size; at += MNL_ALIGN(h.nlmsg_len)) {
		const size_t left = size - at;
		if (left < sizeof(h))
			return false;
		memcpy(&h, bytes + at, sizeof(h));
		if (h.nlmsg_len < sizeof(h) || MNL_ALIGN((size_t)h.nlmsg_len) > left || !is_whole((const struct nlmsghdr *)(bytes + at), type, header))
			return false;
	}
	return true;
}

int net_messages_parse(const void *data, size_t size, uint32_t magic, uint16_t type, size_t header, struct net_messages *ret)
{
	uint32_t first;

	if (size < sizeof(first))
		return -EBADMSG;
	memcpy(&first, data, sizeof(first));
	if (first != magic)
		return -EBADMSG;
	if (!vec_reserve((void **)&ret->bytes.data, &ret->bytes.capacity, size, 1))
		return -ENOMEM;
	memcpy(ret->bytes.data, (const char *)data + sizeof(first), size - sizeof(first));
	/* Nobody is to go through what is not whole. */
	if (!all_are_whole(ret->bytes.data, size - sizeof(first), type, header))
		return -EBADMSG;
	ret->bytes.count = size - sizeof(first);
	return 0;
}

int net_messages_read(struct restore *s, const char *name, uint32_t magic, uint16_t type, size_t header, struct net_messages *ret)
{
	_cleanup_free_ char *text = NULL;
	struct image_raw *raw;
	int r = image_raw_open(s->dir, name, &raw);

	if (r == -ENOENT)
		return 0;
	if (r)
		return error_errno(s->e, r, "cannot read %s", name);
	const uint64_t size = image_raw_size(raw);
	if (size > IMAGE_MAX)
		r = -EBADMSG;
	else if (!(text = malloc(size + 1)))
		r = -ENOMEM;
	else
		r = image_raw_read(raw, NULL, text, size, 0);
	image_raw_close(raw);
	if (!r)
		r = net_messages_parse(text, size, magic, type, header, ret);
	return r == -EBADMSG ? error_set(s->e, r, "%s is damaged", name) : r ? error_errno(s->e, r, "cannot read %s", name) : 0;
}

/* ---- messages ---- */

bool net_attribute_is_nest(const struct nlattr *nest)
{
	size_t left = mnl_attr_get_payload_len(nest);

	for (const struct nlattr *a = mnl_attr_get_payload(nest); left; a = mnl_attr_next(a)) {
		if (left < sizeof(*a) || a->nla_len < sizeof(*a) || a->nla_len > left)
			return false;
		left -= MIN(left, (size_t)MNL_ALIGN(a->nla_len));
	}
	return true;
}

const struct nlattr *net_message_find(const struct nlmsghdr *h, size_t header, uint16_t type)
{
	const struct nlattr *a;

	mnl_attr_for_each(a, h, (unsigned int)header)
		if (mnl_attr_get_type(a) == type)
			return a;
	return NULL;
}

uint32_t net_message_u32(const struct nlmsghdr *h, size_t header, uint16_t type)
{
	const struct nlattr *a = net_message_find(h, header, type);

	return a && mnl_attr_get_payload_len(a) >= sizeof(uint32_t) ? mnl_attr_get_u32(a) : 0;
}

struct nlmsghdr *net_message_begin(char *buffer, const struct nlmsghdr *from, uint16_t type, uint16_t flags, size_t header)
{
	struct nlmsghdr *h = mnl_nlmsg_put_header(buffer);

	h->nlmsg_type = type;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
	memcpy(mnl_nlmsg_put_extra_header(h, header), mnl_nlmsg_get_payload(from), header);
	return h;
}

bool net_message_copy(struct nlmsghdr *to, const struct nlmsghdr *from, size_t header, const uint16_t *known, size_t count)
{
	const struct nlattr *a;

	mnl_attr_for_each(a, from, (unsigned int)header)
		for (size_t i = 0; i < count; i++)
			if (known[i] == mnl_attr_get_type(a) &&
			    !mnl_attr_put_check(to, NET_MESSAGE_MAX, a->nla_type, mnl_attr_get_payload_len(a), mnl_attr_get_payload(a)))
				return false;
	return true;
}
