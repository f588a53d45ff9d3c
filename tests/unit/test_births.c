/*
 * The plan of births: what it says is acted out here, on paper, and every process must come out with the parent, the session
 * and the group that it had. The trees are drawn by hand, and grown by random fork, setsid, setpgid and exit.
 */
#include "engine/plan/births.h"

#define TASKS_MAX 40
#define GROWN 20000

static int failures;

static void check(const char *name, bool good)
{
	printf(good ? "ok %s\n" : "not ok %s: see tests/unit/test_births.c\n", name);
	failures += !good;
}

/* ---- acting out ---- */

struct stage {
	const struct births *b;
	const struct birth_task *tasks;
	size_t count;
	pid_t external;
	pid_t *session; /* of each birth, once it is through; 0: not born */
	int *parent;	/* of each birth, an index of births; -1: the coordinator */
};

static bool be_born(struct stage *s, int i, pid_t session)
{
	const struct birth *b = &s->b->data[i];

	if (s->session[i])
		return false; /* born twice */
	s->session[i] = session;
	s->parent[i] = b->clone_parent ? (b->maker < 0 ? -2 : s->parent[b->maker]) : b->maker;
	if (b->session_at_birth && b->session_at_birth != session)
		return false;
	for (int when = BIRTH_BEFORE_SESSION; when <= BIRTH_AFTER_SESSION; when++) {
		if (when == BIRTH_AFTER_SESSION && b->setsid)
			s->session[i] = b->pid;
		for (size_t k = 0; k < s->b->count; k++)
			if (s->b->data[k].maker == i && (int)s->b->data[k].when == when && !be_born(s, (int)k, s->session[i]))
				return false;
	}
	return true;
}

/* Who takes a child whose maker exits: the next above that is a subreaper while it is being built. */
static int catcher(const struct stage *s, int maker)
{
	int up = s->parent[maker];

	while (up >= 0 && !s->b->data[up].subreaper)
		up = s->parent[up];
	return up;
}

static const char *check_task(const struct stage *s, size_t i)
{
	const struct birth_task *t = &s->tasks[i];
	const struct birth *b = &s->b->data[i];
	int parent = b->orphan ? catcher(s, b->maker) : s->parent[i];

	if (b->task != (int)i || b->pid != t->pid)
		return "the tasks do not come first";
	if (!s->session[i])
		return "a task is not born";
	if (s->session[i] != t->sid)
		return "a task is in another session";
	if (parent != t->parent)
		return "a task has another parent";
	if (b->setsid != (t->sid == t->pid) || (b->setsid && b->setpgid))
		return "setsid by the wrong one";
	if (b->orphan && s->b->data[b->maker].task >= 0)
		return "the maker of an orphan is to stay";
	bool own = t->pgid == t->pid;
	if ((own && (!(b->setsid || b->setpgid) || b->join)) || (!own && (b->setsid || b->setpgid) != b->join_last))
		return "a group's leader does not lead it";
	if (own || (!b->join && t->sid == s->external))
		return NULL;
	for (size_t k = 0; k < s->b->count; k++) {
		const struct birth *leader = &s->b->data[k];
		if (leader->pid == b->join && (leader->setsid || leader->setpgid))
			return b->join == t->pgid && s->session[k] == t->sid ? NULL : "it is to join a group of another session";
	}
	return "there is no group to join";
}

static const char *check_helper(const struct stage *s, size_t i)
{
	const struct birth *b = &s->b->data[i];

	if (b->task != -1 || b->maker < 0 || b->join)
		return "what is no task is no helper either";
	if (!s->session[i])
		return "a helper is not born";
	if (b->reaper != s->parent[i])
		return "a helper is reaped by one who is not its parent";
	for (size_t k = 0; b->pid && k < i; k++)
		if (s->b->data[k].pid == b->pid)
			return "a helper takes the pid of another";
	return NULL;
}

/* What is wrong with a plan, or NULL. */
static const char *act_out(const struct births *b, const struct birth_task *tasks, size_t count, pid_t external)
{
	pid_t session[4 * TASKS_MAX] = {};
	int parent[4 * TASKS_MAX] = {};
	struct stage s = { b, tasks, count, external, session, parent };
	const char *why = NULL;

	if (b->count < count || b->count > ARRAY_SIZE(session))
		return "there are too few births, or too many";
	if (!be_born(&s, 0, external ? external : 1))
		return "a task is born twice, or in another session than planned";
	for (size_t i = 0; i < b->count && !why; i++)
		why = i < count ? check_task(&s, i) : check_helper(&s, i);
	return why;
}

/* 1: refused, with a text; 0: planned, and it comes out as it was; -1: neither. */
static int plan(const struct birth_task *tasks, size_t count, pid_t external)
{
	struct births b = {};
	struct error e = {};
	int r = births_plan(&b, tasks, count, external, &e);

	if (r)
		return r == -ENOTSUP && e.text[0] && e.code == r && !b.data ? 1 : -1;
	const char *why = act_out(&b, tasks, count, external);
	if (why) {
		fprintf(stderr, "%s:\n", why);
		for (size_t i = 0; i < count; i++)
			fprintf(stderr, "\t%zu: pid %d parent %d sid %d pgid %d\n", i, tasks[i].pid, tasks[i].parent, tasks[i].sid,
				tasks[i].pgid);
	}
	births_free(&b);
	return why ? -1 : 0;
}

/* ---- by hand ---- */

#define TREE(name, want, external, ...) \
	do { \
		static const struct birth_task tasks[] = { __VA_ARGS__ }; \
		check(name, plan(tasks, ARRAY_SIZE(tasks), external) == (want)); \
	} while (0)
#define TASK(pid, parent, sid, pgid) { pid, pgid, sid, parent, false }

static void by_hand(void)
{
	TREE("alone", 0, 0, TASK(10, -1, 10, 10));
	TREE("children", 0, 0, TASK(10, -1, 10, 10), TASK(11, 0, 10, 10), TASK(12, 1, 10, 10));
	TREE("group", 0, 0, TASK(10, -1, 10, 10), TASK(11, 0, 10, 11), TASK(12, 0, 10, 11), TASK(13, 1, 10, 11));
	TREE("group of a younger sibling", 0, 0, TASK(10, -1, 10, 10), TASK(11, 0, 10, 12), TASK(12, 0, 10, 12));
	TREE("group whose leader has gone", 0, 0, TASK(10, -1, 10, 10), TASK(12, 0, 10, 11), TASK(13, 0, 10, 11));
	TREE("group that its leader has left", 0, 0, TASK(10, -1, 10, 10), TASK(11, 0, 10, 10), TASK(12, 0, 10, 11));
	TREE("groups left for each other", 1, 0, TASK(10, -1, 10, 10), TASK(11, 0, 10, 12), TASK(12, 0, 10, 11));
	TREE("session", 0, 0, TASK(10, -1, 10, 10), TASK(11, 0, 11, 11), TASK(12, 1, 11, 11));
	TREE("child from before setsid", 0, 0, TASK(10, -1, 10, 10), TASK(11, 0, 11, 11), TASK(12, 1, 10, 10));
	TREE("children from before and after setsid", 0, 0, TASK(10, -1, 10, 10), TASK(11, 0, 11, 11), TASK(12, 1, 10, 10),
	     TASK(13, 1, 11, 11), TASK(14, 2, 10, 10));
	TREE("session whose leader has gone", 0, 0, TASK(10, -1, 10, 10), TASK(12, 0, 11, 11), TASK(13, 0, 11, 11), TASK(14, 1, 11, 11));
	TREE("session of a sibling", 0, 0, TASK(10, -1, 10, 10), TASK(11, 0, 11, 11), TASK(12, 0, 11, 11));
	TREE("orphan of a deeper session", 0, 0, TASK(10, -1, 10, 10), TASK(11, 0, 10, 10), TASK(12, 1, 12, 12), TASK(13, 0, 12, 12));
	TREE("external session", 0, 5, TASK(10, -1, 5, 5), TASK(11, 0, 5, 5), TASK(12, 0, 12, 12));
	TREE("external session, group of its own", 0, 5, TASK(10, -1, 5, 10), TASK(11, 0, 5, 10), TASK(12, 0, 12, 12), TASK(13, 2, 5, 10));
	TREE("external session not given", 1, 0, TASK(10, -1, 5, 5));
	TREE("gone leader, several parents", 1, 0, TASK(10, -1, 10, 10), TASK(11, 0, 10, 10), TASK(13, 0, 12, 12), TASK(14, 1, 12, 12));
	TREE("session of a stranger", 1, 0, TASK(10, -1, 10, 10), TASK(11, 0, 11, 11), TASK(12, 0, 10, 10), TASK(13, 2, 11, 11));
}

/* ---- grown ---- */

struct grown {
	struct birth_task tasks[TASKS_MAX];
	bool gone[TASKS_MAX];
	size_t count;
	pid_t next, external;
};

static uint64_t chance = 1;

static size_t pick(size_t n)
{
	chance ^= chance << 13;
	chance ^= chance >> 7;
	chance ^= chance << 17;
	return (size_t)(chance >> 11) % n;
}

static void end_task(struct grown *g, size_t i)
{
	g->gone[i] = true;
	for (size_t k = 0; k < g->count; k++)
		if (!g->gone[k] && g->tasks[k].parent == (int)i)
			g->tasks[k].parent = 0; /* the root is a subreaper */
}

static bool group_exists(const struct grown *g, pid_t pgid)
{
	for (size_t i = 0; i < g->count; i++)
		if (!g->gone[i] && g->tasks[i].pgid == pgid)
			return true;
	return false;
}

static void grow_step(struct grown *g)
{
	size_t i = pick(g->count), other = pick(g->count);
	struct birth_task *t = &g->tasks[i];

	if (g->gone[i])
		return;
	switch (pick(8)) {
	default:
		if (g->count == TASKS_MAX)
			return;
		g->tasks[g->count] = (struct birth_task){ .pid = g->next++, .pgid = t->pgid, .sid = t->sid, .parent = (int)i };
		g->count++;
		break;
	case 4:
		if (i && !group_exists(g, t->pid))
			t->sid = t->pgid = t->pid;
		break;
	case 5:
		if (t->sid != t->pid)
			t->pgid = t->pid;
		break;
	case 6: /* into the group of another of its session */
		if (t->sid != t->pid && !g->gone[other] && g->tasks[other].sid == t->sid)
			t->pgid = g->tasks[other].pgid;
		break;
	case 7:
		if (i)
			end_task(g, i);
	}
}

/* Those that are left, in the order in which dump lists them: a parent before its children. */
static size_t survivors(const struct grown *g, struct birth_task *to)
{
	size_t count = 1, from[TASKS_MAX] = {};

	to[0] = g->tasks[0];
	for (size_t at = 0; at < count; at++)
		for (size_t i = 1; i < g->count; i++)
			if (!g->gone[i] && g->tasks[i].parent == (int)from[at]) {
				from[count] = i;
				to[count] = g->tasks[i];
				to[count++].parent = (int)at;
			}
	return count;
}

static void grown(bool with_external)
{
	int planned = 0, refused = 0, wrong = 0;

	for (int round = 0; round < GROWN && wrong < 5; round++) {
		struct birth_task tasks[TASKS_MAX];
		struct grown g = { .count = 1, .next = 11, .external = with_external ? 5 : 0 };
		pid_t first = with_external ? 5 : 10;
		g.tasks[0] = (struct birth_task){ .pid = 10, .sid = first, .pgid = with_external && pick(2) ? 10 : first, .parent = -1 };
		for (size_t steps = 2 + pick(60); steps; steps--)
			grow_step(&g);
		int r = plan(tasks, survivors(&g, tasks), g.external);
		planned += r == 0;
		refused += r == 1;
		wrong += r < 0;
	}
	fprintf(stderr, "%s: %d planned, %d refused, %d wrong\n", with_external ? "external" : "own session", planned, refused, wrong);
	check(with_external ? "grown in an external session" : "grown in a session of its own", !wrong && planned > GROWN / 2);
}

int main(void)
{
	by_hand();
	grown(false);
	grown(true);
	return failures != 0;
}
