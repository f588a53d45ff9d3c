/*
 * What the command line says, and the files of this folder to each other: a program is a table of verbs and one of options
 * (options.h); each verb fills nothing but reads struct command_line, calls the engine and prints.
 */
#pragma once

#include "cli/options.h"
#include "engine/engine.h"
#include "engine/kinds/external.h"

#include <limits.h>

struct json_t;

struct progress_bar {
	bool shown;
};

struct command_line {
	struct request request;
	const struct program *program;
	const struct verb *verb;
	char **words; /* behind the verb, NULL-terminated */
	char **rest;  /* behind `--`, or NULL */
	char **argv;  /* the whole line */

	int verbosity;
	bool help, version;
	const char *log_file, *work_dir;
	int log_fd; /* the log file's, or -1; open until the program ends, or who began closes it */
	/* criu */
	bool display_stats, log_pid, exec_command, unprivileged, no_default_config, check_extra, check_experimental, check_all;
	const char *config, *ext_unix_sk, *network_lock, *lsm_profile, *cpu_cap;
	struct option_list scripts, features, external, inherit, veth_pairs, joins, cgroup_roots, mount_map, enable_fs, skip_mounts;
	struct external_list externals; /* of external, inherit, veth_pairs and mount_map */
	const char *empty_ns, *manage_cgroups;
	/* fermata */
	const char *dir, *name, *path, *compression, *result_file, *pages;
	int streams;
	bool json, markdown, only_refused, gate, no_server, quiet, profiling, events;
	const char *log_format, *log_level;
	struct progress_bar bar;
	struct profile profile;
	bool live; /* --no-live makes it false */
	const char *gpu, *lazy;
	bool lazy_pages;
	int status_fd;
	int gpu_timeout_s, gpu_deadline_s;
	struct option_list gpu_map;
	/* fermata with its daemon */
	const struct given_options *given; /* as on the command line */
	const char *config_json, *config_dir, *address, *protocol, *tls_cert, *tls_key, *tls_ca, *tls_name;
	const char *jid, *out, *every, *restart, *as, *checkpoint, *signal;
	int keep, restart_limit, for_user;
	bool strict; /* check */
	bool init_config, merge_config, attach, attachable, as_root, upcoming, all, full, tree, with_checkpoints;
};

/* Of the program that is stood in for, as runtimes ask for it. */
#define CRIU_VERSION_MAJOR 4
#define CRIU_VERSION_MINOR 2
#define CRIU_VERSION_TEXT "4.2"

#define CPU_CAP_HELP "What of the processor of the dump this one must have: none; fpu, registers alone; ins, cpu or all, instructions too, as when not given"

extern const struct program program_criu, program_fermata, program_cedana;

/* config.c: notes the options of a file, one a line: NAME, NAME VALUE or NAME=VALUE, without dashes; `#` begins a comment. A missing
 * file is an error unless `optional`. The text that `given` points into is added to `texts`. */
int config_read(const struct program *p, const char *path, bool optional, struct given_options *given, struct option_list *texts,
		struct error *e);

/* The files that are read by default, unless not `defaults`; the one of CRIU_CONFIG_FILE; `named`, or NULL. What comes later counts. */
int config_read_all(const struct program *p, bool defaults, const struct given *named, struct given_options *given, struct option_list *texts,
		    struct error *e);

/* prepare.c. Everything as it is when nothing was given. */
void cli_init(struct command_line *c, const struct program *p);
/* Its lists; not what the options point to. */
void cli_free(struct command_line *c);
/* `path`, which is meant from the work directory. */
const char *cli_in_work_dir(const struct command_line *c, const char *path, char buffer[PATH_MAX]);
/* A part of cli_prepare: log_file, log_format, log_level and verbosity. */
int cli_open_log(struct command_line *c, struct error *e);
/* Once all options are stored: makes of them what the engine takes, and opens the log. -ENOTSUP: the verb is not there yet. */
int cli_prepare(struct command_line *c, struct error *e);

/* criu_opts.c: adds what --criu-opts says, if it is there. */
int criu_opts_expand(const struct program *p, struct given_options *given, struct option_list *texts, struct error *e);

/* restrict.c: a hook that refuses a restore of what the user `for_user` could not have had. */
int restrict_call(void *data, const char *moment, pid_t pid, struct error *e);

/* restore_out.c: --out of a restore. */
int restore_redirect(struct command_line *c, struct error *e);

/* lazy_pages.c: a socket to who waits for the pages of a restore; 0: nobody does. */
int lazy_pages_connect(const struct command_line *c);
int run_lazy_pages(struct command_line *c);

/* script.c: a hook that runs the action scripts of the command line `data`. */
int script_call(void *data, const char *moment, pid_t pid, struct error *e);

/* run.c: what both programs do. Each gives an exit status. */
int cli_report(const struct command_line *c, const struct error *e); /* the one line about a failure; gives 1 */
int cli_require_root(struct error *e); /* what only root may do fails late and in many ways: said first */
int cli_dump(struct command_line *c);
int cli_restore(struct command_line *c, bool announce);
/* The same for who reports in another way: 0, or a negative errno with the text set. A hook that is set already is kept. */
int cli_dump_tree(struct command_line *c, struct error *e);
int cli_restore_tree(struct command_line *c, pid_t *ret_pid, struct error *e);
/* gpu.c: --gpu and those that go with it, into c->request. */
int cli_gpu_options(struct command_line *c, struct error *e);
int cli_parse_pid(const char *text, pid_t *ret, struct error *e);

/* progress.c. Around a call of the engine: a bar where it is wanted, or events, and the profile. */
void progress_begin(struct command_line *c);
void progress_end(struct command_line *c);
/* The same of what the daemon does. */
bool progress_wanted(const struct command_line *c);
void progress_show(struct command_line *c, const struct request_progress *p);
/* Nothing where it was not asked for; NULL. */
void profile_print(const struct command_line *c, bool dump);
/* What the daemon told: filled from `document`, which must outlive it. */
void profile_take(struct command_line *c, const struct json_t *document);
struct json_t *profile_json(const struct command_line *c, bool dump);

/* One file a verb. */
int verb_dump_process(struct command_line *c);
int verb_restore_process(struct command_line *c);
int verb_check(struct command_line *c);
int verb_check_process(struct command_line *c);
int verb_features(struct command_line *c);
int verb_inspect(struct command_line *c);
int verb_verify(struct command_line *c);
/* store.c: the file with the key of a store, by option or setting, or NULL. */
const char *cli_store_key(struct command_line *c);
/* Prints and consumes it; on one line where a daemon reads it. An exit status. */
int cli_print_document(const struct command_line *c, struct json_t *document);

int verb_store_ls(struct command_line *c);
int verb_store_verify(struct command_line *c);
int verb_store_prune(struct command_line *c);
int verb_store_stats(struct command_line *c);
int verb_store_rm(struct command_line *c);
int verb_diff(struct command_line *c);
int verb_query(struct command_line *c);
/* Goes on as fermata-daemon, with the same arguments, where this is not that program yet: then 0. Comes back only in an error, which was reported:
 * an exit status. */
int cli_become_full(struct command_line *c);
int verb_daemon_start(struct command_line *c);
int verb_daemon_check(struct command_line *c);
int verb_daemon_openapi(struct command_line *c);
int verb_config_show(struct command_line *c);
int verb_run(struct command_line *c);
int verb_attach_process(struct command_line *c);
int verb_job_attach(struct command_line *c);
int verb_manage(struct command_line *c);
int verb_freeze_process(struct command_line *c);
int verb_freeze_job(struct command_line *c);
int verb_unfreeze_process(struct command_line *c);
int verb_unfreeze_job(struct command_line *c);
int verb_dump_job(struct command_line *c);
int verb_restore_job(struct command_line *c);
int verb_job_list(struct command_line *c);
int verb_job_inspect(struct command_line *c);
int verb_job_kill(struct command_line *c);
int verb_job_delete(struct command_line *c);
int verb_job_set(struct command_line *c);
int verb_job_logs(struct command_line *c);
int verb_job_checkpoints(struct command_line *c);
int verb_checkpoints(struct command_line *c);
int verb_checkpoint_inspect(struct command_line *c);
int verb_checkpoint_delete(struct command_line *c);
/* chain.c */
int verb_delete_checkpoint(struct command_line *c);
int verb_flatten_checkpoint(struct command_line *c);

/* cpuinfo.c: criu's `cpuinfo`, and its two parts. */
int verb_cpuinfo(struct command_line *c);
int cpuinfo_dump(const char *dir, struct error *e);
int cpuinfo_check(const char *dir, struct error *e);

/* check.c: criu's `check`. */
int criu_check(struct command_line *c);
