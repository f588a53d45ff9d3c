/*
 * libfermata: saves a running tree of processes to a directory, and starts it again.
 *
 *	struct fermata_error error;
 *	if (fermata_dump(pid, "/var/checkpoints/1", NULL, &error) < 0)
 *		fprintf(stderr, "%s\n", error.text);
 *
 * Linux, x86-64, as root. Link with `pkg-config --cflags --libs fermata`.
 *
 * Every function gives 0 or a negative errno; then `error` has one line that names what is in the way and what would help. `error` may be NULL.
 * Strings and structs stay the caller's, and are not kept.
 *
 * While a call lasts: no other thread of the caller may be in one, and none may wait for children it did not make itself (waitpid of -1), since
 * stops are waited for with waitpid(2). SIGCHLD is blocked in the calling thread. The limit of open descriptors (RLIMIT_NOFILE) is raised to
 * the hard limit and stays there. The caller may be killed at any moment: a tree that was being saved runs on, and no half checkpoint is left.
 */
#ifndef FERMATA_H
#define FERMATA_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FERMATA_API __attribute__((visibility("default")))

/* The version of the library, "0.1.0". */
FERMATA_API const char *fermata_version(void);

struct fermata_error {
	int code;	 /* a negative errno, 0: there was no error */
	char text[1024]; /* one line, no newline at its end */
};

/* Flags. Those that belong to another call are ignored. */
#define FERMATA_LEAVE_RUNNING (1ULL << 0)  /* dump: let the tree run on */
#define FERMATA_LEAVE_STOPPED (1ULL << 1)  /* dump, restore: leave it stopped, as by SIGSTOP */
#define FERMATA_SHELL_JOB (1ULL << 2)	   /* dump, check, restore: it belongs to the caller's session and terminal */
#define FERMATA_FILE_LOCKS (1ULL << 3)	   /* dump, check, restore: save and restore file locks */
#define FERMATA_LINK_REMAP (1ULL << 4)	   /* dump, check: give deleted files that have other names a name for the time between */
#define FERMATA_SKIP_IN_FLIGHT (1ULL << 5) /* dump, check: drop TCP connections that a listener has not accepted */
#define FERMATA_SKIP_VERIFY (1ULL << 6)	   /* restore: do not compare checksums first */
#define FERMATA_HOST_IPC (1ULL << 7)	   /* dump, check: save message queues and System V semaphores of the host that the tree uses */
#define FERMATA_TCP_ESTABLISHED (1ULL << 8)   /* dump, check, restore: save and restore TCP connections */
#define FERMATA_TCP_CLOSE (1ULL << 9)	      /* dump, check, restore: TCP connections are closed ones in the restored tree */
#define FERMATA_NETWORK_LOCK_SKIP (1ULL << 10) /* dump, check, restore: do not hold back the packets of TCP connections */
#define FERMATA_LIVE (1ULL << 11)	      /* dump, with FERMATA_LEAVE_RUNNING: save memory while it runs, or fail. Without either flag: where nothing speaks against it */
#define FERMATA_NO_LIVE (1ULL << 12)	      /* dump: it stands still for all of it */
#define FERMATA_LAZY (1ULL << 13)	      /* restore: it runs at once, and its memory comes when it is touched */
#define FERMATA_SKIP_FILE_MODES (1ULL << 14)  /* restore: files may have other permissions than they had */
#define FERMATA_EXT_UNIX_SK (1ULL << 15)      /* dump, check: datagram sockets may be connected to ones outside the tree that have a name */
#define FERMATA_SIBLING (1ULL << 16)	      /* restore: the root becomes a child of the caller's parent */
#define FERMATA_TRACK_MEM (1ULL << 18)	      /* dump: watch memory from now on, so that the next dump can have this one as its parent */
#define FERMATA_PORTABLE (1ULL << 19)	      /* dump: write what CRIU can restore too */
#define FERMATA_GPU_STAGED (1ULL << 20)	      /* dump: the GPU's driver brings device memory into the processes', also where it could be copied past them */
#define FERMATA_GPU_FORCE (1ULL << 17)	      /* dump: also what the GPU's driver is known not to bring back */

/* Called at the moments that criu's action scripts know: "pre-dump", "post-dump", "pre-restore", "post-restore", "pre-resume", "post-resume".
 * `pid`: the root, 0 where there is none yet. A negative errno ends the dump or restore ("post-resume": it is only logged). */
typedef int (*fermata_hook)(void *data, const char *moment, pid_t pid);

/* How far a dump or restore is. Called about ten times a second, from another thread than the caller's; it must not call this library. */
struct fermata_progress {
	size_t size; /* of the struct as the library knows it */
	const char *stage; /* "freeze", "capture", "memory", …; not kept */
	double seconds;	   /* since it began */
	uint64_t done, total; /* bytes of memory, as far as is known: `total` may grow */
};
typedef void (*fermata_progress_call)(void *data, const struct fermata_progress *progress);

/* Begin with struct fermata_options options = FERMATA_OPTIONS_INIT. NULL in its place means just that. */
struct fermata_options {
	size_t size; /* of the struct as the caller knows it: later versions may have more in it */
	uint64_t flags;
	fermata_hook hook; /* NULL: none */
	void *hook_data;
	/* What lies outside the tree, as criu's options have it, each list with NULL at its end; NULL: nothing. */
	const char *const *external; /* dump, check: "tty[8801:18]", "unix[1234]", "pipe[1234]", "file[1f:2a]" */
	const char *const *inherit;  /* restore: "fd[3]:pipe[1234]", the caller's descriptor 3 for it */
	/* dump: "tar", "gzip", "lz4", "zlib" or "zstd", where a level may follow ("zstd:3"): then `dir` is the archive to be. NULL or "none": a
	 * directory of images. */
	const char *compression;
	unsigned streams; /* dump: with 2 and more the archive is in so many files, and `dir` an empty directory for them */
	fermata_progress_call progress; /* NULL: none */
	void *progress_data;
	unsigned timeout_s;	     /* dump: how long it may take to stop all; 0: 10 */
	uint64_t ghost_limit;	     /* dump, check: bytes of a deleted file that are saved; 0: no limit */
	const char *file_validation; /* dump, restore: "filesize" or "buildid"; NULL: the latter */
	const char *gpu;	     /* "on", "off" or "auto"; NULL: the last */
	unsigned gpu_timeout_s;	     /* dump: how long work on a GPU may take to end; 0: 10 */
	const char *const *gpu_map;  /* restore: "OLD-UUID=NEW-UUID", with NULL at the end; NULL: none */
	const char *parent;	     /* dump: the checkpoint (made with FERMATA_TRACK_MEM or with a parent) whose pages are not saved again; NULL: none */
	const char *store_key;	     /* dump, restore: the file with the key of an encrypted store ("store:DIR/NAME" in the place of `dir`); NULL: none */
};
#define FERMATA_OPTIONS_INIT { sizeof(struct fermata_options), 0, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL, 0, 0, NULL, NULL, 0, NULL, NULL, NULL }

/* Saves process `pid` and all that descend from it into `dir`, a directory that exists and holds no checkpoint, or into a store ("store:DIR/NAME"), and ends them. After an
 * error the tree runs on and nothing is in `dir`. If `pid` is a child of the caller it is waited for, so that its pid is free again. */
FERMATA_API int fermata_dump(pid_t pid, const char *dir, const struct fermata_options *options, struct fermata_error *error);

/* Starts what `dir` holds (a directory, an archive of any kind, or "store:DIR/NAME"), under the pids it had. *ret_pid (may be NULL): the root, a child of the caller, to be waited for with waitpid(2).
 * After an error nothing of it is left. */
FERMATA_API int fermata_restore(const char *dir, const struct fermata_options *options, pid_t *ret_pid, struct fermata_error *error);

/* Whether it could be saved: stops it for a moment, looks at it as a dump does, and writes nothing. `found` (may be NULL) is called for
 * each obstacle. *ret_count (may be NULL): how many there are. An error: it could not be looked at to the end. */
typedef void (*fermata_found)(void *data, const struct fermata_error *obstacle);
FERMATA_API int fermata_check(pid_t pid, const struct fermata_options *options, fermata_found found, void *data, size_t *ret_count,
			      struct fermata_error *error);

/* What is done is logged to the descriptor `fd`, which stays the caller's: level 0 nothing (as at the start), 1 errors, 2 warnings, 3 steps, 4 all. */
FERMATA_API void fermata_log(int level, int fd);

#ifdef __cplusplus
}
#endif
#endif
