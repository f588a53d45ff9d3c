/* See client.h. */
#include "daemon/client.h"

#include <ctype.h>
#include <sys/socket.h>
#include <sys/un.h>

#define ANSWER_MAX (256u << 20)

int client_open(const struct settings *s, struct client_connection *ret, struct error *e)
{
	const char *path = settings_text(s, SETTING_ADDRESS);
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	ret->start = ret->end = 0;
	if (strcmp(settings_text(s, SETTING_PROTOCOL), "unix")) {
		ret->fd = client_open_tls(s, e);
		return MIN(ret->fd, 0);
	}
	if (snprintf(address.sun_path, sizeof(address.sun_path), "%s", path) >= (int)sizeof(address.sun_path))
		return error_set(e, -ENAMETOOLONG, "the address %s is too long for a socket", path);
	ret->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (ret->fd < 0)
		return error_errno(e, -errno, "cannot make a socket");
	if (connect(ret->fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return 0;
	int r = -errno;
	client_close(ret);
	if (r == -ENOENT || r == -ECONNREFUSED)
		return error_set(e, r, "no daemon answers on %s; start one with fermata daemon start", path);
	return error_errno(e, r, "cannot reach the daemon on %s%s", path, r == -EACCES ? " (the setting group lets others than root in)" : "");
}

void client_close(struct client_connection *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}

static int send_all(struct client_connection *c, const char *data, size_t size, struct error *e)
{
	while (size) {
		ssize_t n = send(c->fd, data, size, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_errno(e, -errno, "cannot speak to the daemon");
		data += n;
		size -= (size_t)n;
	}
	return 0;
}

static int send_request(struct client_connection *c, const char *method, const char *path, const json_t *body, bool upgrade, struct error *e)
{
	_cleanup_free_ char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
	char head[2048];

	if (body && !text)
		return error_set(e, -EINVAL, "the request can't be written as JSON: an argument or a variable is no UTF-8");
	int n = snprintf(head, sizeof(head), "%s %s HTTP/1.1\r\nHost: fermata\r\nConnection: %s\r\n%sContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
			 method, path, upgrade ? "Upgrade" : "close", upgrade ? "Upgrade: fermata-frames\r\n" : "", text ? strlen(text) : 0);
	if (n >= (int)sizeof(head))
		return error_set(e, -ENAMETOOLONG, "the request is too long");
	int r = send_all(c, head, (size_t)n, e);
	return r || !text ? r : send_all(c, text, strlen(text), e);
}

/* More into the buffer: 1, 0 at the end. */
static int fill(struct client_connection *c, struct error *e)
{
	ssize_t n;

	if (c->start == c->end)
		c->start = c->end = 0;
	do
		n = recv(c->fd, c->buffer + c->end, sizeof(c->buffer) - c->end, 0);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return error_errno(e, -errno, "the daemon's answer broke off (it ended, or has as many clients as it takes)");
	c->end += (size_t)n;
	return n > 0;
}

static int read_line(struct client_connection *c, char *line, size_t size, struct error *e)
{
	for (size_t used = 0;;) {
		if (c->start == c->end) {
			int r = fill(c, e);
			if (r <= 0)
				return r ? r : error_set(e, -EPIPE, "the daemon ended before it answered");
		}
		char byte = c->buffer[c->start++];
		if (byte == '\n') {
			line[used - (used && line[used - 1] == '\r')] = '\0';
			return 0;
		}
		if (used + 1 == size)
			return error_set(e, -EBADMSG, "the daemon's answer is not HTTP");
		line[used++] = byte;
	}
}

struct body {
	struct client_connection *c;
	bool chunked;
	uint64_t left; /* of the body, or of the chunk */
	bool to_the_end;
	int status;
};

static int read_head(struct client_connection *c, struct body *ret, struct error *e)
{
	char line[4096];
	int r = read_line(c, line, sizeof(line), e);

	*ret = (struct body){ .c = c, .to_the_end = true };
	if (!r && sscanf(line, "HTTP/1.%*c %d", &ret->status) != 1)
		r = error_set(e, -EBADMSG, "what answers there is not the daemon");
	while (!r && !(r = read_line(c, line, sizeof(line), e)) && *line) {
		if (!strncasecmp(line, "Content-Length:", 15)) {
			ret->left = strtoull(line + 15, NULL, 10);
			ret->to_the_end = false;
		} else if (!strncasecmp(line, "Transfer-Encoding: chunked", 26)) {
			ret->chunked = true;
		}
	}
	return r;
}

/* Some bytes of the body: 1 and *ret_data in the buffer, 0 at its end. */
static int read_some(struct body *b, const char **ret_data, size_t *ret_size, struct error *e)
{
	struct client_connection *c = b->c;
	char line[64];

	if (b->chunked && !b->left) {
		int r = read_line(c, line, sizeof(line), e);
		if (!r && !*line)
			r = read_line(c, line, sizeof(line), e);
		if (r)
			return r;
		b->left = strtoull(line, NULL, 16);
		if (!b->left)
			return 0;
	} else if (!b->to_the_end && !b->left) {
		return 0;
	}
	if (c->start == c->end) {
		int r = fill(c, e);
		if (r <= 0)
			return r ? r : b->to_the_end && !b->chunked ? 0 : error_set(e, -EPIPE, "the daemon ended before it had answered all; fermata job list says what became of it");
	}
	size_t n = c->end - c->start;
	if (b->chunked || !b->to_the_end)
		n = MIN(n, b->left);
	*ret_data = c->buffer + c->start;
	*ret_size = n;
	c->start += n;
	b->left -= b->chunked || !b->to_the_end ? n : 0;
	return 1;
}

static int read_all(struct body *b, char **ret, size_t *ret_size, struct error *e)
{
	VEC(char) text = {};
	const char *data = NULL;
	size_t size = 0;
	int r;

	while ((r = read_some(b, &data, &size, e)) == 1) {
		if (text.count + size > ANSWER_MAX || !vec_reserve((void **)&text.data, &text.capacity, text.count + size + 1, 1)) {
			r = error_set(e, -ENOMEM, "the daemon's answer is too long");
			break;
		}
		memcpy(text.data + text.count, data, size);
		text.count += size;
	}
	if (r < 0) {
		VEC_FREE(&text);
		return r;
	}
	*ret = text.data;
	*ret_size = text.count;
	return 0;
}

static int refused(struct body *b, struct error *e)
{
	char *text = NULL;
	size_t size = 0;
	int r = read_all(b, &text, &size, e);

	if (r)
		return r;
	json_t *document = json_loadb(text ? text : "", size, 0, NULL);
	const char *why = json_string_value(json_object_get(document, "error"));
	int code = (int)json_integer_value(json_object_get(document, "code"));
	r = error_set(e, code < 0 ? code : -EIO, "%s", why ? why : "the daemon refused, and did not say why");
	json_decref(document);
	free(text);
	return r;
}

static int begin(const struct settings *s, const char *method, const char *path, const json_t *body, bool upgrade, struct client_connection *c,
		 struct body *b, struct error *e)
{
	int r = client_open(s, c, e);

	if (r)
		return r;
	r = send_request(c, method, path, body, upgrade, e);
	if (!r)
		r = read_head(c, b, e);
	if (!r && b->status >= 300)
		r = refused(b, e);
	if (r)
		client_close(c);
	return r;
}

int client_call(const struct settings *s, const char *method, const char *path, const json_t *body, json_t **ret, struct error *e)
{
	struct client_connection c;
	struct body b;
	char *text = NULL;
	size_t size = 0;
	int r = begin(s, method, path, body, false, &c, &b, e);

	if (r)
		return r;
	r = read_all(&b, &text, &size, e);
	client_close(&c);
	if (!r) {
		*ret = json_loadb(text ? text : "", size, 0, NULL);
		r = *ret ? 0 : error_set(e, -EBADMSG, "the daemon's answer is no JSON");
	}
	free(text);
	return r;
}

int client_events(const struct settings *s, const char *method, const char *path, const json_t *body,
		  int (*heard)(void *data, json_t *event, struct error *e), void *data, struct error *e)
{
	struct client_connection c;
	struct body b;
	VEC(char) line = {};
	const char *bytes = NULL;
	size_t size = 0;
	int r = begin(s, method, path, body, false, &c, &b, e), more = 0;

	if (r)
		return r;
	while (!r && (more = read_some(&b, &bytes, &size, e)) == 1)
		for (size_t i = 0; i < size && !r; i++) {
			char *slot = line.count < ANSWER_MAX ? VEC_PUSH(&line) : NULL;
			if (!slot) {
				r = error_set(e, -EBADMSG, "an event of the daemon is too long");
				break;
			}
			*slot = bytes[i];
			if (bytes[i] != '\n')
				continue;
			json_t *event = json_loadb(line.data, line.count, 0, NULL);
			line.count = 0;
			r = event ? heard(data, event, e) : error_set(e, -EBADMSG, "an event of the daemon is no JSON");
			json_decref(event);
		}
	VEC_FREE(&line);
	client_close(&c);
	return r ? r : MIN(more, 0);
}

int client_copy(const struct settings *s, const char *path, int fd, struct error *e)
{
	struct client_connection c;
	struct body b;
	const char *data = NULL;
	size_t size = 0;
	int r = begin(s, "GET", path, NULL, false, &c, &b, e), more = 0;

	if (r)
		return r;
	while (!r && (more = read_some(&b, &data, &size, e)) == 1)
		for (size_t done = 0; done < size && !r;) {
			ssize_t n = write(fd, data + done, size - done);
			if (n < 0 && errno != EINTR)
				r = error_errno(e, -errno, "cannot write it");
			done += (size_t)MAX(n, 0);
		}
	client_close(&c);
	return r ? r : MIN(more, 0);
}

int client_upgrade(const struct settings *s, const char *path, struct client_connection *ret, struct error *e)
{
	struct body b;
	int r = begin(s, "GET", path, NULL, true, ret, &b, e);

	if (!r && b.status != 101) {
		client_close(ret);
		r = error_set(e, -EBADMSG, "the daemon does not attach");
	}
	return r;
}
