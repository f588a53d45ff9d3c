/* Helpers for live test programs with unix sockets. A name that begins with '@' is an abstract one. */
#ifndef UNIX_H
#define UNIX_H
#include "live.h"
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

static inline socklen_t unix_name(struct sockaddr_un *to, const char *name)
{
	memset(to, 0, sizeof *to);
	to->sun_family = AF_UNIX;
	CHECK(strlen(name) < sizeof to->sun_path);
	memcpy(to->sun_path, name, strlen(name));
	if (*name == '@') *to->sun_path = 0;
	return offsetof(struct sockaddr_un, sun_path) + strlen(name) + (*name != '@');
}

static inline int unix_bound(int type, const char *name)
{
	struct sockaddr_un address;
	socklen_t length = unix_name(&address, name);
	int fd = socket(AF_UNIX, type, 0);
	CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&address, length) == 0);
	return fd;
}

static inline int unix_listening(int type, const char *name, int backlog)
{
	int fd = unix_bound(type, name);
	CHECK(listen(fd, backlog) == 0);
	return fd;
}

/* -1 with errno where it cannot connect. */
static inline int unix_connected(int type, const char *name)
{
	struct sockaddr_un address;
	socklen_t length = unix_name(&address, name);
	int fd = socket(AF_UNIX, type, 0);
	CHECK(fd >= 0);
	if (connect(fd, (struct sockaddr *)&address, length) == 0) return fd;
	int error = errno;
	close(fd);
	errno = error;
	return -1;
}

static inline int unix_is(int fd, int (*get)(int, struct sockaddr *, socklen_t *), const char *name)
{
	struct sockaddr_un now, wanted;
	socklen_t length = sizeof now, wanted_length = *name ? unix_name(&wanted, name) : sizeof(sa_family_t);
	memset(&now, 0, sizeof now);
	CHECK(get(fd, (struct sockaddr *)&now, &length) == 0);
	return length == wanted_length && (!*name || memcmp(&now, &wanted, length) == 0);
}
static inline int own_name(int fd, struct sockaddr *to, socklen_t *length) { return getsockname(fd, to, length); }
static inline int peer_name(int fd, struct sockaddr *to, socklen_t *length) { return getpeername(fd, to, length); }

static inline void expect(int fd, const char *text)
{
	char got[256];
	ssize_t n = recv(fd, got, sizeof got, MSG_DONTWAIT);
	CHECK(n == (ssize_t)strlen(text) && memcmp(got, text, n) == 0);
}

static inline void expect_end(int fd)
{
	char got;
	CHECK(recv(fd, &got, 1, MSG_DONTWAIT) == 0);
}

static inline void expect_nothing(int fd)
{
	char got;
	CHECK(recv(fd, &got, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN);
}

static inline void say(int fd, const char *text)
{
	CHECK(send(fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text));
}
#endif
