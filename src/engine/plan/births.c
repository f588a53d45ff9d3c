/* See births.h. */
#include "engine/plan/births.h"

struct planner {
	struct births b;
	const struct birth_task *tasks;
	size_t count;
	pid_t external;
	struct error *e;
};

static int task_with_pid(const struct planner *p, pid_t pid)
{
	for (size_t i = 0; i < p->count; i++)
		if (p->tasks[i].pid == pid)
			return (int)i;
	return -1;
}

static int birth_with_pid(const struct planner *p, pid_t pid)
{
	for (size_t i = 0; i < p->b.count; i++)
		if (p->b.data[i].pid == pid)
			return (int)i;
	return -1;
}

static bool leads(const struct birth_task *t)
{
	return t->sid == t->pid;
}

/* The session that each must be born in: its own, or, for a leader, one that a child of it needs. 0: any. */
static int plan_needs(struct planner *p, pid_t *needs)
{
	for (size_t i = p->count; i-- > 0;) {
		const struct birth_task *t = &p->tasks[i];
		if (!leads(t))
			needs[i] = t->sid;
		if (t->parent < 0 || !needs[i])
			continue;
		const struct birth_task *parent = &p->tasks[t->parent];
		/* What the parent can't give from its own session, it may have from before it called setsid; unless the leader of
		 * that session can give it instead, or has gone. */
		if (leads(parent) && needs[i] != parent->sid && !needs[t->parent] &&
		    (task_with_pid(p, needs[i]) >= 0 || needs[i] == p->external)) {
			int leader = task_with_pid(p, needs[i]);
			bool above = needs[i] == p->external;
			for (int up = t->parent; up >= 0 && !above; up = p->tasks[up].parent)
				above = up == leader;
			if (above)
				needs[t->parent] = needs[i];
		}
	}
	return 0;
}

static struct birth *add(struct planner *p)
{
	return VEC_PUSH(&p->b);
}

static pid_t session_of(const struct planner *p, int birth)
{
	const struct birth *b = &p->b.data[birth];

	return b->task >= 0 ? p->tasks[b->task].sid : b->setsid ? b->pid : b->session_at_birth;
}

/* A helper with the pid of a session's leader that has gone. */
static int session_helper(struct planner *p, pid_t sid, int parent)
{
	int h = birth_with_pid(p, sid);

	if (h >= 0 && p->b.data[h].maker == parent)
		return h;
	if (h >= 0)
		return error_set(p->e, -ENOTSUP,
				 "session %d, whose leader has gone, has members with several parents, which can't be rebuilt", sid);
	struct birth *b = add(p);
	if (!b)
		return error_set(p->e, -ENOMEM, "out of memory");
	*b = (struct birth){ .pid = sid, .task = -1, .maker = parent, .reaper = parent, .setsid = true, .when = BIRTH_AFTER_SESSION };
	return (int)p->b.count - 1;
}

/* The leader lives elsewhere in the tree: it makes a helper (any pid), which makes the task and exits. */
static int orphan_by(struct planner *p, size_t i, int leader)
{
	struct birth *h = add(p);

	if (!h)
		return error_set(p->e, -ENOMEM, "out of memory");
	*h = (struct birth){ .pid = 0, .task = -1, .maker = leader, .reaper = leader, .when = BIRTH_AFTER_SESSION,
			     .session_at_birth = p->tasks[i].sid };
	/* Between the leader and the parent there must be no other that catches it. */
	int up = p->tasks[leader].parent;
	while (up >= 0 && up != p->tasks[i].parent)
		up = p->tasks[up].parent;
	if (up < 0)
		return error_set(p->e, -ENOTSUP, "process %d is in session %d, which is not among its ancestors', and can't be rebuilt",
				 p->tasks[i].pid, p->tasks[i].sid);
	p->b.data[p->tasks[i].parent].subreaper = true;
	p->b.data[i].orphan = true;
	return (int)p->b.count - 1;
}

static int plan_one(struct planner *p, size_t i, const pid_t *needs)
{
	const struct birth_task *t = &p->tasks[i];
	struct birth *b = &p->b.data[i];
	int parent = t->parent, leader;
	pid_t need = needs[i];

	b->session_at_birth = need;
	b->maker = parent;
	b->when = BIRTH_AFTER_SESSION;
	if (parent < 0) {
		if (need && need != p->external)
			return error_set(p->e, -ENOTSUP, "the session %d of process %d has its leader outside the tree; use --shell-job", need,
					 t->pid);
		return 0;
	}
	if (!need || need == session_of(p, parent))
		return 0;
	if (need == p->b.data[parent].session_at_birth) {
		b->when = BIRTH_BEFORE_SESSION;
		return 0;
	}
	leader = task_with_pid(p, need);
	if (leader >= 0 && p->tasks[leader].parent == parent) {
		b->maker = leader;
		b->clone_parent = true;
		return 0;
	}
	int maker = leader >= 0 ? orphan_by(p, i, leader) : session_helper(p, need, parent);
	b = &p->b.data[i];
	if (maker < 0)
		return maker;
	b->maker = maker;
	b->clone_parent = leader < 0;
	if (t->late && leader < 0)
		p->b.data[maker].late = true;
	return 0;
}

/* `leader` once led the group, has left it, and others have stayed: it leads it again until they are in. */
static int plan_left_group(struct planner *p, size_t i, int leader)
{
	const struct birth_task *t = &p->tasks[leader];

	if (t->sid == p->external && t->pgid == p->tasks[0].pgid && task_with_pid(p, t->pgid) < 0)
		return error_set(p->e, -ENOTSUP, "process %d has left its process group for that of the caller, and process %d has stayed; that can't be rebuilt",
				 t->pid, p->tasks[i].pid);
	p->b.data[leader].setpgid = true;
	p->b.data[leader].join_last = true;
	return 0;
}

static int plan_group(struct planner *p, size_t i)
{
	const struct birth_task *t = &p->tasks[i];
	struct birth *b = &p->b.data[i];

	b->setsid = leads(t);
	if (!b->setsid && t->pgid == t->pid)
		b->setpgid = true;
	if (t->pgid == t->pid)
		return 0;
	int leader = task_with_pid(p, t->pgid);
	if (t->sid == p->external && leader < 0 && t->pgid == p->tasks[0].pgid)
		return 0; /* the coordinator's own */
	b->join = t->pgid;
	if (leader >= 0 && p->tasks[leader].sid != t->sid)
		return error_set(p->e, -ENOTSUP, "process %d is in process group %d, whose leader is in another session", t->pid, t->pgid);
	if (leader >= 0)
		return p->tasks[leader].pgid == t->pgid ? 0 : plan_left_group(p, i, leader);
	if (birth_with_pid(p, t->pgid) >= 0)
		return 0;
	struct birth *h = add(p);
	if (!h)
		return error_set(p->e, -ENOMEM, "out of memory");
	*h = (struct birth){ .pid = t->pgid, .task = -1, .maker = (int)i, .reaper = (int)i, .setpgid = true,
			     .when = BIRTH_AFTER_SESSION, .session_at_birth = t->sid };
	return 0;
}

/* Those who join last go in any order: there must be someone in each group by then who stays. */
static int check_last(struct planner *p)
{
	for (size_t i = 0; i < p->count; i++) {
		const struct birth *b = &p->b.data[i];
		bool stays = !b->join_last;
		for (size_t k = 0; k < p->b.count && !stays; k++) {
			const struct birth *other = &p->b.data[k];
			stays = !other->join_last && (other->join == b->join || other->pid == b->join);
		}
		if (!stays)
			return error_set(p->e, -ENOTSUP, "processes %d and %d have each left their process group for the other's, which can't be rebuilt",
					 b->pid, b->join);
	}
	return 0;
}

int births_plan(struct births *ret, const struct birth_task *tasks, size_t count, pid_t external, struct error *e)
{
	struct planner p = { .tasks = tasks, .count = count, .external = external, .e = e };
	_cleanup_free_ pid_t *needs = calloc(count, sizeof(*needs));
	int r = needs ? 0 : error_set(e, -ENOMEM, "out of memory");

	for (size_t i = 0; !r && i < count; i++) {
		struct birth *b = add(&p);
		if (!b)
			r = error_set(e, -ENOMEM, "out of memory");
		else
			*b = (struct birth){ .pid = tasks[i].pid, .task = (int)i, .late = tasks[i].late };
	}
	if (!r)
		r = plan_needs(&p, needs);
	for (size_t i = 0; !r && i < count; i++)
		r = plan_one(&p, i, needs);
	for (size_t i = 0; !r && i < count; i++)
		r = plan_group(&p, i);
	if (!r)
		r = check_last(&p);
	if (r) {
		births_free(&p.b);
		return r;
	}
	*ret = p.b;
	return 0;
}

bool births_from_parent(const struct births *b, const struct birth_task *tasks, size_t task)
{
	int maker = b->data[task].maker;

	if (maker < 0)
		return false;
	if (b->data[maker].task < 0 && b->data[maker].setsid)
		maker = b->data[maker].maker;
	return maker == tasks[task].parent;
}

bool births_by_parent(const struct births *b, const struct birth_task *tasks, size_t task)
{
	return b->data[task].maker >= 0 && b->data[task].maker == tasks[task].parent && !b->data[task].clone_parent;
}

void births_free(struct births *b)
{
	VEC_FREE(b);
}
