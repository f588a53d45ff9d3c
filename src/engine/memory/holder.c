/* See holder.h. */
#include "engine/memory/holder.h"

#include "base/log.h"
#include "engine/memory/track.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#define DIRECTORY "/run/fermata-track"
#define MAGIC 0x32545246u
#define AT_ONCE 200 /* descriptors in a message; the kernel's limit is 253 */
#define PATIENCE_MS 10000
#define PROCESSES_MAX 100000
#define YOUNG_S 10

enum command { ASK = 'a', TAKE = 't', TAKEN = 'd', UNTOUCHED = 'u', RENEW = 'r' };

struct head {
	uint32_t magic, count;
	char id[IMAGE_ID_SIZE];
};

struct record {
	int32_t pid;
	uint64_t start_time;
};

/* ---- names ---- */

static int open_directory(bool make)
{
	struct stat st;

	if (make && mkdir(DIRECTORY, 0700) < 0 && errno != EEXIST)
		return -errno;
	int fd = open(DIRECTORY, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) == 0 && st.st_uid == geteuid() && !(st.st_mode & 077))
		return fd;
	close(fd);
	return -EPERM;
}

static void name_of(pid_t pid, uint64_t start_time, char name[64])
{
	struct stat st = {};

	if (stat("/proc/self/ns/pid", &st) < 0)
		st.st_ino = 0;
	snprintf(name, 64, "%lu-%d-%llu", (unsigned long)st.st_ino, (int)pid, (unsigned long long)start_time);
}

static void address_of(int dir, const char *name, struct sockaddr_un *address)
{
	*address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(address->sun_path, sizeof(address->sun_path), "/proc/self/fd/%d/%.80s", dir, name);
}

/* To be held around a look at a name and its change: another may have given it to a new holder meanwhile. Closing it lets go. */
static int lock_names(int dir)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	while (fd >= 0 && flock(fd, LOCK_EX) < 0 && errno == EINTR)
		;
	return fd;
}

/* Where it still leads to `target`. */
static void remove_link(int dir, const char *name, const char *target)
{
	char now[96];
	ssize_t n = readlinkat(dir, name, now, sizeof(now));

	if (n == (ssize_t)strlen(target) && !memcmp(now, target, (size_t)n))
		unlinkat(dir, name, 0);
}

static bool is_ours(int fd)
{
	struct ucred who;
	socklen_t size = sizeof(who);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 && who.uid == geteuid();
}

/* ---- the dump's side ---- */

static int connect_to(pid_t pid, uint64_t start_time)
{
	struct timeval patience = { PATIENCE_MS / 1000, 0 };
	struct sockaddr_un address;
	char name[64], target[96], path[128];

	name_of(pid, start_time, name);
	snprintf(path, sizeof(path), DIRECTORY "/%s", name);
	if (readlink(path, target, sizeof(target)) < 0 && errno == ENOENT) /* as most */
		return -ENOENT;
	_cleanup_close_ int dir = open_directory(false);
	if (dir < 0)
		return -ENOENT;
	ssize_t n = readlinkat(dir, name, target, sizeof(target) - 1);
	if (n <= 0)
		return -ENOENT;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	address_of(dir, name, &address);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 && is_ours(fd) &&
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) == 0)
		return fd;
	int r = -errno;
	close(fd);
	/* It was killed, and could not take its names away. */
	target[n] = '\0';
	if (r == -ECONNREFUSED || r == -ENOENT) {
		_cleanup_close_ _unused_ int lock = lock_names(dir);
		remove_link(dir, name, target);
		if (!strchr(target, '/'))
			unlinkat(dir, target, 0);
	}
	return -ENOENT;
}

static int send_command(int fd, char command)
{
	return send(fd, &command, 1, MSG_NOSIGNAL) == 1 ? 0 : -errno;
}

bool holder_has(pid_t pid, uint64_t start_time)
{
	_cleanup_close_ int fd = connect_to(pid, start_time);
	char answer;

	return fd >= 0 && send_command(fd, ASK) == 0 && recv(fd, &answer, 1, 0) == 1 && answer == ASK;
}

/* Records, each with its descriptor. */
static int receive_some(int fd, struct holding *h)
{
	struct record records[AT_ONCE];
	struct iovec iov = { records, sizeof(records) };
	union {
		char bytes[CMSG_SPACE(sizeof(int) * AT_ONCE)];
		struct cmsghdr align;
	} control;
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
	struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
	size_t count = n > 0 ? (size_t)n / sizeof(*records) : 0, fds = c && c->cmsg_type == SCM_RIGHTS ? (c->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;
	int r = count && count == fds ? 0 : -EPROTO;

	for (size_t i = 0; i < fds; i++) {
		int own;
		memcpy(&own, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
		struct held_process *p = r ? NULL : VEC_PUSH(&h->processes);
		if (p)
			*p = (struct held_process){ records[i].pid, records[i].start_time, own };
		else
			close(own);
		r = r ? r : p ? 0 : -ENOMEM;
	}
	return r;
}

static void holding_free(struct holding *h)
{
	VEC_FOREACH(&h->processes, p)
		if (p->uffd >= 0)
			close(p->uffd);
	VEC_FREE(&h->processes);
	if (h->connection >= 0)
		close(h->connection);
	free(h);
}

int holder_take(pid_t pid, uint64_t start_time, struct holding **ret)
{
	struct holding *h = calloc(1, sizeof(*h));
	struct head head;

	if (!h)
		return -ENOMEM;
	h->connection = connect_to(pid, start_time);
	int r = h->connection < 0 ? -ENOENT : send_command(h->connection, TAKE);
	if (!r && (recv(h->connection, &head, sizeof(head), 0) != sizeof(head) || head.magic != MAGIC || head.count > PROCESSES_MAX ||
		   head.id[IMAGE_ID_SIZE - 1]))
		r = -EPROTO;
	if (!r)
		memcpy(h->id, head.id, sizeof(h->id));
	while (!r && h->processes.count < head.count)
		r = receive_some(h->connection, h);
	if (r) {
		holding_free(h);
		return r == -ENOMEM ? r : 0;
	}
	*ret = h;
	return 1;
}

void holder_leave(struct holding *h, enum holder_end end)
{
	if (end != HOLDER_LOST)
		send_command(h->connection, end == HOLDER_TAKEN ? TAKEN : UNTOUCHED);
	holding_free(h);
}

int holder_renew(struct holding *h, const char id[IMAGE_ID_SIZE])
{
	char answer = 0;
	int r = send_command(h->connection, RENEW);

	if (!r && send(h->connection, id, IMAGE_ID_SIZE, MSG_NOSIGNAL) != IMAGE_ID_SIZE)
		r = -errno;
	if (!r && (recv(h->connection, &answer, 1, 0) != 1 || answer != RENEW))
		r = -EPROTO;
	holding_free(h);
	return r;
}

/* ---- the process ---- */

struct holder {
	char id[IMAGE_ID_SIZE], name[64];
	VEC(struct held_process) processes;
	int *pidfds, dir, listening;
};

static void remove_names(const struct holder *h)
{
	_cleanup_close_ _unused_ int lock = lock_names(h->dir);

	for (size_t i = 0; i < h->processes.count; i++) {
		const struct held_process *p = &h->processes.data[i];
		char name[64];
		name_of(p->pid, p->start_time, name);
		remove_link(h->dir, name, h->name);
	}
	unlinkat(h->dir, h->name, 0);
}

static _Noreturn void end(const struct holder *h)
{
	remove_names(h);
	_exit(0);
}

/* In pieces, since the kernel holds the address space while it takes the protection away. Who finds the name meanwhile waits for our end. */
static _Noreturn void let_go(const struct holder *h)
{
	for (size_t i = 0; i < h->processes.count; i++) {
		const struct held_process *p = &h->processes.data[i];
		struct proc_maps maps = {};
		if (p->uffd >= 0 && proc_read_maps(p->pid, &maps) == 0)
			track_unwatch_all(p->uffd, &maps);
		proc_maps_finish(&maps);
	}
	remove_names(h);
	_exit(0);
}

static int send_some(const struct holder *h, int fd, size_t from, size_t count)
{
	struct record records[AT_ONCE] = {};
	struct iovec iov = { records, count * sizeof(*records) };
	union {
		char bytes[CMSG_SPACE(sizeof(int) * AT_ONCE)];
		struct cmsghdr align;
	} control;
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = CMSG_SPACE(sizeof(int) * count) };
	struct cmsghdr *c = (struct cmsghdr *)&control;

	memset(&control, 0, sizeof(control));
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int) * count);
	for (size_t i = 0; i < count; i++) {
		const struct held_process *p = &h->processes.data[from + i];
		records[i] = (struct record){ .pid = p->pid, .start_time = p->start_time };
		memcpy(CMSG_DATA(c) + i * sizeof(int), &p->uffd, sizeof(int));
	}
	return sendmsg(fd, &m, MSG_NOSIGNAL) > 0 ? 0 : -errno;
}

static int give(const struct holder *h, int fd)
{
	struct head head = { .magic = MAGIC, .count = (uint32_t)h->processes.count };

	memcpy(head.id, h->id, sizeof(head.id));
	int r = send(fd, &head, sizeof(head), MSG_NOSIGNAL) == sizeof(head) ? 0 : -errno;
	for (size_t i = 0; !r && i < h->processes.count; i += AT_ONCE)
		r = send_some(h, fd, i, MIN(h->processes.count - i, (size_t)AT_ONCE));
	return r;
}

/* Of the checkpoint that is there now. */
static bool renew(struct holder *h, int fd)
{
	char id[IMAGE_ID_SIZE];

	if (recv(fd, id, sizeof(id), 0) != sizeof(id) || id[IMAGE_ID_SIZE - 1])
		return false;
	memcpy(h->id, id, sizeof(h->id));
	return send_command(fd, RENEW) == 0;
}

static void answer(struct holder *h)
{
	int fd = accept4(h->listening, NULL, NULL, SOCK_CLOEXEC);
	bool given = false;
	char command;

	while (fd >= 0 && is_ours(fd) && recv(fd, &command, 1, 0) == 1) {
		if (command == ASK) {
			send_command(fd, ASK);
		} else if (command == TAKE && !given) {
			given = give(h, fd) == 0;
			if (!given) /* nobody has all of them */
				break;
		} else if (command == TAKEN && given) {
			end(h);
		} else if (command == RENEW && given && renew(h, fd)) {
			given = false;
			break;
		} else if (command == UNTOUCHED && given) {
			given = false;
			break;
		}
	}
	if (given) /* whoever took them has died, and what he had protected nobody knows */
		let_go(h);
	if (fd >= 0)
		close(fd);
}

static _Noreturn void serve(struct holder *h)
{
	struct pollfd *fds = calloc(h->processes.count + 1, sizeof(*fds));
	size_t left = h->processes.count;

	if (!fds)
		let_go(h);
	for (size_t i = 0; i < h->processes.count; i++)
		fds[i] = (struct pollfd){ .fd = h->pidfds[i], .events = POLLIN };
	fds[h->processes.count] = (struct pollfd){ .fd = h->listening, .events = POLLIN };
	while (left) {
		if (poll(fds, h->processes.count + 1, -1) < 0 && errno != EINTR)
			let_go(h);
		for (size_t i = 0; i < h->processes.count; i++) {
			if (fds[i].fd < 0 || !fds[i].revents)
				continue;
			fds[i].fd = -1;
			left--;
		}
		if (fds[h->processes.count].revents)
			answer(h);
	}
	end(h);
}

static int next_kept(const struct holder *h, int from, int ready)
{
	int next = INT_MAX;

	for (size_t i = 0; i < h->processes.count; i++)
		for (int k = 0; k < 2; k++) {
			int fd = k ? h->pidfds[i] : h->processes.data[i].uffd;
			next = fd >= from ? MIN(next, fd) : next;
		}
	next = h->dir >= from ? MIN(next, h->dir) : next;
	return ready >= from ? MIN(next, ready) : next;
}

/* All of the caller's but what it needs: pipes would seem to be in use. */
static void leave_caller(const struct holder *h, int ready)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN };
	int null = open("/dev/null", O_RDWR);
	sigset_t none;

	setsid();
	for (int fd = 0; fd < 3 && null >= 0; fd++)
		dup2(null, fd);
	for (int fd = 3; fd < INT_MAX;) {
		int next = next_kept(h, fd, ready);
		if (next > fd)
			syscall(__NR_close_range, fd, next == INT_MAX ? ~0U : (unsigned int)next - 1, 0);
		fd = next == INT_MAX ? next : next + 1;
	}
	if (chdir("/") < 0)
		errno = 0;
	sigaction(SIGHUP, &ignore, NULL);
	sigaction(SIGINT, &ignore, NULL);
	sigaction(SIGPIPE, &ignore, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_NAME, "fermata-hold");
}

static int listen_there(struct holder *h)
{
	struct sockaddr_un address;

	h->listening = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	snprintf(h->name, sizeof(h->name), "holder-%s", h->id);
	address_of(h->dir, h->name, &address);
	if (h->listening < 0 || bind(h->listening, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(h->listening, 4) < 0)
		return -errno;
	_cleanup_close_ _unused_ int lock = lock_names(h->dir);
	for (size_t i = 0; i < h->processes.count; i++) {
		char name[64], early[72];
		name_of(h->processes.data[i].pid, h->processes.data[i].start_time, name);
		snprintf(early, sizeof(early), "%s.new", name);
		unlinkat(h->dir, early, 0);
		if (symlinkat(h->name, h->dir, early) < 0 || renameat(h->dir, early, h->dir, name) < 0)
			return -errno;
	}
	return 0;
}

static bool is_dead(int dir, const char *name)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un address;
	struct stat st;

	/* One that was made just now may not listen yet. */
	if (fd < 0 || fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || st.st_mtime + YOUNG_S > time(NULL))
		return false;
	address_of(dir, name, &address);
	return connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 && errno == ECONNREFUSED;
}

/* Names that killed holders have left: sockets first, then links that lead nowhere. */
static void sweep(int dir)
{
	_cleanup_close_ _unused_ int lock = lock_names(dir);

	for (int links = 0; links < 2; links++) {
		int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		DIR *stream = fd < 0 ? NULL : fdopendir(fd);
		if (!stream && fd >= 0)
			close(fd);
		for (struct dirent *entry; stream && (entry = readdir(stream));) {
			bool holder = !strncmp(entry->d_name, "holder-", 7), link = entry->d_type == DT_LNK;
			if (links ? link && faccessat(dir, entry->d_name, F_OK, 0) < 0 && errno == ENOENT : holder && is_dead(dir, entry->d_name))
				unlinkat(dir, entry->d_name, 0);
		}
		if (stream)
			closedir(stream);
	}
}

static _Noreturn void become_holder(struct holder *h, int ready)
{
	/* The caller waits for its child, not for this. */
	pid_t pid = fork();

	if (pid)
		_exit(pid < 0);
	leave_caller(h, ready);
	int r = listen_there(h);
	if (r)
		remove_names(h);
	if (write(ready, &r, sizeof(r)) != sizeof(r) || r)
		_exit(1);
	close(ready);
	sweep(h->dir);
	serve(h);
}

static int take_over(struct holder *h, const struct holding *from)
{
	memcpy(h->id, from->id, sizeof(h->id));
	h->pidfds = calloc(from->processes.count + 1, sizeof(*h->pidfds));
	if (!h->pidfds)
		return -ENOMEM;
	for (size_t i = 0; i < from->processes.count; i++) {
		struct held_process own = from->processes.data[i];
		struct proc_stat stat;
		int pidfd = (int)syscall(__NR_pidfd_open, own.pid, 0);
		if (pidfd < 0 || proc_read_stat(own.pid, &stat) || stat.start_time != own.start_time) { /* it has ended */
			if (pidfd >= 0)
				close(pidfd);
			continue;
		}
		struct held_process *slot = VEC_PUSH(&h->processes);
		if (!slot) {
			close(pidfd);
			return -ENOMEM;
		}
		*slot = own;
		h->pidfds[h->processes.count - 1] = pidfd;
	}
	return 0;
}

int holder_start(const struct holding *from, struct error *e)
{
	struct holder h = { .dir = open_directory(true), .listening = -1 };
	int ready[2], r = h.dir < 0 ? h.dir : 0, result = -ECHILD;

	if (r)
		return error_errno(e, r, "cannot use the directory " DIRECTORY);
	r = take_over(&h, from);
	if (!r && pipe2(ready, O_CLOEXEC) < 0)
		r = -errno;
	pid_t pid = r || !h.processes.count ? -1 : fork();
	if (pid == 0)
		become_holder(&h, ready[1]);
	if (!r)
		close(ready[1]);
	if (pid > 0) {
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
		if (read(ready[0], &result, sizeof(result)) != sizeof(result))
			result = -ECHILD;
		r = result;
	} else if (!r && h.processes.count) {
		r = -errno;
	}
	if (pid >= 0 || !r)
		close(ready[0]);
	for (size_t i = 0; i < h.processes.count; i++)
		close(h.pidfds[i]);
	free(h.pidfds);
	VEC_FREE(&h.processes);
	close(h.dir);
	return r ? error_errno(e, r, "cannot start the process that watches memory until the next dump") : 0;
}
