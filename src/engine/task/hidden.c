/*
 * See hidden.h.
 *
 * Credentials are compared with the coordinator's: what is the same there is the same in what is restored. Where security modules keep what is
 * theirs the kernel does not say; so for Landlock a process apart puts itself under a rule, and looks which word changed.
 */
#include "engine/task/hidden.h"

#include "base/apart.h"
#include "engine/kernel.h"
#include "engine/task/inside.h"
#include "engine/task/labels.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef __NR_landlock_create_ruleset
#define __NR_landlock_create_ruleset 444
#define __NR_landlock_restrict_self 446
#endif
#define LANDLOCK_EXECUTE 1 /* LANDLOCK_ACCESS_FS_EXECUTE */

#define BLOB INSIGHT_BLOB
#define LABEL_MAX 4096
#define SLOTS 16 /* of a node of a keyring */
#define IS_META 1UL
#define IS_KEYRING 2UL
#define INVOCATION "invocation_id" /* systemd.exec(5): a name, not a secret */
#define DEPTH_MAX 6 /* the kernel's own limit */

struct hidden {
	bool is_readable; /* the kernel's memory is, and what follows is known */
	int cred, security, signal_threads, thread_node; /* where they stand */
	uint64_t own_session, own_blob[BLOB];
	int landlock; /* which word; -1: no process can have rules, -2: not known yet */
	char *label; /* our own; NULL: there are none */
};

static int read_blob(struct kernel *k, uint64_t cred, int security, uint64_t blob[BLOB])
{
	uint64_t at;
	int r = kernel_read(k, cred + (uint64_t)security, &at, sizeof(at));

	memset(blob, 0, BLOB * sizeof(*blob));
	return r || !at ? r : kernel_read(k, at, blob, BLOB * sizeof(*blob));
}

static int own_cred(struct kernel *k, int cred, uint64_t *ret)
{
	uint64_t task;
	int r = kernel_self(k, &task);

	return r ? r : kernel_read(k, task + (uint64_t)cred, ret, sizeof(*ret));
}

struct trial {
	struct kernel *k;
	const struct hidden *h;
	int word;
};

/* In a process apart. */
static int try_landlock(void *argument)
{
	struct trial *t = argument;
	const uint64_t handled = LANDLOCK_EXECUTE;
	uint64_t cred, before[BLOB], after[BLOB];
	_cleanup_close_ int rules = (int)syscall(__NR_landlock_create_ruleset, &handled, sizeof(handled), 0);

	t->word = -1;
	if (rules < 0)
		return 0;
	if (own_cred(t->k, t->h->cred, &cred) || read_blob(t->k, cred, t->h->security, before) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    syscall(__NR_landlock_restrict_self, rules, 0) < 0 || own_cred(t->k, t->h->cred, &cred) ||
	    read_blob(t->k, cred, t->h->security, after))
		return 0;
	for (int i = BLOB; i-- > 0;)
		if (before[i] != after[i] && (int64_t)after[i] < 0) /* an address of the kernel's */
			t->word = i;
	return 0;
}

static int landlock_word(struct dump *d, struct hidden *h)
{
	struct trial t = { dump_kernel(d), h, -1 };

	if (h->landlock == -2)
		h->landlock = run_apart(NULL, try_landlock, &t) ? -1 : t.word;
	return h->landlock;
}

static void look_at_ourselves(struct dump *d, struct hidden *h)
{
	struct kernel *k = dump_kernel(d);
	size_t size;
	uint64_t cred;

	h->landlock = -2;
	if (read_file_at(AT_FDCWD, "/proc/self/attr/current", LABEL_MAX, &h->label, &size))
		h->label = NULL;
	if (!k)
		return;
	h->cred = kernel_offset(k, "task_struct", "cred");
	h->security = kernel_offset(k, "cred", "security");
	h->signal_threads = kernel_offset(k, "signal_struct", "thread_head");
	h->thread_node = kernel_offset(k, "task_struct", "thread_node");
	h->is_readable = h->cred >= 0 && h->security >= 0 && h->signal_threads >= 0 && h->thread_node >= 0 && !own_cred(k, h->cred, &cred) &&
			 !read_blob(k, cred, h->security, h->own_blob);
	if (h->is_readable && inside_follow(d, &cred, "cred", "session_keyring") == 0)
		h->own_session = cred;
	/* Found now, so that it takes no time later. */
	kernel_offset(k, "signal_struct", "thread_head");
	kernel_offset(k, "task_struct", "restart_block");
	kernel_offset(k, "cred", "process_keyring");
	kernel_offset(k, "cred", "thread_keyring");
}

/* ---- keyrings ---- */

static bool has_keys(struct dump *d, uint64_t keyring, int depth);

/* Whether a leaf is a key that a program put there, or a keyring with such: not the user's, which others have too, nor what every session has. */
static bool is_key(struct dump *d, uint64_t leaf, int depth)
{
	const uint64_t key = leaf & ~IS_KEYRING;
	uint64_t name = key;
	char text[sizeof(INVOCATION)] = "";

	if (!leaf || leaf & IS_META)
		return leaf != 0; /* a keyring so large has some */
	if (inside_follow(d, &name, "key", "description") || kernel_read(d->kernel, name, text, sizeof(text)))
		return true;
	if (leaf & IS_KEYRING)
		return strncmp(text, "_uid", 4) && strncmp(text, "_persistent", 11) && has_keys(d, key, depth + 1);
	return memcmp(text, INVOCATION, sizeof(text)) != 0;
}

static bool has_keys(struct dump *d, uint64_t keyring, int depth)
{
	uint64_t root = keyring, slots[SLOTS];

	if (!keyring || depth > DEPTH_MAX || inside_follow(d, &root, "key", "keys.root") || !root)
		return false;
	const int at = kernel_offset(d->kernel, "assoc_array_node", "slots");
	if (at < 0)
		return false;
	if (!(root & IS_META) || kernel_read(d->kernel, (root & ~3UL) + (uint64_t)at, slots, sizeof(slots)))
		return true;
	for (size_t i = 0; i < SLOTS; i++)
		if (is_key(d, slots[i], depth))
			return true;
	return false;
}

static int check_keyrings(struct dump *d, struct task *t, const struct hidden *h, uint64_t cred)
{
	static const struct {
		const char *member, *name;
	} rings[] = { { "session_keyring", "session" }, { "process_keyring", "process" }, { "thread_keyring", "thread" } };

	for (size_t i = 0; i < ARRAY_SIZE(rings); i++) {
		uint64_t ring = cred;
		if (inside_follow(d, &ring, "cred", rings[i].member) || (!i && ring == h->own_session) || !has_keys(d, ring, 0))
			continue;
		return task_error(d, t, -ENOTSUP, "its %s keyring holds keys, which are not saved; let the program keep them in the user's keyring%s",
				  rings[i].name, i ? "" : ", or dump and restore it from its own session");
	}
	return 0;
}

/* ---- all ---- */

static bool has_rules(struct dump *d, struct hidden *h, const uint64_t blob[BLOB])
{
	const int word = memcmp(blob, h->own_blob, sizeof(h->own_blob)) ? landlock_word(d, h) : -1;

	return word >= 0 && blob[word] && blob[word] != h->own_blob[word];
}

static int check_cred(struct dump *d, struct task *t, struct hidden *h, uint64_t cred)
{
	uint64_t blob[BLOB];

	if (!read_blob(d->kernel, cred, h->security, blob) && has_rules(d, h, blob))
		return task_error(d, t, -ENOTSUP, "it has put itself under rules of Landlock (landlock_restrict_self), which the kernel shows to nobody and "
				  "which would be lost; start it without its sandbox");
	return check_keyrings(d, t, h, cred);
}

/* The credentials of all threads, each once where they follow each other. */
static int check_creds(struct dump *d, struct task *t, struct hidden *h)
{
	uint64_t head, node, cred, last = 0;
	int r = 0;

	if (inside_thread(d, t->threads.data[0], "signal", &head, sizeof(head)))
		return 0;
	head += (uint64_t)h->signal_threads;
	node = head;
	for (size_t i = 0; !r && i < t->threads.count + t->leader_gone; i++) {
		if (kernel_read(d->kernel, node, &node, sizeof(node)) || node == head ||
		    kernel_read(d->kernel, node - (uint64_t)h->thread_node + (uint64_t)h->cred, &cred, sizeof(cred)))
			break;
		if (cred != last)
			r = check_cred(d, t, h, cred);
		last = cred;
	}
	return r;
}

int hidden_prepare(struct dump *d)
{
	if (d->hidden)
		return 0;
	d->hidden = calloc(1, sizeof(*d->hidden));
	if (!d->hidden)
		return error_set(d->e, -ENOMEM, "out of memory");
	look_at_ourselves(d, d->hidden);
	return 0;
}

/* Whether the credentials of all its threads have nothing that ours have not. */
static bool is_like_us(struct dump *d, const struct task *t, struct hidden *h)
{
	const struct insight *i = &t->insight;

	for (size_t k = 0; i->seen && k < t->threads.count; k++)
		if (t->threads.data[k]->insight.cred != i->cred.address)
			return false;
	return i->seen && !i->cred.process_keyring && !i->cred.thread_keyring && (!i->cred.session_keyring || i->cred.session_keyring == h->own_session) &&
	       !has_rules(d, h, i->cred.blob);
}

int hidden_check(struct dump *d, struct task *t)
{
	int r = hidden_prepare(d);

	if (!r)
		r = labels_check(d, t, d->hidden->label);
	if (!r && is_like_us(d, t, d->hidden))
		return 0;
	return r || !d->hidden->is_readable ? r : check_creds(d, t, d->hidden);
}

void hidden_release(struct dump *d)
{
	if (d->hidden)
		free(d->hidden->label);
	free(d->hidden);
	d->hidden = NULL;
}
