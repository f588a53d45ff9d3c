/*
 * Credentials of a thread: ids, groups, capability sets, securebits, no_new_privs. From /proc/PID/task/TID/status and, for
 * securebits, from the thread itself. See credentials(7), capabilities(7).
 */
#include "engine/task/labels.h"
#include "engine/task/state.h"

#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>

static uint32_t *caps_copy(struct pool *pool, uint64_t set)
{
	return pool_copy(pool, &set, sizeof(set));
}

int creds_capture(struct dump *d, struct thread *th, struct pool *pool, ThreadCoreEntry *core)
{
	const struct proc_status *s = thread_status(th);
	CredsEntry *c = POOL_NEW(pool, CredsEntry, creds_entry__init);

	if (!c)
		return error_set(d->e, -ENOMEM, "out of memory");
	c->uid = s->uid[0];
	c->euid = s->uid[1];
	c->suid = s->uid[2];
	c->fsuid = s->uid[3];
	c->gid = s->gid[0];
	c->egid = s->gid[1];
	c->sgid = s->gid[2];
	c->fsgid = s->gid[3];
	c->cap_inh = caps_copy(pool, s->cap_inh);
	c->cap_prm = caps_copy(pool, s->cap_prm);
	c->cap_eff = caps_copy(pool, s->cap_eff);
	c->cap_bnd = caps_copy(pool, s->cap_bnd);
	c->n_cap_inh = c->n_cap_prm = c->n_cap_eff = c->n_cap_bnd = 2;
	if (s->cap_amb) {
		c->cap_amb = caps_copy(pool, s->cap_amb);
		c->n_cap_amb = 2;
	}
	c->groups = pool_copy(pool, s->groups, s->n_groups * sizeof(uint32_t));
	c->n_groups = s->n_groups;
	c->secbits = (uint32_t)th->answers.securebits;
	c->has_no_new_privs = c->no_new_privs = s->no_new_privs != 0;
	core->creds = c;
	return c->groups ? labels_capture(d, th, pool, c) : error_set(d->e, -ENOMEM, "out of memory");
}

static uint64_t caps_get(size_t n, const uint32_t *words)
{
	return (n > 0 ? words[0] : 0) | (n > 1 ? (uint64_t)words[1] << 32 : 0);
}

static void plan_capset(struct restore *s, struct batch *b, uint64_t eff, uint64_t prm, uint64_t inh)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct caps[2] = { { (uint32_t)eff, (uint32_t)prm, (uint32_t)inh },
						  { (uint32_t)(eff >> 32), (uint32_t)(prm >> 32), (uint32_t)(inh >> 32) } };

	OP(b, __NR_capset, arena_place(&s->arena, &head, sizeof(head)), arena_place(&s->arena, caps, sizeof(caps)));
}

static bool same_groups(const struct proc_status *ours, const CredsEntry *c)
{
	return c->n_groups == ours->n_groups && (!c->n_groups || !memcmp(c->groups, ours->groups, c->n_groups * sizeof(uint32_t)));
}

/* Nothing is to be set then: it is born with them. */
static bool are_ours(const struct proc_status *ours, uint32_t securebits, const CredsEntry *c, const uint64_t caps[5])
{
	const uint32_t uid[4] = { c->uid, c->euid, c->suid, c->fsuid }, gid[4] = { c->gid, c->egid, c->sgid, c->fsgid };

	return !memcmp(uid, ours->uid, sizeof(uid)) && !memcmp(gid, ours->gid, sizeof(gid)) && same_groups(ours, c) && caps[0] == ours->cap_eff &&
	       caps[1] == ours->cap_prm && caps[2] == ours->cap_inh && caps[3] == ours->cap_bnd && caps[4] == ours->cap_amb &&
	       c->secbits == securebits && (uint32_t)c->no_new_privs == ours->no_new_privs;
}

static bool are_effective(const struct restore *s, const CredsEntry *c)
{
	const struct proc_status *ours = &s->own.status;

	return c->euid == ours->uid[1] && c->egid == ours->gid[1] && c->fsuid == ours->uid[3] && c->fsgid == ours->gid[3] && same_groups(ours, c) &&
	       caps_get(c->n_cap_eff, c->cap_eff) == ours->cap_eff;
}

int creds_plan_effective(struct restore *s, struct rtask *t, struct batch *b)
{
	const CredsEntry *c = t->threads.data[0].core->thread_core->creds;
	const struct proc_status *ours = &s->own.status;

	if (!c)
		return error_set(s->e, -EBADMSG, "core-%d.img has no credentials", t->pid);
	if (are_effective(s, c))
		return 0;
	batch_what(b, "set the effective credentials of process %d", t->pid);
	if (!same_groups(ours, c))
		OP(b, __NR_setgroups, c->n_groups, arena_place(&s->arena, c->groups, c->n_groups * sizeof(uint32_t)));
	OP(b, __NR_setresgid, -1, c->egid, -1);
	OP(b, __NR_setresuid, -1, c->euid, -1);
	OP_MAY_FAIL(b, __NR_setfsgid, c->fsgid);
	OP_MAY_FAIL(b, __NR_setfsuid, c->fsuid);
	plan_capset(s, b, caps_get(c->n_cap_eff, c->cap_eff) & ours->cap_prm, ours->cap_prm, ours->cap_inh);
	return 0;
}

void creds_plan_own(struct restore *s, struct rtask *t, struct batch *b)
{
	const CredsEntry *c = t->threads.data[0].core->thread_core->creds;
	const struct proc_status *ours = &s->own.status;

	if (are_effective(s, c))
		return;
	batch_what(b, "take back the effective credentials of process %d", t->pid);
	OP(b, __NR_setresuid, -1, ours->uid[1], -1);
	plan_capset(s, b, ours->cap_eff, ours->cap_prm, ours->cap_inh);
	OP(b, __NR_setresgid, -1, ours->gid[1], -1);
	if (!same_groups(ours, c))
		OP(b, __NR_setgroups, ours->n_groups, arena_place(&s->arena, ours->groups, ours->n_groups * sizeof(uint32_t)));
	/* Which such changes take away. */
	OP(b, __NR_prctl, PR_SET_PDEATHSIG, SIGKILL);
}

int creds_plan(struct restore *s, struct rtask *t, struct rthread *th)
{
	const CredsEntry *c = th->core->thread_core->creds;
	struct batch *b = &th->batch;
	const struct proc_status *ours = &s->own.status;

	if (!c)
		return error_set(s->e, -EBADMSG, "core-%d.img has no credentials", th->tid);
	uint64_t eff = caps_get(c->n_cap_eff, c->cap_eff), prm = caps_get(c->n_cap_prm, c->cap_prm);
	uint64_t inh = caps_get(c->n_cap_inh, c->cap_inh), bnd = caps_get(c->n_cap_bnd, c->cap_bnd);
	uint64_t amb = caps_get(c->n_cap_amb, c->cap_amb);
	if (are_ours(ours, s->own.securebits, c, (uint64_t[]){ eff, prm, inh, c->n_cap_bnd == 2 ? bnd : ours->cap_bnd, amb }))
		return 0;
	/* While it still has all: inheritable ones that the bounding set will not allow any more. */
	batch_what(b, "set the capabilities of thread %d", th->tid);
	plan_capset(s, b, ours->cap_prm, ours->cap_prm, inh);
	for (uint64_t cap = 0; cap <= CAP_LAST_CAP && c->n_cap_bnd == 2; cap++)
		if (!(bnd & (1ULL << cap))) {
			batch_what(b, "drop capability %d of thread %d", (int)cap, th->tid);
			if (ours->cap_bnd & (1ULL << cap))
				OP(b, __NR_prctl, PR_CAPBSET_DROP, cap);
		}
	batch_what(b, "set the credentials of thread %d", th->tid);
	/* Not to lose capabilities with the uid, which the securebits are set with after it. */
	if (c->uid || c->euid || c->suid)
		OP(b, __NR_prctl, PR_SET_KEEPCAPS, 1);
	if (!same_groups(ours, c)) /* which not everybody may set */
		OP(b, __NR_setgroups, c->n_groups, arena_place(&s->arena, c->groups, c->n_groups * sizeof(uint32_t)));
	OP(b, __NR_setresgid, c->gid, c->egid, c->sgid);
	OP(b, __NR_setresuid, c->uid, c->euid, c->suid);
	if (c->uid || c->euid || c->suid)
		OP(b, __NR_prctl, PR_SET_KEEPCAPS, 0);
	OP_MAY_FAIL(b, __NR_setfsgid, c->fsgid);
	OP_MAY_FAIL(b, __NR_setfsuid, c->fsuid);
	batch_what(b, "set the capabilities of thread %d", th->tid);
	uint64_t setpcap = ours->cap_prm & (1ULL << CAP_SETPCAP); /* for the securebits, to the last */
	plan_capset(s, b, prm | setpcap, prm | setpcap, inh);
	for (uint64_t cap = 0; cap <= CAP_LAST_CAP; cap++)
		if (amb & (1ULL << cap))
			OP(b, __NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap);
	if (c->secbits) {
		batch_what(b, "set the securebits of thread %d", th->tid);
		OP(b, __NR_prctl, PR_SET_SECUREBITS, c->secbits);
	}
	batch_what(b, "set the capabilities of thread %d", th->tid);
	plan_capset(s, b, eff, prm, inh);
	if (c->no_new_privs)
		OP(b, __NR_prctl, PR_SET_NO_NEW_PRIVS, 1);
	return 0;
}
