/* What the verbs that speak with the daemon share: configuration, requests, events, tables. */
#pragma once

#include "cli/cli.h"
#include "daemon/client.h"

int remote_settings(const struct command_line *c, struct settings *s, struct error *e);
/* The setting profiling.enabled, unless the command line says otherwise. */
void remote_profiling(struct command_line *c, const struct settings *s);
/* The same of criu.leave_running: true where a dump is to leave it running though nobody said so on the command line. */
bool remote_leaves_running(const struct command_line *c, const struct settings *s);
/* Says which keys of --config there are none of. */
void remote_tell_unknown(const struct command_line *c);
/* A daemon on TCP needs the program that has TLS: cli_become_full where that is so. 0, or an exit status. */
int remote_need_full(struct command_line *c);
/* True: a daemon is to do it. False: --no-server, or there is none and none was named. */
bool remote_wanted(const struct command_line *c, const struct settings *s);

/* The same of what is done to directories and stores that are named by their paths: one in somebody's home is no business of root's daemon, so a user goes
 * there only where they have named it. */
bool remote_wanted_for_path(const struct command_line *c, const struct settings *s);

/* The whole of a verb with one request: the answer, or the error is reported and NULL. */
json_t *remote_call(struct command_line *c, const char *method, const char *path, json_t *body);
/* `what` behind a prefix, such as "/v1/jobs/NAME/dump". False: it is no name that could stand in a path, which was reported. */
bool remote_path(const struct command_line *c, char *to, size_t size, const char *format, const char *word);

/* The options of dump or restore that were given, for the daemon's helper to take. */
json_t *remote_options(const struct command_line *c);
/* A path as the daemon has to know it. A new reference. */
json_t *remote_absolute(const char *path);
int remote_print(json_t *document); /* consumes it; an exit status */
int remote_duration(const char *text, long *ret_s, struct error *e); /* "90", "10m", "2h" */

/* requested.c: what the daemon is told of the options, see daemon/vocabulary.h. */
int requested_check(const char *verb, const json_t *options, struct error *e);
json_t *requested_describe(const char *verb);
/* It is this side's, or has a place of its own in a request. */
bool option_is_own(const char *name);

/* dump.c: --compression and --streams into the request. */
int dump_read_packing(struct command_line *c, struct error *e);
/* --result-file. The first, before the dump, says whether it can be written; the second writes. Both give an exit status. */
int dump_check_result(const struct command_line *c);
int dump_write_result(const struct command_line *c, const char *path);
/* Dumps by the daemon: follows the events and prints what `fermata dump` prints. */
int remote_dump(struct command_line *c, const char *path);
int remote_restore(struct command_line *c, const char *path, json_t *body);
/* Work that the daemon has done by a helper, with its progress: the result, a new reference, or the error is reported and NULL. Consumes the body. */
json_t *remote_work(struct command_line *c, const char *path, json_t *body);
/* The same of what is only looked at (GET, with events=true): with --json the result, or what is for people is printed as it comes and the result is null. */
json_t *remote_look(struct command_line *c, const char *path);

/* attach.c: attaches to a job's terminal; gives its exit status, or 0 when it was left by Ctrl-C. */
int attach_to(struct command_line *c, const char *path, const char *job);
/* What the daemon should know of our terminal. */
void terminal_into(const struct command_line *c, json_t *body);

/* table.c: columns two blanks apart, without borders. */
struct table;
struct table *table_new(const char *const *heads, size_t columns);
void table_put(struct table *t, const char *format, ...) _printf_(2, 3); /* the next cell */
void table_print(struct table *t); /* and frees it */
void text_size(char to[32], uint64_t bytes);
void text_ago(char to[32], int64_t time_ns);
