/* Fermata's own commands and options. Each command has a file of its own; the small ones about the program itself are here. */
#include "cli/cli.h"

#include <limits.h>

enum {
	DUMP_PROCESS, DUMP_JOB, RESTORE_PROCESS, RESTORE_JOB, RUN_PROCESS, EXEC, MANAGE_PROCESS, FREEZE_PROCESS, FREEZE_JOB, UNFREEZE_PROCESS,
	UNFREEZE_JOB, ATTACH, JOB_LIST, JOB_LS, JOB_INSPECT, JOB_SET, JOB_LOGS, JOB_ATTACH, JOB_KILL, JOB_DELETE, JOB_CHECKPOINTS, CHECKPOINT_LIST,
	CHECKPOINT_INSPECT, CHECKPOINT_DELETE, LIST_CHECKPOINTS, INSPECT_CHECKPOINT, DELETE_CHECKPOINT, FLATTEN_CHECKPOINT, PS, JOBS, CHECKPOINTS, QUERY, DAEMON_START, DAEMON_CHECK, DAEMON_OPENAPI, CONFIG_SHOW, CHECK,
	CHECK_PROCESS, INSPECT, VERIFY, DIFF, STORE_LS, STORE_VERIFY, STORE_PRUNE,
	STORE_STATS, STORE_RM, FEATURES, COMPLETION, MANUAL, VERSION, HELP,
};

static int run_completion(struct command_line *c)
{
	bool there = help_completion(stdout, &program_fermata, c->words[0]);

	if (there) {
		help_completion(stdout, &program_criu, c->words[0]);
		help_completion(stdout, &program_cedana, c->words[0]);
		return 0;
	}
	fprintf(stderr, "Error: there is no completion for %s; there are bash, zsh and fish\n", c->words[0]);
	return 1;
}

/* fermata-dump-process.1 and so on. */
static int write_pages(const struct program *p, const char *dir)
{
	for (size_t i = 0; i < p->n_verbs; i++) {
		char path[PATH_MAX];
		int start = snprintf(path, sizeof(path), "%s/%s-", dir, p->name);
		snprintf(path + start, sizeof(path) - (size_t)start, "%s.1", p->verbs[i].name);
		for (char *at = path + start; *at; at++)
			*at = *at == ' ' ? '-' : *at;
		FILE *f = fopen(path, "we");
		if (f)
			help_manual_verb(f, p, &p->verbs[i]);
		if (!f || fclose(f)) {
			fprintf(stderr, "Error: cannot write %s: %s\n", path, strerror(errno));
			return 1;
		}
	}
	return 0;
}

static int run_manual(struct command_line *c)
{
	const struct program *const all[] = { &program_fermata, &program_criu, &program_cedana };
	struct words words = { .data = c->words };

	if (c->pages)
		return write_pages(c->program, c->pages);
	while (c->words[words.count])
		words.count++;
	const struct verb *verb = words.count ? verb_find(c->program, &words) : NULL;
	if (verb) {
		help_manual_verb(stdout, c->program, verb);
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (words.count == 1 && !strcmp(c->words[0], all[i]->name)) {
			help_manual(stdout, all[i]);
			return 0;
		}
	fprintf(stderr, "Error: there is no manual page %s; there are fermata, criu, cedana and one of each command\n", words.count ? c->words[0] : "without a name");
	return 1;
}

static int run_version(struct command_line *c)
{
	if (c->json)
		puts("{\"version\": \"" FERMATA_VERSION "\"}");
	else
		puts("fermata " FERMATA_VERSION);
	return 0;
}

static int run_help(struct command_line *c)
{
	struct words words = { .data = c->words };

	while (c->words[words.count])
		words.count++;
	const struct verb *verb = verb_find(c->program, &words);
	if (!verb && words.count) {
		if (help_group(stdout, c->program, &words))
			return 0;
		fprintf(stderr, "Error: fermata has no command %s; see fermata help\n", words.data[0]);
		return c->program->usage_status;
	}
	help_print(stdout, c->program, verb);
	return 0;
}

/* Containers come later. Without this their options would be what is complained of. */
static const char *find_absent(const struct words *words)
{
	static const char *const verbs_of_things[] = { "dump", "restore", "run", "manage", "freeze", "unfreeze", "query" };
	static const char *const containers[] = { "runc", "containerd", "k8s" };

	if (words->count && !strcmp(words->data[0], "plugin"))
		return "there are no plugins, all that there is is in this program; fermata features lists it";
	for (size_t i = 0; words->count > 1 && i < ARRAY_SIZE(verbs_of_things); i++)
		for (size_t k = 0; !strcmp(words->data[0], verbs_of_things[i]) && k < ARRAY_SIZE(containers); k++)
			if (!strcmp(words->data[1], containers[k]))
				return "it takes containers, which come later; processes outside of them are saved by dump process and dump job";
	return NULL;
}

static const struct verb verbs[] = {
	[DUMP_PROCESS] = VERB("dump process", "PID", 1, 1, "Save a process and all that descend from it, and end them", verb_dump_process),
	[DUMP_JOB] = VERB("dump job", "JOB", 1, 1, "Save a job, and end it", verb_dump_job),
	[RESTORE_PROCESS] = VERB("restore process", "", 0, 0, "Start again what a checkpoint holds", verb_restore_process),
	[RESTORE_JOB] = VERB("restore job", "JOB", 1, 1, "Start a job again from its last checkpoint", verb_restore_job),
	[RUN_PROCESS] = VERB("run process", "-- PROGRAM [ARGUMENT...]", 0, SIZE_MAX, "Start a program as a job of the daemon", verb_run),
	[EXEC] = VERB("exec", "-- PROGRAM [ARGUMENT...]", 0, SIZE_MAX, "The same as run process", verb_run),
	[MANAGE_PROCESS] = VERB("manage process", "PID", 1, 1, "Make a job of a process that runs already", verb_manage),
	[FREEZE_PROCESS] = VERB("freeze process", "PID", 1, 1, "Stop a process and all that descend from it", verb_freeze_process),
	[FREEZE_JOB] = VERB("freeze job", "JOB", 1, 1, "Stop a job", verb_freeze_job),
	[UNFREEZE_PROCESS] = VERB("unfreeze process", "PID", 1, 1, "Let a process and all that descend from it go on", verb_unfreeze_process),
	[UNFREEZE_JOB] = VERB("unfreeze job", "JOB", 1, 1, "Let a job go on", verb_unfreeze_job),
	[ATTACH] = VERB("attach", "PID", 1, 1, "Join the terminal of the job that a process is; Ctrl-C leaves it", verb_attach_process),
	[JOB_LIST] = VERB("job list", "", 0, 0, "List jobs", verb_job_list),
	[JOB_LS] = VERB("job ls", "", 0, 0, "The same as job list", verb_job_list),
	[JOB_INSPECT] = VERB("job inspect", "JOB", 1, 1, "Show all that is known of a job", verb_job_inspect),
	[JOB_SET] = VERB("job set", "JOB", 1, 1, "Change a job's periodic checkpoints and restarts", verb_job_set),
	[JOB_LOGS] = VERB("job logs", "JOB", 1, 1, "Print what a job has written", verb_job_logs),
	[JOB_ATTACH] = VERB("job attach", "JOB", 1, 1, "Join a job's terminal; Ctrl-C leaves it", verb_job_attach),
	[JOB_KILL] = VERB("job kill", "[JOB]", 0, 1, "Send SIGKILL, or another signal, to all processes of a job", verb_job_kill),
	[JOB_DELETE] = VERB("job delete", "[JOB]", 0, 1, "Forget a job that has ended", verb_job_delete),
	[JOB_CHECKPOINTS] = VERB("job checkpoints", "[JOB]", 0, 1, "List a job's checkpoints, or those of all", verb_job_checkpoints),
	[CHECKPOINT_LIST] = VERB("job checkpoint list", "[JOB]", 0, 1, "The same as job checkpoints", verb_job_checkpoints),
	[CHECKPOINT_INSPECT] = VERB("job checkpoint inspect", "ID", 1, 1, "Show what a checkpoint holds", verb_checkpoint_inspect),
	[CHECKPOINT_DELETE] = VERB("job checkpoint delete", "ID", 1, 1, "Remove a checkpoint", verb_checkpoint_delete),
	[LIST_CHECKPOINTS] = VERB("checkpoint list", "[JOB]", 0, 1, "The same as job checkpoints", verb_job_checkpoints),
	[INSPECT_CHECKPOINT] = VERB("checkpoint inspect", "ID", 1, 1, "The same as job checkpoint inspect", verb_checkpoint_inspect),
	[DELETE_CHECKPOINT] = VERB("checkpoint delete", "ID|DIRECTORY", 1, 1, "Remove a checkpoint that no other has pages from", verb_delete_checkpoint),
	[FLATTEN_CHECKPOINT] = VERB("checkpoint flatten", "ID|DIRECTORY", 1, 1, "Give a checkpoint all the pages that it has in parents, so that it needs none",
				    verb_flatten_checkpoint),
	[PS] = VERB("ps", "", 0, 0, "The same as job list", verb_job_list),
	[JOBS] = VERB("jobs", "", 0, 0, "The same as job list", verb_job_list),
	[CHECKPOINTS] = VERB("checkpoints", "", 0, 0, "List all checkpoints that the daemon knows", verb_checkpoints),
	[QUERY] = VERB("query process", "PID...", 1, SIZE_MAX, "Show processes", verb_query),
	[DAEMON_START] = VERB("daemon start", "", 0, 0, "Be the daemon, in the foreground", verb_daemon_start),
	[DAEMON_CHECK] = VERB("daemon check", "", 0, 0, "Say how the daemon is", verb_daemon_check),
	[DAEMON_OPENAPI] = VERB("daemon openapi", "", 0, 0, "Print the description of the daemon's API", verb_daemon_openapi),
	[CONFIG_SHOW] = VERB("config show", "", 0, 0, "Show each setting, and where it comes from", verb_config_show),
	[CHECK] = VERB("check", "", 0, 0, "Say what this machine has of what dump and restore need", verb_check),
	[CHECK_PROCESS] = VERB("check process", "PID", 1, 1, "Say whether a process and its descendants can be saved, and what is in the way", verb_check_process),
	[INSPECT] = VERB("inspect", "CHECKPOINT", 1, 1, "Show what a checkpoint holds; with -v each area of memory, thread and file", verb_inspect),
	[VERIFY] = VERB("verify", "CHECKPOINT", 1, 1, "Compare a checkpoint with its checksums", verb_verify),
	[DIFF] = VERB("diff", "A B", 2, 2, "Say in which files two checkpoints differ", verb_diff),
	[STORE_LS] = VERB("store ls", "STORE", 1, 1, "List the checkpoints of a store", verb_store_ls),
	[STORE_VERIFY] = VERB("store verify", "STORE", 1, 1, "Compare every chunk of a store with its hash, and say what is damaged and who needs it", verb_store_verify),
	[STORE_PRUNE] = VERB("store prune", "STORE", 1, 1, "Remove the chunks that no checkpoint of a store needs", verb_store_prune),
	[STORE_STATS] = VERB("store stats", "STORE", 1, 1, "Say how much is in a store, and how much of it is kept once for several", verb_store_stats),
	[STORE_RM] = VERB("store rm", "CHECKPOINT...", 1, SIZE_MAX, "Remove checkpoints (store:DIR/NAME); their chunks go with the next prune", verb_store_rm),
	[FEATURES] = VERB("features", "", 0, 0, "List what can be saved, and what is refused", verb_features),
	[COMPLETION] = VERB("completion", "bash|zsh|fish", 1, 1, "Print the completion for a shell", run_completion),
	[MANUAL] = VERB("manual", "fermata|criu|cedana|COMMAND", 0, 3, "Print a manual page (troff)", run_manual),
	[VERSION] = VERB("version", "", 0, 0, "Print the version", run_version),
	[HELP] = VERB("help", "[COMMAND]", 0, 3, "Explain a command", run_help),
};

#define ON(verb) (1ULL << (verb))
#define DUMPS (ON(DUMP_PROCESS) | ON(DUMP_JOB))
#define RESTORES (ON(RESTORE_PROCESS) | ON(RESTORE_JOB))
#define RUNS (ON(RUN_PROCESS) | ON(EXEC))
#define LISTS (ON(JOB_LIST) | ON(JOB_LS) | ON(PS) | ON(JOBS) | ON(JOB_CHECKPOINTS) | ON(CHECKPOINT_LIST) | ON(LIST_CHECKPOINTS) | ON(CHECKPOINTS))
#define STOPS (ON(FREEZE_PROCESS) | ON(FREEZE_JOB) | ON(UNFREEZE_PROCESS) | ON(UNFREEZE_JOB))
#define ON_JOBS (LISTS | STOPS | ON(JOB_INSPECT) | ON(JOB_SET) | ON(JOB_LOGS) | ON(JOB_ATTACH) | ON(JOB_KILL) | ON(JOB_DELETE) | \
		 ON(CHECKPOINT_INSPECT) | ON(INSPECT_CHECKPOINT) | ON(CHECKPOINT_DELETE) | ON(DELETE_CHECKPOINT) | ON(FLATTEN_CHECKPOINT) | ON(ATTACH) | ON(MANAGE_PROCESS))
#define DAEMONS (ON(DAEMON_START) | ON(DAEMON_CHECK))
#define STORES (ON(STORE_LS) | ON(STORE_VERIFY) | ON(STORE_PRUNE) | ON(STORE_STATS) | ON(STORE_RM))
#define CONFIGURED (DUMPS | RESTORES | RUNS | ON_JOBS | DAEMONS | STORES | ON(CONFIG_SHOW))
#define TIMED (RUNS | ON(MANAGE_PROCESS) | ON(JOB_SET))
#define SAVES (DUMPS | ON(CHECK_PROCESS))
#define BOTH (DUMPS | RESTORES)
#define HELPED (STORES | ON(FLATTEN_CHECKPOINT))

static const struct option_row rows[] = {
	OPTION("help", 'h', FLAG, NULL, ALL_VERBS, help, "Print this"),
	OPTION("version", 'V', FLAG, NULL, ALL_VERBS, version, "Print the version"),
	OPTION("verbosity", 'v', LEVEL, "N", ALL_VERBS, verbosity, "Log more: 0 nothing, 1 errors, 2 warnings, 3 steps, 4 all"),
	OPTION("log-file", 'o', STRING, "FILE", ALL_VERBS, log_file, "Log to this file"),
	OPTION("config", 0, STRING, "JSON", CONFIGURED, config_json, "Settings, above those of config.json"),
	OPTION("config-dir", 0, STRING, "DIR", CONFIGURED, config_dir, "Where config.json is; /etc/fermata when not given"),
	OPTION("address", 0, STRING, "ADDRESS", CONFIGURED, address, "The daemon's socket; with --protocol tcp HOST:PORT"),
	OPTION_SUCH_AS("protocol", 0, "KIND", CONFIGURED, protocol, "unix, or tcp with mutual TLS", "unix tcp"),
	OPTION("tls-cert", 0, STRING, "FILE", CONFIGURED, tls_cert, "With tcp: our certificate, PEM"),
	OPTION("tls-key", 0, STRING, "FILE", CONFIGURED, tls_key, "With tcp: its private key, PEM"),
	OPTION("tls-ca", 0, STRING, "FILE", CONFIGURED, tls_ca, "With tcp: who must have signed the other side's certificate, PEM"),
	OPTION("tls-name", 0, STRING, "NAME", CONFIGURED, tls_name, "With tcp: the name in the daemon's certificate, where that is not the address's"),
	OPTION("init-config", 0, FLAG, NULL, ON(DAEMON_START), init_config, "Write config.json first, with all settings"),
	OPTION("merge-config", 0, FLAG, NULL, ON(DAEMON_START), merge_config, "Add to config.json what it lacks first"),
	OPTION("full", 0, FLAG, NULL, ON(DAEMON_CHECK) | ON(CHECK), full, "The daemon: folders too; check does all in any case"),
	OPTION("dir", 'd', STRING, "DIR", DUMPS | ON(CHECK), dir,
	       "The folder that checkpoints go to, or a store: store:DIR; /tmp when neither given nor configured"),
	OPTION("name", 0, STRING, "NAME", DUMPS, name, "The name of the checkpoint; a new one when not given"),
	OPTION("result-file", 0, STRING, "FILE", DUMPS, result_file, "Write the path of the checkpoint to this file too"),
	OPTION("path", 'p', STRING, "CHECKPOINT", RESTORES, path, "The checkpoint: a directory, an archive of any kind, or store:DIR/NAME"),
	OPTION("checkpoint", 0, STRING, "ID", RESTORES, checkpoint, "A checkpoint by its id; fermata checkpoints shows them"),
	OPTION("as", 0, STRING, "JOB", RESTORES, as, "Beside the first, as a job of this name, in a pid namespace of its own"),
	OPTION("jid", 'j', STRING, "JOB", RUNS | ON(MANAGE_PROCESS), jid, "The job's name; one is found when not given"),
	OPTION("out", 'o', STRING, "FILE", RUNS | RESTORES, out, "Where the output goes; /var/log/fermata-output-JOB.log when not given, of a restore where it went"),
	OPTION("attachable", 0, BOOL, NULL, RUNS | RESTORES, attachable, "Give it a terminal that can be joined later (attach)"),
	OPTION_IDLE("gpu-enabled", 'g', FLAG, NULL, RUNS, "Taken, as cedana has it; a GPU needs nothing of it here"),
	OPTION("as-root", 0, FLAG, NULL, RUNS, as_root, "Run it as root and not as the caller"),
	OPTION("checkpoint-every", 0, STRING, "TIME", TIMED, every, "Make a checkpoint each so often (90, 10m, 2h); 0: never"),
	OPTION("keep", 0, INT, "N", TIMED, keep, "How many periodic checkpoints are kept; 5 when not given, 0: all"),
	OPTION_SUCH_AS("restart", 0, "WHEN", TIMED, restart, "on-failure: restore it from its last checkpoint when it fails; or no", "no on-failure"),
	OPTION("restart-limit", 0, INT, "N", TIMED, restart_limit, "How often; 3 when not given"),
	OPTION("upcoming", 0, FLAG, NULL, ON(MANAGE_PROCESS), upcoming, "Wait for it: it need not run yet"),
	OPTION_SUCH_AS("signal", 's', "SIGNAL", ON(JOB_KILL), signal, "Which signal; KILL when not given", "TERM KILL INT HUP QUIT USR1 USR2 STOP CONT"),
	OPTION("all", 'a', FLAG, NULL, ON(JOB_KILL) | ON(JOB_DELETE), all, "Every job"),
	OPTION("checkpoints", 0, FLAG, NULL, ON(JOB_DELETE), with_checkpoints, "Its checkpoints too"),
	OPTION("tree", 't', FLAG, NULL, ON(QUERY), tree, "Those that descend from it too"),
	OPTION("inspect", 'i', FLAG, NULL, ON(QUERY), all, "Count threads, descriptors and areas of memory"),
	OPTION("leave-running", 'R', BOOL, NULL, DUMPS, request.leave_running, "Let it run on after the dump"),
	OPTION("live", 0, BOOL, NULL, DUMPS, live,
	       "With --leave-running: save memory while it runs, and stop it for a moment only; the default"),
	OPTION("portable", 0, BOOL, NULL, SAVES, request.portable, "Write what CRIU can restore too, to a directory: pages that processes share since fork are stored for each"),
	OPTION("parent", 0, STRING, "CHECKPOINT", DUMPS, request.parent,
	       "Save only what was written since this one, the last that was made with --track-mem or --parent; with --leave-running the next can follow"),
	OPTION("track-mem", 0, BOOL, NULL, DUMPS, request.track, "Watch its memory from now on, so that this one can be the next one's --parent"),
	OPTION("leave-stopped", 's', BOOL, NULL, BOTH, request.leave_stopped, "Leave it stopped"),
	OPTION("timeout", 0, INT, "SECONDS", SAVES, request.timeout_s, "Give up when the tree is not stopped after this time; 10 when not given"),
	OPTION("shell-job", 'j', BOOL, NULL, BOTH | SAVES, request.shell_job, "It belongs to the caller's session and terminal"),
	OPTION("file-locks", 'l', BOOL, NULL, BOTH | SAVES, request.file_locks, "Save and restore file locks"),
	OPTION("unprivileged", 0, BOOL, NULL, ON(DUMP_PROCESS) | ON(RESTORE_PROCESS), unprivileged,
	       "Without root, with CAP_CHECKPOINT_RESTORE and CAP_SYS_PTRACE: one's own processes"),
	OPTION("host-ipc", 0, BOOL, NULL, SAVES, request.host_ipc, "Save message queues and System V semaphores of the host that the processes use"),
	OPTION("link-remap", 0, BOOL, NULL, BOTH | SAVES, request.link_remap,
	       "Give deleted files that have other names a name for the time between"),
	OPTION("tcp-established", 0, BOOL, NULL, BOTH | SAVES, request.tcp_established, "Save and restore TCP connections; for both"),
	OPTION("tcp-close", 0, BOOL, NULL, BOTH | SAVES, request.tcp_close, "TCP connections are closed ones in the restored tree; for either"),
	OPTION_SUCH_AS("network-lock", 0, "METHOD", BOTH | SAVES, network_lock,
	       "How packets of saved TCP connections are held back: nftables, or skip", "nftables skip"),
	OPTION("ghost-limit", 0, SIZE, "SIZE", SAVES, request.ghost_limit,
	       "Refuse deleted files with more content than this, holes not counted; any size is saved when not given"),
	OPTION_ONE_OF("file-validation", 0, "METHOD", BOTH, request.file_validation,
		      "How files are compared at restore: filesize, or buildid (as when not given), which compares the build ids of programs and libraries too",
		      "filesize buildid"),
	OPTION("skip-file-rwx-check", 0, BOOL, NULL, RESTORES, request.skip_file_rwx_check,
	       "Take files whose permissions (rwx) have changed since the dump"),
	OPTION("skip-in-flight", 0, BOOL, NULL, SAVES, request.skip_in_flight, "Drop connections that a listener has not accepted yet, and packets that raw and packet sockets have not read"),
	OPTION("external", 0, LIST, "TYPE[ID]", BOTH | SAVES, external,
	       "Lies outside the tree: file[MNT_ID:INODE], tty[RDEV:DEV], unix[INODE], pipe[INODE], net[INODE]:NAME, mnt[DIR]:KEY, dev[MAJOR/MINOR]:KEY; for the restore veth[IN]:OUT@BRIDGE, macvlan[IN]:OUT, mnt[KEY]:PATH, dev[KEY]:PATH"),
	OPTION("inherit-fd", 0, LIST, "fd[N]:RESOURCE", ON(RESTORE_PROCESS), inherit,
	       "A descriptor of the caller's for what was outside: file[], tty[], pipe[], socket[] as at the dump, a NAME, or a file by its path"),
	OPTION("enable-fs", 0, LIST, "TYPES", BOTH | SAVES, enable_fs, "Types of file system in the tree's mount namespace that need no more than to be mounted again; all: any"),
	OPTION("skip-mnt", 0, LIST, "DIR", SAVES, skip_mounts, "Leave out what is mounted there in the tree's mount namespace, and below"),
	OPTION("root", 0, STRING, "DIR", ON(RESTORE_PROCESS), request.root, "What the root of the tree's mount namespace is made of"),
	OPTION_ONE_OF("empty-ns", 0, "NS", BOTH, empty_ns, "A namespace whose content is left out: net", "net"),
	OPTION("join-ns", 0, LIST, "NS:FILE", ON(RESTORE_PROCESS), joins, "A namespace that takes the place of the tree's: net:/run/netns/NAME"),
	OPTION("manage-cgroups", 0, OPTIONAL, "MODE", BOTH, manage_cgroups,
	       "Save and restore control groups: soft (as when not given: those that are not there are made and set), full (set also those that are), strict (none may be there), props, none, ignore"),
	OPTION("cgroup-root", 0, LIST, "[CONTROLLER:]DIR", ON(RESTORE_PROCESS), cgroup_roots, "Where the control group of the tree's root is to be"),
	OPTION("weak-sysctls", 0, BOOL, NULL, ON(RESTORE_PROCESS), request.weak_sysctls, "Go on where a setting of a network namespace can't be set"),
	OPTION_SUCH_AS("compression", 0, "KIND[:LEVEL]", DUMPS, compression,
	       "none: a directory; or one file: tar, gzip, lz4, zlib, zstd, where a level may follow", "none tar gzip lz4 zlib zstd"),
	OPTION("store-key", 0, STRING, "FILE", BOTH | STORES | ON(INSPECT) | ON(VERIFY) | ON(DIFF), request.packing.key,
	       "The file with the store's key, 32 random bytes or more: a store that is made with one is encrypted"),
	OPTION("streams", 0, INT, "N", DUMPS, streams, "Spread the archive over this many files, in a directory; 0: one"),
	OPTION_SUCH_AS("gpu", 0, "USE", BOTH | SAVES, gpu, "Look for CUDA processes: auto (where there is NVIDIA's driver), on, off", "auto on off"),
	OPTION("gpu-timeout", 0, INT, "SECONDS", SAVES, gpu_timeout_s, "How long work under way on a GPU may take to end; 10 when not given"),
	OPTION("gpu-deadline", 0, INT, "SECONDS", BOTH | SAVES, gpu_deadline_s, "How long a call of the GPU's driver may take; 600 when not given"),
	OPTION("gpu-staged", 0, BOOL, NULL, SAVES, request.gpu_staged, "Let the driver bring what is on GPUs into memory, also where it can be copied past it (615)"),
	OPTION("gpu-force", 0, BOOL, NULL, SAVES, request.gpu_force, "Save processes that may share GPU memory (NCCL), which may fail to be restored"),
	OPTION("gpu-map", 0, LIST, "OLD=NEW", RESTORES, gpu_map, "The GPU (its UUID) that takes the place of one of the checkpoint"),
	OPTION("attach", 'a', BOOL, NULL, RESTORES | RUNS, attach, "Join its terminal at once, and exit as it does; Ctrl-C leaves it"),
	OPTION_IDLE("criu-opts", 0, STRING, "JSON", BOTH, "More options, as an object with criu's names: {\"leave_running\": true}"),
	OPTION("detach", 0, BOOL, NULL, ON(RESTORE_PROCESS), request.detach, "Exit once it runs, not when it ends"),
	OPTION("lazy", 0, OPTIONAL, "all|touched", RESTORES, lazy,
	       "Let it run at once; its memory comes when it is touched, the rest behind that. `all`: of processes that have little, too; `touched`: "
	       "the rest does not come, and the checkpoint must stay"),
	OPTION("cpu-cap", 0, OPTIONAL, "CAPS", RESTORES, cpu_cap, CPU_CAP_HELP),
	OPTION("skip-verify", 0, BOOL, NULL, RESTORES | ON(INSPECT) | ON(CHECKPOINT_INSPECT), request.skip_verify,
	       "Do not compare the images with their checksums first"),
	OPTION("pid-file", 0, STRING, "FILE", RESTORES | RUNS | ON(MANAGE_PROCESS), request.pidfile,
	       "Write the pid of the restored or started process to this file"),
	OPTION("no-server", 0, FLAG, NULL, ON(DUMP_PROCESS) | ON(RESTORE_PROCESS) | RUNS | ON(FREEZE_PROCESS) | ON(UNFREEZE_PROCESS) | HELPED | ON(DELETE_CHECKPOINT), no_server,
	       "Do it here, and not in the daemon"),
	OPTION("for-user", 0, INT, "UID", ON(RESTORE_PROCESS), for_user, "Refuse what this user could not have had; the daemon asks for it when it restores for one"),
	OPTION("json", 0, BOOL, NULL, BOTH | RUNS | (ON_JOBS & ~(ON(JOB_LOGS) | ON(JOB_ATTACH) | ON(ATTACH))) | ON(QUERY) | ON(DAEMON_CHECK) | ON(CONFIG_SHOW) | ON(VERIFY) | ON(DIFF) | STORES | ON(VERSION) | ON(INSPECT) | ON(FEATURES) | ON(CHECK) | ON(CHECK_PROCESS), json, "Print JSON"),
	OPTION("profiling", 0, BOOL, NULL, BOTH, profiling, "Print where the time went"),
	OPTION("events", 0, FLAG, NULL, ON(DUMP_PROCESS) | ON(RESTORE_PROCESS) | HELPED | ON(VERIFY), events,
	       "Tell progress and profile as they come, a line of JSON each; the daemon's helpers do"),
	OPTION("gate", 0, FLAG, NULL, ON(DUMP_PROCESS), gate, "Begin once a byte comes on standard input, end where none does; the daemon's helpers do"),
	OPTION("quiet", 'q', FLAG, NULL, BOTH | HELPED | ON(VERIFY), quiet, "Show no progress on a terminal"),
	OPTION_SUCH_AS("log-format", 0, "FORMAT", ALL_VERBS, log_format, "Lines of the log: text or json", "text json"),
	OPTION_SUCH_AS("log-level", 0, "LEVEL", ALL_VERBS, log_level, "Log disabled, error, warning, info or debug; as -v0 to -v4", "disabled error warning info debug"),
	OPTION("errors", 0, FLAG, NULL, ON(FEATURES), only_refused, "Only what is refused"),
	OPTION("pages", 0, STRING, "DIR", ON(MANUAL), pages, "Write the page of each command to this directory"),
	OPTION("markdown", 0, BOOL, NULL, ON(FEATURES), markdown, "Print the tables of the README"),
	OPTION("strict", 0, BOOL, NULL, ON(CHECK), strict, "Exit with 1 where something is missing that only some need"),
	OPTION("feature", 0, LIST, "NAME", ON(CHECK), features, "Only this feature of the kernel; `list` prints the names"),
};

static const char description[] =
	"Saves a running tree of processes to a directory and starts it again later, with its pids, memory, files and signals as they were.\n"
	"Called as \\fBcriu\\fR it takes that program's options instead; see\n.BR criu (1).\n"
	"Jobs are programs that its daemon looks after: they have names, logs, a terminal to join, and checkpoints. What the daemon is told is also\n"
	"found in its API (docs/openapi.json).\n"
	".SS Exit status\n"
	"0; 1 after an error, which is one line on standard error; 2 when the command line is wrong. A restore that is not detached exits as\n"
	"the restored process does, 128 and the number of the signal when one ended it. \\fBcheck\\fR exits with 2 where something is missing that all\n"
	"processes need, and with \\fB--strict\\fR with 1 where only some need it.\n";

#define EXAMPLES(n) \
	"  " n " dump process 4127 --dir /var/ckpt          save a process and all below it, and end them\n" \
	"  " n " restore process --path /var/ckpt/NAME      start them again, with their pids\n" \
	"  " n " daemon start                               look after jobs, in the foreground\n" \
	"  " n " run process --jid train -- python3 t.py    start one\n" \
	"  " n " dump job train --leave-running             a checkpoint of it while it runs\n" \
	"  " n " restore job train                          start it again from its last one\n" \
	"  " n " check                                      what this machine can do\n"
#define PROGRAM(n, s) { .name = n, .summary = s, .verbs = verbs, .n_verbs = ARRAY_SIZE(verbs), .rows = rows, .n_rows = ARRAY_SIZE(rows), \
			.strict = true, .usage_status = 2, .description = description, .examples = EXAMPLES(n), .absent = find_absent }

const struct program program_fermata = PROGRAM("fermata", "save and restore processes");
/* The same by another name, which its settings have too: CEDANA_ADDRESS, /etc/cedana. */
const struct program program_cedana = PROGRAM("cedana", "save and restore processes, by the verbs of cedana");
