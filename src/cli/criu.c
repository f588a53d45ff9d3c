/*
 * criu's actions and options. What the engine has no way to do yet is in the table with what is missing, and refused when it is
 * given; options that only permit something, or that change nothing in this engine, say so in their help.
 */
#include "base/log.h"
#include "cli/cli.h"
#include "cli/rpc/rpc.h"

enum { DUMP, PRE_DUMP, RESTORE, CHECK, PAGE_SERVER, LAZY_PAGES, SERVICE, SWRK, DEDUP, CPUINFO };

static int run_dump(struct command_line *c)
{
	struct error e = {};

	c->request.parent_from_images = true;
	if (c->request.pid > 0)
		return cli_dump(c);
	error_set(&e, -EINVAL, "criu dump needs the process to save: --tree PID");
	return cli_report(c, &e);
}

static int run_dedup(struct command_line *c)
{
	struct error e = {};

	return engine_dedup(c->request.images_dir ? c->request.images_dir : ".", &e) ? cli_report(c, &e) : 0;
}

/* Without the watch it would be of no use. */
static int run_pre_dump(struct command_line *c)
{
	c->request.pre_dump = c->request.leave_running = c->request.track = true;
	return run_dump(c);
}

static int run_restore(struct command_line *c)
{
	struct error e = {};

	if (c->exec_command != (c->rest && c->rest[0])) {
		error_set(&e, -EINVAL, c->exec_command ? "option --exec-cmd needs the command behind --: --exec-cmd -- COMMAND ARGUMENTS" :
							 "a command behind -- needs --exec-cmd");
		return cli_report(c, &e);
	}
	if (c->request.sibling && !c->request.detach) {
		error_set(&e, -EINVAL, "option --restore-sibling needs --restore-detached: nobody can wait for a process that is not its child");
		return cli_report(c, &e);
	}
	return cli_restore(c, false);
}

/* In the order of the enum. */
static const struct verb verbs[] = {
	[DUMP] = VERB("dump", "", 0, 0, "Save the process tree below --tree to the images directory, and end it", run_dump),
	[PRE_DUMP] = VERB("pre-dump", "", 0, 0, "Save memory ahead of a dump; the tree runs on", run_pre_dump),
	[RESTORE] = VERB("restore", "", 0, 0, "Start the tree that the images directory holds", run_restore),
	[CHECK] = VERB("check", "", 0, 0, "Say whether this kernel has what dump and restore need", criu_check),
	[PAGE_SERVER] = VERB_MISSING("page-server", "", 0, 0, "Receive pages from a dump on another machine", "migration over the network"),
	[LAZY_PAGES] = VERB("lazy-pages", "", 0, 0, "Wait for a restore --lazy-pages of this machine's images, and until its pages are there, which it brings itself", run_lazy_pages),
	[SERVICE] = VERB("service", "", 0, 0, "Answer requests of root's programs (RPC) on a socket", verb_service),
	[SWRK] = VERB("swrk", "FD", 1, 1, "Answer requests (RPC) of the process that started it, as container runtimes do", verb_swrk),
	[DEDUP] = VERB("dedup", "", 0, 0, "Take out of the parents of a checkpoint what it does not need of them", run_dedup),
	[CPUINFO] = VERB("cpuinfo", "dump|check", 1, 1, "Save what this processor can do in cpuinfo.img, or compare it with what is there", verb_cpuinfo),
};

#define ON(verb) (1ULL << (verb))
#define DUMPS (ON(DUMP) | ON(PRE_DUMP))
#define BOTH (DUMPS | ON(RESTORE))
#define NO_CGROUPS "control groups"
#define NO_NETWORK "migration over the network"
#define NO_LSM "security labels"

static const struct option_row rows[] = {
	OPTION("help", 'h', FLAG, NULL, ALL_VERBS, help, "Print this"),
	OPTION("version", 'V', FLAG, NULL, ALL_VERBS, version, "Print the version of criu that is stood in for"),
	OPTION("verbosity", 'v', LEVEL, "N", ALL_VERBS, verbosity, "Log more: 0 nothing, 1 errors, 2 warnings, 3 steps, 4 all"),
	OPTION("log-file", 'o', STRING, "FILE", ALL_VERBS, log_file, "Log to a file in the work directory"),
	OPTION_IDLE("log-pid", 0, BOOL, NULL, ALL_VERBS, "A log for each process; changes nothing, one process does it all"),
	OPTION("config", 0, STRING, "FILE", ALL_VERBS, config, "Read options from this file too"),
	OPTION("no-default-config", 0, FLAG, NULL, ALL_VERBS, no_default_config,
	       "Leave out /etc/criu/default.conf and ~/.criu/default.conf"),
	OPTION("images-dir", 'D', STRING, "DIR", ALL_VERBS, request.images_dir,
	       "Where the images are; the current directory when not given"),
	OPTION("work-dir", 'W', STRING, "DIR", ALL_VERBS, work_dir,
	       "Where log and pid file go; the images directory when not given"),
	OPTION("pidfile", 0, STRING, "FILE", BOTH | ON(PAGE_SERVER) | ON(SERVICE), request.pidfile,
	       "Write the pid of the restored root to a file in the work directory"),
	OPTION("display-stats", 0, BOOL, NULL, BOTH, display_stats, "Print how long it took"),
	OPTION("action-script", 0, LIST, "SCRIPT", BOTH, scripts,
	       "Run this at each moment: CRTOOLS_SCRIPT_ACTION, CRTOOLS_IMAGE_DIR, CRTOOLS_INIT_PID"),
	OPTION("tree", 't', INT, "PID", BOTH, request.pid, "The root of the tree to save"),
	OPTION("shell-job", 'j', BOOL, NULL, BOTH, request.shell_job, "The tree belongs to the caller's session and terminal"),
	OPTION("leave-running", 'R', BOOL, NULL, DUMPS, request.leave_running, "Let the tree run on after the dump"),
	OPTION("live", 0, BOOL, NULL, ON(DUMP), live,
	       "With --leave-running: save memory while the tree runs, and stop it for a moment only; the default, unless there are scripts"),
	OPTION("portable", 0, BOOL, NULL, DUMPS, request.portable, "Write what CRIU can restore too, to a directory: pages that processes share since fork are stored for each"),
	OPTION("leave-stopped", 's', BOOL, NULL, BOTH, request.leave_stopped, "Leave the tree stopped"),
	OPTION("file-locks", 'l', BOOL, NULL, BOTH, request.file_locks, "Save and restore file locks"),
	OPTION("host-ipc", 0, BOOL, NULL, BOTH, request.host_ipc, "Save message queues and System V semaphores of the host that the processes use"),
	OPTION("link-remap", 0, BOOL, NULL, BOTH, request.link_remap,
	       "Give deleted files that have other names a name for the time between"),
	OPTION("tcp-established", 0, BOOL, NULL, BOTH, request.tcp_established, "Save and restore TCP connections; for both"),
	OPTION("tcp-close", 0, BOOL, NULL, BOTH, request.tcp_close, "TCP connections are closed ones in the restored tree; for either"),
	OPTION("network-lock", 0, STRING, "METHOD", BOTH, network_lock,
	       "How packets of saved TCP connections are held back: nftables (also for iptables), or skip"),
	OPTION("skip-in-flight", 0, BOOL, NULL, DUMPS, request.skip_in_flight, "Drop connections that a listener has not accepted yet, and packets that raw and packet sockets have not read"),
	OPTION("external", 0, LIST, "TYPE[ID]", BOTH, external, "Lies outside: file[MNT_ID:INODE], tty[RDEV:DEV], unix[INODE], pipe[INODE], net[INODE]:NAME, mnt[DIR]:KEY, dev[MAJOR/MINOR]:KEY; for the restore veth[IN]:OUT@BRIDGE, macvlan[IN]:OUT, mnt[KEY]:PATH, dev[KEY]:PATH"),
	OPTION("inherit-fd", 0, LIST, "fd[N]:RESOURCE", ON(RESTORE), inherit,
	       "A descriptor of the caller's for what was outside: file[], tty[], pipe[], socket[] as at the dump, a NAME, or a file by its path"),
	OPTION("restore-detached", 'd', BOOL, NULL, ON(RESTORE) | ON(PAGE_SERVER) | ON(LAZY_PAGES) | ON(SERVICE), request.detach,
	       "Exit once the tree runs"),
	OPTION("daemon", 0, BOOL, NULL, ON(PAGE_SERVER) | ON(LAZY_PAGES) | ON(SERVICE), request.detach, "The same as --restore-detached"),
	OPTION("restore-sibling", 'S', BOOL, NULL, ON(RESTORE), request.sibling,
	       "Make the root a child of the caller's parent; with --restore-detached"),
	OPTION("timeout", 0, INT, "SECONDS", BOTH, request.timeout_s, "Give up when the tree is not stopped after this time; 10 when not given"),
	OPTION("exec-cmd", 0, BOOL, NULL, ON(RESTORE), exec_command, "Become the command behind -- once the tree runs"),
	OPTION("feature", 0, LIST, "NAME", ON(CHECK), features, "Only this feature of the kernel; `list` prints the names"),
	OPTION("all", 0, BOOL, NULL, ON(CHECK), check_all, "What is of use too"),
	OPTION("extra", 0, BOOL, NULL, ON(CHECK), check_extra, "The same as --all"),
	OPTION("experimental", 0, BOOL, NULL, ON(CHECK), check_experimental, "The same as --all"),
	OPTION("skip-verify", 0, BOOL, NULL, ON(RESTORE), request.skip_verify,
	       "Do not compare the images with their checksums first; criu itself has no such option"),
	/* Permissions and hints: without effect until there is what they are about, and nothing is lost. */
	OPTION("ext-unix-sk", 'x', OPTIONAL, "INODE", BOTH, ext_unix_sk,
	       "Permits Unix sockets whose peer is outside the tree: datagram sockets, and with the inode this one"),
	OPTION_IDLE("evasive-devices", 0, BOOL, NULL, BOTH, "Permits devices under another name; changes nothing"),
	OPTION_IDLE("force-irmap", 0, BOOL, NULL, BOTH, "Permits a search for watched files; changes nothing, handles are used"),
	OPTION_IDLE("irmap-scan-path", 0, LIST, "DIR", BOTH, "Where to search; changes nothing"),
	OPTION("ghost-limit", 0, SIZE, "SIZE", DUMPS, request.ghost_limit,
	       "Save deleted files with content up to this size each, holes not counted; 1M when not given, 0: any"),
	OPTION_IDLE("ghost-fiemap", 0, BOOL, NULL, DUMPS, "How holes of deleted files are found; changes nothing"),
	OPTION("skip-file-rwx-check", 0, BOOL, NULL, ON(RESTORE), request.skip_file_rwx_check,
	       "Take files whose permissions (rwx) have changed since the dump"),
	OPTION("weak-sysctls", 0, BOOL, NULL, ON(RESTORE), request.weak_sysctls, "Go on where a setting of a network namespace can't be set"),
	OPTION_IDLE("mntns-compat-mode", 0, BOOL, NULL, ON(RESTORE), "How mounts are made; changes nothing"),
	OPTION_IDLE("allow-uprobes", 0, BOOL, NULL, BOTH, "Permits memory for uprobes; changes nothing"),
	OPTION_IDLE("close", 0, LIST, "FD", ON(RESTORE), "A descriptor to close first; changes nothing, the tree inherits none"),
	OPTION_IDLE("deprecated", 0, BOOL, NULL, ALL_VERBS, "Permits deprecated options; changes nothing"),
	OPTION_IDLE("libdir", 'L', STRING, "DIR", ALL_VERBS, "Where plugins are; changes nothing, there are none"),
	OPTION("prev-images-dir", 0, STRING, "DIR", DUMPS, request.parent,
	       "The last dump or pre-dump with --track-mem, as seen from the images directory: what has not changed since stays there alone"),
	OPTION("track-mem", 0, BOOL, NULL, DUMPS, request.track, "Watch memory, so that the next dump can have this one as --prev-images-dir; a pre-dump does in any case"),
	OPTION_IDLE("pre-dump-mode", 0, STRING, "MODE", ON(PRE_DUMP), "How memory is read: splice or read; changes nothing"),
	OPTION("auto-dedup", 0, BOOL, NULL, ON(DUMP), request.dedup, "Do what dedup does after the dump"),
	OPTION_IDLE("auto-dedup", 0, BOOL, NULL, ON(RESTORE) | ON(PRE_DUMP), "For images that stay whole; changes nothing"),
	/* Not there yet. */
	OPTION_MISSING("auto-dedup", 0, BOOL, NULL, ON(PAGE_SERVER), "Drop pages that are in the newer checkpoint", NO_NETWORK),
	OPTION_MISSING("page-server", 0, BOOL, NULL, DUMPS, "Send pages to a page server", NO_NETWORK),
	OPTION("address", 0, STRING, "PATH", ON(SERVICE), address, "The socket that it listens at; criu_service.socket in the work directory when not given"),
	OPTION_MISSING("address", 0, STRING, "ADDRESS", ~ON(SERVICE), "Of the page server", NO_NETWORK),
	OPTION_MISSING("port", 0, INT, "PORT", ALL_VERBS, "Of the page server", NO_NETWORK),
	OPTION_MISSING("ps-socket", 0, INT, "FD", ALL_VERBS, "A socket that is connected to the page server", NO_NETWORK),
	OPTION_MISSING("tls", 0, BOOL, NULL, ALL_VERBS, "Encrypt what goes over the network", NO_NETWORK),
	OPTION_MISSING("tls-cacert", 0, STRING, "FILE", ALL_VERBS, "For --tls", NO_NETWORK),
	OPTION_MISSING("tls-cacrl", 0, STRING, "FILE", ALL_VERBS, "For --tls", NO_NETWORK),
	OPTION_MISSING("tls-cert", 0, STRING, "FILE", ALL_VERBS, "For --tls", NO_NETWORK),
	OPTION_MISSING("tls-key", 0, STRING, "FILE", ALL_VERBS, "For --tls", NO_NETWORK),
	OPTION_MISSING("tls-no-cn-verify", 0, FLAG, NULL, ALL_VERBS, "For --tls", NO_NETWORK),
	OPTION_MISSING("stream", 0, BOOL, NULL, BOTH, "Images through a streamer", "streamed images"),
	OPTION("lazy-pages", 0, BOOL, NULL, ON(RESTORE), lazy_pages, "Bring pages when they are touched; restore does it itself, and tells a lazy-pages that waits"),
	OPTION_MISSING("lazy-pages", 0, BOOL, NULL, ON(DUMP), "Serve pages to another machine", NO_NETWORK),
	OPTION("status-fd", 0, INT, "FD", ON(LAZY_PAGES), status_fd, "Write a zero byte there when it waits"),
	OPTION_MISSING("status-fd", 0, INT, "FD", ALL_VERBS & ~ON(LAZY_PAGES), "Say there when a server is ready", NO_NETWORK),
	OPTION("ext-mount-map", 'M', LIST, "KEY:VALUE", BOTH, mount_map, "The same as --external mnt[KEY]:VALUE"),
	OPTION_IDLE("enable-external-sharing", 0, BOOL, NULL, BOTH, "Permits mounts that share with those outside; changes nothing, they do as they did"),
	OPTION_IDLE("enable-external-masters", 0, BOOL, NULL, BOTH, "Permits mounts that follow those outside; changes nothing, they do as they did"),
	OPTION("enable-fs", 0, LIST, "TYPES", BOTH, enable_fs, "Types of file system that need no more than to be mounted again; all: any"),
	OPTION("skip-mnt", 0, LIST, "DIR", BOTH, skip_mounts, "Leave out what is mounted there in the tree's mount namespace, and below"),
	OPTION("root", 'r', STRING, "DIR", BOTH, request.root, "For the restore: what the root of the tree's mount namespace is made of"),
	OPTION("join-ns", 'J', LIST, "NS:FILE", ON(RESTORE), joins, "A namespace that takes the place of the tree's: net:/run/netns/NAME"),
	OPTION_ONE_OF("empty-ns", 0, "NS", BOTH, empty_ns, "A namespace whose content is left out: net", "net"),
	OPTION("veth-pair", 0, LIST, "IN=OUT", ON(RESTORE), veth_pairs, "The outer end of a veth is to be called this: IN=OUT, IN=OUT@BRIDGE; the same as --external veth[IN]:OUT@BRIDGE"),
	OPTION("manage-cgroups", 0, OPTIONAL, "MODE", BOTH, manage_cgroups,
	       "Save and restore control groups: soft (as when not given: those that are not there are made and set), full (set also those that are), strict (none may be there), props, none, ignore"),
	OPTION("cgroup-root", 0, LIST, "[CONTROLLER:]DIR", BOTH, cgroup_roots, "Where the control group of the tree's root is to be"),
	OPTION_MISSING("cgroup-props", 0, STRING, "TEXT", BOTH, "Their properties", NO_CGROUPS),
	OPTION_MISSING("cgroup-props-file", 0, STRING, "FILE", BOTH, "Their properties", NO_CGROUPS),
	OPTION_MISSING("cgroup-dump-controller", 0, LIST, "NAME", BOTH, "Controllers to save", NO_CGROUPS),
	OPTION_IDLE("cgroup-yard", 0, STRING, "DIR", BOTH, "Where control groups are mounted; changes nothing, they are reached otherwise"),
	OPTION_IDLE("freeze-cgroup", 0, STRING, "DIR", DUMPS, "Its control group; changes nothing: the tree is stopped without it, and stays frozen in it where it was"),
	OPTION("lsm-profile", 0, STRING, "TYPE:NAME", ON(RESTORE), lsm_profile,
	       "The label to restore under: apparmor or selinux; without a module that has labels it changes nothing, with one it is refused: run restore under it (aa-exec, runcon)"),
	OPTION_MISSING("lsm-mount-context", 0, STRING, "TEXT", ON(RESTORE), "The label of mounts", NO_LSM),
	OPTION_ONE_OF("file-validation", 0, "METHOD", BOTH, request.file_validation,
		      "How files are compared at restore: filesize, or buildid (as when not given), which compares the build ids of programs and libraries too",
		      "filesize buildid"),
	OPTION("cpu-cap", 0, OPTIONAL, "CAPS", BOTH | ON(CPUINFO), cpu_cap, CPU_CAP_HELP),
	OPTION("unprivileged", 0, BOOL, NULL, ALL_VERBS, unprivileged,
	       "Without root, with CAP_CHECKPOINT_RESTORE and CAP_SYS_PTRACE: one's own processes"),
};

static const char description[] =
	"Fermata under criu's name: saves a tree of processes to a directory and starts it again, with criu's images and options. It is not\n"
	"that program; what it can't do yet is marked below, and refused when it is asked for.\n"
	".SS Configuration\n"
	"Options are read from \\fI/etc/criu/default.conf\\fR, \\fI~/.criu/default.conf\\fR, the file that\n"
	".B CRIU_CONFIG_FILE\n"
	"names, and the file of \\fB\\-\\-config\\fR, in this order, then from the command line; what comes later counts. One option stands on a\n"
	"line, without dashes; \\fB#\\fR begins a comment.\n"
	".SS Exit status\n"
	"0, or 1 after an error, which is one line on standard error. A restore that is not detached exits as the restored root does.\n";

const struct program program_criu = {
	.name = "criu",
	.summary = "save and restore processes (fermata, with criu's options)",
	.verbs = verbs,
	.n_verbs = ARRAY_SIZE(verbs),
	.rows = rows,
	.n_rows = ARRAY_SIZE(rows),
	.configured = true,
	.usage_status = 1,
	.description = description,
};
