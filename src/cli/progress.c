/*
 * How far a dump or restore is, on a terminal, once it takes over a second: a bar, bytes, rate and time left in one line of stderr that is
 * gone at the end. And where its time went (--profiling), at the end.
 */
#include "cli/cli.h"

#include <jansson.h>
#include <sys/ioctl.h>

#define SHOW_NS 1000000000ULL
#define BAR_MAX 24

struct amount {
	char text[32];
};

static struct amount bytes_text(double bytes)
{
	static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB", "PiB" };
	struct amount a;
	size_t i = 0;

	for (; bytes >= 1024 && i + 1 < ARRAY_SIZE(units); i++)
		bytes /= 1024;
	snprintf(a.text, sizeof(a.text), i ? "%.1f %s" : "%.0f %s", bytes, units[i]);
	return a;
}

static struct amount left_text(double seconds)
{
	struct amount a;

	if (seconds < 60)
		snprintf(a.text, sizeof(a.text), "%.0f s left", seconds);
	else
		snprintf(a.text, sizeof(a.text), "%.0f:%02.0f min left", (seconds - 30) / 60, (double)((long)seconds % 60));
	return a;
}

static unsigned terminal_width(void)
{
	struct winsize size;

	return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col ? size.ws_col : 80;
}

static void show(void *data, const struct request_progress *p)
{
	struct progress_bar *bar = data;
	char line[256], filled[BAR_MAX + 1];
	double seconds = (double)p->elapsed_ns / 1e9, rate = (double)p->done / seconds;

	if (p->elapsed_ns < SHOW_NS)
		return;
	size_t length = 0;
	if (p->total) {
		size_t width = MIN(terminal_width() / 4, BAR_MAX), part = (size_t)((double)width * (double)MIN(p->done, p->total) / (double)p->total);
		memset(filled, '#', part);
		memset(filled + part, '.', width - part);
		filled[width] = '\0';
		length = (size_t)snprintf(line, sizeof(line), "%-8s [%s] %s of %s", p->stage, filled, bytes_text((double)p->done).text,
					  bytes_text((double)p->total).text);
	} else {
		length = (size_t)snprintf(line, sizeof(line), "%-8s", p->stage);
	}
	if (p->done && length < sizeof(line))
		length += (size_t)snprintf(line + length, sizeof(line) - length, ", %s/s", bytes_text(rate).text);
	if (p->done && p->done < p->total && length < sizeof(line))
		length += (size_t)snprintf(line + length, sizeof(line) - length, ", %s", left_text((double)(p->total - p->done) / rate).text);
	dprintf(STDERR_FILENO, "\r%.*s\033[K", (int)terminal_width() - 1, line);
	bar->shown = true;
}

/* One write(2), so that lines of other threads do not come in between. Nobody may listen any more: SIGPIPE is blocked in the thread that calls. */
static void tell(void *data, const struct request_progress *p)
{
	char line[256];
	int n = snprintf(line, sizeof(line), "{\"event\":\"progress\",\"stage\":\"%s\",\"elapsed_ns\":%llu,\"done\":%llu,\"total\":%llu}\n", p->stage,
			 (unsigned long long)p->elapsed_ns, (unsigned long long)p->done, (unsigned long long)p->total);

	if (write(STDOUT_FILENO, line, (size_t)n) < 0)
		return;
}

bool progress_wanted(const struct command_line *c)
{
	return !c->quiet && c->program->strict && isatty(STDERR_FILENO);
}

void progress_show(struct command_line *c, const struct request_progress *p)
{
	show(&c->bar, p);
}

void progress_begin(struct command_line *c)
{
	if (c->events)
		c->request.progress = (struct request_watcher){ tell, NULL };
	else if (progress_wanted(c))
		c->request.progress = (struct request_watcher){ show, &c->bar };
	if (c->profiling || c->program->configured)
		c->request.profile = &c->profile;
}

void progress_end(struct command_line *c)
{
	if (c->bar.shown)
		dprintf(STDERR_FILENO, "\r\033[K");
	c->bar.shown = false;
}

static double milliseconds(uint64_t ns)
{
	return (double)ns / 1e6;
}

json_t *profile_json(const struct command_line *c, bool dump)
{
	const struct profile *p = &c->profile;
	json_t *stages = json_array(), *root;

	if (!c->profiling) {
		json_decref(stages);
		return NULL;
	}
	for (size_t i = 0; i < p->count; i++)
		json_array_append_new(stages, json_pack("{s:s, s:I}", "stage", p->stages[i].name, "ns", (json_int_t)p->stages[i].ns));
	root = json_pack("{s:o, s:I}", "stages", stages, "total_ns", (json_int_t)p->total_ns);
	if (dump && root) {
		json_object_set_new(root, "pause_ns", json_integer((json_int_t)p->pause_ns));
		json_object_set_new(root, "pages_written", json_integer((json_int_t)(p->pages_written + p->shared_written)));
		json_object_set_new(root, "bytes", json_integer((json_int_t)p->bytes));
	} else if (root) {
		json_object_set_new(root, "pages_restored", json_integer((json_int_t)p->pages_restored));
	}
	return root;
}

static void tell_profile(const struct command_line *c, bool dump)
{
	json_t *event = profile_json(c, dump);
	char *line = event && !json_object_set_new(event, "event", json_string("profile")) ? json_dumps(event, JSON_COMPACT) : NULL;

	if (line)
		printf("%s\n", line);
	free(line);
	json_decref(event);
}

void profile_print(const struct command_line *c, bool dump)
{
	const struct profile *p = &c->profile;

	if (!c->profiling || !p->count)
		return;
	if (c->events) {
		tell_profile(c, dump);
		return;
	}
	printf("%-10s%12s  %s\n", "STAGE", "TIME", "PART");
	for (size_t i = 0; i < p->count; i++)
		printf("%-10s%9.3f ms  %3.0f%%\n", p->stages[i].name, milliseconds(p->stages[i].ns),
		       100.0 * (double)p->stages[i].ns / (double)MAX(p->total_ns, 1UL));
	if (dump)
		printf("%-10s%9.3f ms  (the program stood still)\n", "pause", milliseconds(p->pause_ns));
	printf("%-10s%9.3f ms\n", "total", milliseconds(p->total_ns));
}

static uint64_t number(const json_t *document, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(document, key));
}

void profile_take(struct command_line *c, const json_t *document)
{
	const json_t *stages = json_object_get(document, "stages");
	struct profile *p = &c->profile;

	*p = (struct profile){ .total_ns = number(document, "total_ns"), .pause_ns = number(document, "pause_ns"), .bytes = number(document, "bytes"),
			       .pages_written = number(document, "pages_written"), .pages_restored = number(document, "pages_restored") };
	for (size_t i = 0; i < MIN(json_array_size(stages), (size_t)PROFILE_STAGES_MAX); i++) {
		const json_t *one = json_array_get(stages, i);
		const char *name = json_string_value(json_object_get(one, "stage"));
		p->stages[p->count++] = (struct profile_stage){ name ? name : "", number(one, "ns") };
	}
	/* The daemon may print it by its own settings. */
	c->profiling |= p->count > 0;
}
