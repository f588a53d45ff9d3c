/* What the two files of the supervisor share. See supervisor.c. */
#pragma once

#include "daemon/frames.h"
#include "daemon/identity.h"

#include <jansson.h>

struct client {
	int fd;
	struct frame_buffer in, out;
};

struct supervisor {
	json_t *spec;
	const char *jid;
	int dir;	 /* the job's folder */
	int master, slave; /* its terminal, or -1 */
	int log;
	int tell;	 /* how far a restore is: lines to the daemon, before the answer; or -1 */
	int listener;
	int signals;	 /* signalfd: SIGCHLD */
	pid_t child;	 /* whom to wait for: the job's root, or the first process of its namespace */
	struct identity root, self;
	bool raw;	 /* who started it has no terminal: bytes go through as they are */
	bool wait_for_first; /* someone is about to attach: nothing may be lost until then */
	bool unwanted;
	bool ended;
	bool told; /* that it has, and how, stands in its folder */
	bool rest; /* something of it is left in the background, for which we stay */
	int code;
	unsigned char last_input;
	VEC(struct client) clients;
	struct frame_buffer kept; /* what was written before the first one came */
};

/* supervisor_io.c: terminal, log, socket, who is attached. */
int supervisor_open_terminal(struct supervisor *s, struct error *e);
int supervisor_listen(struct supervisor *s, struct error *e);
/* Until the job has ended and all have been told. */
void supervisor_serve(struct supervisor *s);

/* supervisor.c: collects children; true once the job has ended, with s->code. */
bool supervisor_reap(struct supervisor *s);
bool supervisor_write_state(struct supervisor *s, const char *phase); /* false: the disk is full */
