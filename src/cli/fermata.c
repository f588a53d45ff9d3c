/* Fermata's own commands and options. Each command has a file of its own; the small ones about the program itself are here. */
#include "cli/cli.h"

enum {
	DUMP_PROCESS, RESTORE_PROCESS, CHECK, CHECK_PROCESS, INSPECT, FEATURES, COMPLETION, MANUAL, VERSION, HELP,
};

static int run_completion(struct command_line *c)
{
	if (strcmp(c->words[0], "bash")) {
		fprintf(stderr, "Error: there is no completion for %s yet; use bash\n", c->words[0]);
		return 1;
	}
	help_completion_bash(stdout, &program_fermata);
	help_completion_bash(stdout, &program_criu);
	return 0;
}

static int run_manual(struct command_line *c)
{
	const struct program *const all[] = { &program_fermata, &program_criu };

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (!strcmp(c->words[0], all[i]->name)) {
			help_manual(stdout, all[i]);
			return 0;
		}
	fprintf(stderr, "Error: there is no manual page %s; there are fermata and criu\n", c->words[0]);
	return 1;
}

static int run_version(struct command_line *c)
{
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
		/* `help dump` and the like: the commands that begin so. */
		fprintf(stderr, "Error: fermata has no command %s; see fermata help\n", words.data[0]);
		return c->program->usage_status;
	}
	help_print(stdout, c->program, verb);
	return 0;
}

static const struct verb verbs[] = {
	[DUMP_PROCESS] = VERB("dump process", "PID", 1, 1, "Save a process and all that descend from it, and end them", verb_dump_process),
	[RESTORE_PROCESS] = VERB("restore process", "", 0, 0, "Start again what a checkpoint holds", verb_restore_process),
	[CHECK] = VERB("check", "", 0, 0, "Say what this machine has of what dump and restore need", verb_check),
	[CHECK_PROCESS] = VERB("check process", "PID", 1, 1, "Say whether a process and its descendants can be saved, and what is in the way", verb_check_process),
	[INSPECT] = VERB("inspect", "DIR", 1, 1, "Show what a checkpoint holds; with -v each area of memory, thread and file", verb_inspect),
	[FEATURES] = VERB("features", "", 0, 0, "List what can be saved, and what is refused", verb_features),
	[COMPLETION] = VERB("completion", "bash", 1, 1, "Print the completion for a shell", run_completion),
	[MANUAL] = VERB("manual", "fermata|criu", 1, 1, "Print a manual page (troff)", run_manual),
	[VERSION] = VERB("version", "", 0, 0, "Print the version", run_version),
	[HELP] = VERB("help", "[COMMAND]", 0, 2, "Explain a command", run_help),
};

#define ON(verb) (1u << (verb))
#define SAVES (ON(DUMP_PROCESS) | ON(CHECK_PROCESS))
#define BOTH (ON(DUMP_PROCESS) | ON(RESTORE_PROCESS))

static const struct option_row rows[] = {
	OPTION("help", 'h', FLAG, NULL, ALL_VERBS, help, "Print this"),
	OPTION("version", 'V', FLAG, NULL, ALL_VERBS, version, "Print the version"),
	OPTION("verbosity", 'v', LEVEL, "N", ALL_VERBS, verbosity, "Log more: 0 nothing, 1 errors, 2 warnings, 3 steps, 4 all"),
	OPTION("log-file", 'o', STRING, "FILE", ALL_VERBS, log_file, "Log to this file"),
	OPTION("dir", 'd', STRING, "DIR", ON(DUMP_PROCESS) | ON(CHECK), dir,
	       "The folder that checkpoints go to; /tmp when not given"),
	OPTION("name", 0, STRING, "NAME", ON(DUMP_PROCESS), name, "The name of the checkpoint; dump-process-TIME when not given"),
	OPTION("path", 'p', STRING, "CHECKPOINT", ON(RESTORE_PROCESS), path, "The checkpoint's directory"),
	OPTION("leave-running", 'R', BOOL, NULL, ON(DUMP_PROCESS), request.leave_running, "Let it run on after the dump"),
	OPTION("leave-stopped", 's', BOOL, NULL, BOTH, request.leave_stopped, "Leave it stopped"),
	OPTION("timeout", 0, INT, "SECONDS", SAVES, request.timeout_s, "Give up when the tree is not stopped after this time; 10 when not given"),
	OPTION("shell-job", 'j', BOOL, NULL, BOTH | SAVES, request.shell_job, "It belongs to the caller's session and terminal"),
	OPTION("file-locks", 'l', BOOL, NULL, BOTH | SAVES, request.file_locks, "Save and restore file locks"),
	OPTION("host-ipc", 0, BOOL, NULL, SAVES, request.host_ipc, "Save message queues and System V semaphores of the host that the processes use"),
	OPTION("link-remap", 0, BOOL, NULL, BOTH | SAVES, request.link_remap,
	       "Give deleted files that have other names a name for the time between"),
	OPTION("tcp-established", 0, BOOL, NULL, BOTH | SAVES, request.tcp_established, "Save and restore TCP connections; for both"),
	OPTION("tcp-close", 0, BOOL, NULL, BOTH | SAVES, request.tcp_close, "TCP connections are closed ones in the restored tree; for either"),
	OPTION("network-lock", 0, STRING, "METHOD", BOTH | SAVES, network_lock,
	       "How packets of saved TCP connections are held back: nftables, or skip"),
	OPTION("ghost-limit", 0, SIZE, "SIZE", SAVES, request.ghost_limit,
	       "Refuse deleted files with more content than this, holes not counted; any size is saved when not given"),
	OPTION_ONE_OF("file-validation", 0, "METHOD", ON(DUMP_PROCESS) | ON(RESTORE_PROCESS), request.file_validation,
		      "How files are compared at restore: filesize, or buildid (as when not given), which compares the build ids of programs and libraries too",
		      "filesize buildid"),
	OPTION("skip-file-rwx-check", 0, BOOL, NULL, ON(RESTORE_PROCESS), request.skip_file_rwx_check,
	       "Take files whose permissions (rwx) have changed since the dump"),
	OPTION("skip-in-flight", 0, BOOL, NULL, SAVES, request.skip_in_flight, "Drop TCP connections that a listener has not accepted yet"),
	OPTION("external", 0, LIST, "TYPE[ID]", BOTH | SAVES, external,
	       "Lies outside the tree: file[MNT_ID:INODE], tty[RDEV:DEV], unix[INODE], pipe[INODE]"),
	OPTION("inherit-fd", 0, LIST, "fd[N]:RESOURCE", ON(RESTORE_PROCESS), inherit,
	       "A descriptor of the caller's for what was outside: file[], tty[], pipe[], socket[] as at the dump, or a file by its path"),
	OPTION_MISSING_BUT("compression", 0, STRING, "KIND", ON(DUMP_PROCESS),
	       "How the checkpoint is packed", "compression", "none"),
	OPTION_MISSING_BUT("streams", 0, INT, "N", ON(DUMP_PROCESS), "Write this many files at once", "streams", "0"),
	OPTION("gpu", 0, STRING, "USE", BOTH | SAVES, gpu, "Look for CUDA processes: auto (where there is NVIDIA's driver), on, off"),
	OPTION("gpu-timeout", 0, INT, "SECONDS", SAVES, gpu_timeout_s, "How long work under way on a GPU may take to end; 10 when not given"),
	OPTION("gpu-deadline", 0, INT, "SECONDS", BOTH | SAVES, gpu_deadline_s, "How long a call of the GPU's driver may take; 600 when not given"),
	OPTION("gpu-force", 0, BOOL, NULL, SAVES, request.gpu_force, "Save processes that may share GPU memory (NCCL), which may fail to be restored"),
	OPTION("gpu-map", 0, LIST, "OLD=NEW", ON(RESTORE_PROCESS), gpu_map, "The GPU (its UUID) that takes the place of one of the checkpoint"),
	OPTION_IDLE("attach", 'a', BOOL, NULL, ON(RESTORE_PROCESS),
	       "Stay with the restored process; what is done without --detach anyway"),
	OPTION("detach", 0, BOOL, NULL, ON(RESTORE_PROCESS), request.detach, "Exit once it runs, not when it ends"),
	OPTION("lazy", 0, OPTIONAL, "all", ON(RESTORE_PROCESS), lazy,
	       "Let it run at once; its memory comes when it is touched, the rest behind that. `all`: of processes that have little, too"),
	OPTION("skip-verify", 0, BOOL, NULL, ON(RESTORE_PROCESS) | ON(INSPECT), request.skip_verify,
	       "Do not compare the images with their checksums first"),
	OPTION("pid-file", 0, STRING, "FILE", ON(RESTORE_PROCESS), request.pidfile,
	       "Write the pid of the restored process to this file"),
	OPTION("no-server", 0, FLAG, NULL, BOTH, no_server, "Do it here and not in a daemon; there is none yet"),
	OPTION("json", 0, BOOL, NULL, ON(INSPECT) | ON(FEATURES) | ON(CHECK) | ON(CHECK_PROCESS), json, "Print JSON"),
	OPTION("markdown", 0, BOOL, NULL, ON(FEATURES), markdown, "Print the tables of the README"),
	OPTION("feature", 0, LIST, "NAME", ON(CHECK), features, "Only this feature of the kernel; `list` prints the names"),
};

static const char description[] =
	"Saves a running tree of processes to a directory and starts it again later, with its pids, memory, files and signals as they were.\n"
	"Called as \\fBcriu\\fR it takes that program's options instead; see\n.BR criu (1).\n"
	".SS Exit status\n"
	"0; 1 after an error, which is one line on standard error; 2 when the command line is wrong. A restore that is not detached exits as\n"
	"the restored process does, 128 and the number of the signal when one ended it.\n";

const struct program program_fermata = {
	.name = "fermata",
	.summary = "save and restore processes",
	.verbs = verbs,
	.n_verbs = ARRAY_SIZE(verbs),
	.rows = rows,
	.n_rows = ARRAY_SIZE(rows),
	.strict = true,
	.usage_status = 2,
	.description = description,
};
