/*
 * The daemon's client: one HTTP/1.1 request a connection. Answers are read as JSON, as lines as they come, or the connection becomes a
 * stream (attach).
 */
#pragma once

#include "daemon/settings.h"

struct client_connection {
	int fd;
	char buffer[16384];
	size_t start, end;
};

/* -ECONNREFUSED, -ENOENT: no daemon is there. */
int client_open(const struct settings *s, struct client_connection *ret, struct error *e);
/* On TCP, by TLS: a socket, or a negative errno. The program defines it: fermata has no TLS (cli/lean.c), fermata-daemon has (cli/full.c). */
int client_open_tls(const struct settings *s, struct error *e);
void client_close(struct client_connection *c);

/* Sends a request and reads the answer. `body` NULL: none. Errors that the daemon answers become ours, with its text and code. */
int client_call(const struct settings *s, const char *method, const char *path, const json_t *body, json_t **ret, struct error *e);
/* Each event as it comes; `heard` gives a negative errno to stop. */
int client_events(const struct settings *s, const char *method, const char *path, const json_t *body, int (*heard)(void *data, json_t *event, struct error *e),
		  void *data, struct error *e);
/* The answer's text as it comes, written to `fd`. */
int client_copy(const struct settings *s, const char *path, int fd, struct error *e);
/* The connection, upgraded; what came behind the head waits in its buffer. */
int client_upgrade(const struct settings *s, const char *path, struct client_connection *ret, struct error *e);
