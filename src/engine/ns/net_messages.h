/*
 * Messages of rtnetlink(7) as the kernel gave them: collected by a dump, kept in images as `ip route save` and its like write them (a magic of
 * iproute2's, then the messages one behind the other), and taken apart again. What an image says is never sent on as it is: of each message only those
 * attributes are that the caller names.
 *
 * The network namespace is that of the calling thread.
 */
#pragma once

#include "base/error.h"

#include <libmnl/libmnl.h>

struct dump;
struct restore;

struct net_messages {
	VEC(char) bytes;
};

#define NET_MESSAGE_MAX 32768 /* of one message that is sent */

/* The answers to a question (RTM_GETADDR …) with that header of the family (struct ifaddrmsg …). `wanted` (NULL: all) says which to keep. 0, or -errno. */
int net_messages_ask(struct net_messages *m, uint16_t type, const void *header, size_t size, bool (*wanted)(const struct nlmsghdr *h, void *data), void *data);
bool net_messages_add(struct net_messages *m, const struct nlmsghdr *h);
void net_messages_free(struct net_messages *m);

/* The first (`h` NULL) or the next one; NULL: there is none. */
const struct nlmsghdr *net_messages_next(const struct net_messages *m, const struct nlmsghdr *h);
#define NET_MESSAGES_FOREACH(m, h) for (const struct nlmsghdr *h = NULL; (h = net_messages_next(m, h));)

/* A whole image: without messages there is none. */
int net_messages_write(struct dump *d, const char *name, uint32_t magic, const struct net_messages *m);
/* Without the image: none. All are of `type`, begin with a header of `header` bytes, and have whole attributes, or it is damaged. */
int net_messages_read(struct restore *s, const char *name, uint32_t magic, uint16_t type, size_t header, struct net_messages *ret);
/* One message that is taken from somewhere else, checked as those of an image are: 0, -EBADMSG or -ENOMEM. */
int net_messages_take(struct net_messages *m, const struct nlmsghdr *h, uint16_t type, size_t header);
/* What net_messages_read makes of the bytes of an image: 0, -EBADMSG or -ENOMEM. */
int net_messages_parse(const void *data, size_t size, uint32_t magic, uint16_t type, size_t header, struct net_messages *ret);

/* Whether what is in an attribute is whole attributes. */
bool net_attribute_is_nest(const struct nlattr *nest);
/* An attribute of a message that was checked; or NULL. */
const struct nlattr *net_message_find(const struct nlmsghdr *h, size_t header, uint16_t type);
uint32_t net_message_u32(const struct nlmsghdr *h, size_t header, uint16_t type); /* 0 where there is none */
/* Begins a message to be sent: `buffer` has NET_MESSAGE_MAX bytes. The family's header is the image's. */
struct nlmsghdr *net_message_begin(char *buffer, const struct nlmsghdr *from, uint16_t type, uint16_t flags, size_t header);
/* Those of its attributes that are named. False: there is not enough room. */
bool net_message_copy(struct nlmsghdr *to, const struct nlmsghdr *from, size_t header, const uint16_t *known, size_t count);
