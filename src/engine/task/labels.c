/*
 * The label under which AppArmor confines a thread (aa_change_profile(2)). Saved where this kernel has AppArmor, and taken again as the last thing that a restored
 * thread does but for strict seccomp: what it may do from then on is the profile's to say. By lsm_set_self_attr(2) (Linux 6.8); before, by a file of
 * /proc, which only a thread itself may write to.
 *
 * Refused: labels of other modules (SELinux, Smack) that are not the caller's, a label that the next exec is to bring (aa_change_onexec(2)) of a main thread. Left
 * out: the latter of other threads; hats (aa_change_hat(2)), the way back from which is a number that the kernel does not tell: they stay where they are.
 */
#include "engine/task/labels.h"

#include "engine/task/state.h"

#include <fcntl.h>
#include <sys/syscall.h>

#define LABEL_MAX 4096
#define UNCONFINED "unconfined"
#define COMMAND "changeprofile "
#define CURRENT_PATH "/proc/thread-self/attr/apparmor/current"

#ifndef __NR_lsm_set_self_attr
#define __NR_lsm_set_self_attr 460 /* Linux 6.8 */
#endif
#define LSM_ATTR_CURRENT 100
#define LSM_ID_APPARMOR 104
struct lsm_ctx_head {
	uint64_t id, flags, len, ctx_len;
};

/* "name (enforce)\n": the name, allocated; NULL: there is none to be had. */
static char *read_label(const char *path)
{
	char *text = NULL;

	if (read_file_at(AT_FDCWD, path, LABEL_MAX, &text, NULL))
		return NULL;
	text[strcspn(text, "\n")] = '\0';
	char *mode = strrchr(text, '(');
	if (mode > text && mode[-1] == ' ')
		mode[-1] = '\0';
	return text;
}

static bool has_apparmor(struct dump *d)
{
	_cleanup_free_ char *label = d->apparmor ? NULL : read_label("/proc/self/attr/apparmor/current");

	if (!d->apparmor)
		d->apparmor = label ? 1 : -1;
	return d->apparmor > 0;
}

int labels_check(struct dump *d, struct task *t, const char *own)
{
	_cleanup_free_ char *label = NULL, *next = NULL;
	char path[64];

	if (!own)
		return 0;
	if (has_apparmor(d)) {
		snprintf(path, sizeof(path), "/proc/%d/attr/apparmor/exec", t->proc);
		next = read_label(path);
		return next && next[0] ? task_error(d, t, -ENOTSUP, "it has asked for the security label %s at its next exec, which is not saved; try again", next) : 0;
	}
	snprintf(path, sizeof(path), "/proc/%d/attr/current", t->proc);
	if (read_file_at(AT_FDCWD, path, LABEL_MAX, &label, NULL) || !strcmp(label, own))
		return 0;
	label[strcspn(label, "\n")] = '\0';
	return task_error(d, t, -ENOTSUP, "it runs under the security label %s, which is not saved; dump and restore it from under the same", label);
}

int labels_capture(struct dump *d, struct thread *th, struct pool *pool, CredsEntry *c)
{
	char path[80];

	const struct thread *first = th->task->threads.data[0];

	/* One that has the very credentials of the first has its label. */
	if (!has_apparmor(d) || (th != first && th->insight.cred && th->insight.cred == first->insight.cred && !d->request->portable))
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/attr/apparmor/current", th->task->proc, th->tid);
	_cleanup_free_ char *label = read_label(path);
	if (!label)
		return task_errno(d, th->task, -errno, "cannot read the security label of thread %d", th->tid);
	c->lsm_profile = pool_copy(pool, label, strlen(label) + 1);
	return c->lsm_profile ? 0 : error_set(d->e, -ENOMEM, "out of memory");
}

/* ---- restore ---- */

static const char *label_of(const struct restore *s, const struct rtask *t, const struct rthread *th)
{
	const CredsEntry *c = th->core->thread_core->creds, *first = t->threads.data[0].core->thread_core->creds;

	return s->request->lsm_profile ? s->request->lsm_profile : c && c->lsm_profile ? c->lsm_profile : first ? first->lsm_profile : NULL;
}

static int plan_call(struct restore *s, struct batch *b, const char *command, size_t size)
{
	struct lsm_ctx_head head = { .id = LSM_ID_APPARMOR, .len = ALIGN_UP(sizeof(head) + size, 8), .ctx_len = size };
	char *at = arena_take(&s->arena, head.len);

	if (!at)
		return error_set(s->e, -ENOMEM, "out of memory");
	memcpy(at, &head, sizeof(head));
	memcpy(at + sizeof(head), command, size);
	OP(b, __NR_lsm_set_self_attr, LSM_ATTR_CURRENT, (uint64_t)at, head.len, 0);
	return 0;
}

/* A file that is opened at any number, so there must be a /proc where the thread is. */
static void plan_file(struct restore *s, struct batch *b, const char *command, size_t size)
{
	uint64_t fd = (uint64_t)(OP(b, __NR_openat, AT_FDCWD, arena_place(&s->arena, CURRENT_PATH, sizeof(CURRENT_PATH)), O_WRONLY | O_CLOEXEC) - b->ops.data);

	OP(b, __NR_write, fd, arena_place(&s->arena, command, size), size - 1)->flags |= AGENT_OP_REF_ARG0;
	OP(b, __NR_close, fd)->flags |= AGENT_OP_REF_ARG0;
}

int labels_plan(struct restore *s, struct rtask *t, struct rthread *th)
{
	const char *label = label_of(s, t, th);
	char command[sizeof(COMMAND) + LABEL_MAX];

	if (!label)
		return 0;
	if (!s->own.label) {
		const bool none = !strcmp(label, UNCONFINED) || s->request->lsm_profile;
		return none ? 0 : error_set(s->e, -ENOTSUP, "process %d ran under AppArmor's profile %s, and this kernel has no AppArmor; --lsm-profile apparmor:" UNCONFINED " does without",
					    t->pid, label);
	}
	if (!strcmp(label, s->own.label))
		return 0;
	const int length = snprintf(command, sizeof(command), COMMAND "%s", label);
	if (!label[0] || length >= (int)sizeof(command))
		return error_set(s->e, -EBADMSG, "the security label of thread %d can't be", th->tid);
	batch_what(&th->batch, "put thread %d under AppArmor's profile %s (see apparmor_parser)", th->tid, label);
	if (syscall(__NR_lsm_set_self_attr, 0, NULL, 0, 0) == 0 || errno != ENOSYS)
		return plan_call(s, &th->batch, command, (size_t)length + 1);
	plan_file(s, &th->batch, command, (size_t)length + 1);
	return 0;
}

void labels_read_own(struct own *own)
{
	own->label = read_label("/proc/self/attr/apparmor/current");
}
