/* What Prometheus asks for: the text format 0.0.4. */
#include "daemon/daemon.h"

#include <malloc.h>

static void put(FILE *f, const char *name, const char *type, const char *help, double value)
{
	fprintf(f, "# HELP fermata_%s %s\n# TYPE fermata_%s %s\nfermata_%s %.15g\n", name, help, name, type, name, value);
}

static void put_jobs(FILE *f, struct daemon *d)
{
	static const char *const states[] = { "starting", "running", "halted", "upcoming" };
	struct checkpoint_list checkpoints = {};
	struct job_list jobs = {};
	struct error e = {};
	size_t counts[ARRAY_SIZE(states)] = {}, whole = 0;
	double bytes = 0, late = 0, missed = 0;

	if (store_list_jobs(d->store, &jobs, &e) == 0)
		for (size_t i = 0; i < jobs.count; i++) {
			if ((size_t)jobs.data[i].state < ARRAY_SIZE(states))
				counts[jobs.data[i].state]++;
			late = MAX(late, (double)job_late_ns(&jobs.data[i]) / 1e9);
			missed += (double)jobs.data[i].missed;
		}
	fprintf(f, "# HELP fermata_jobs Jobs by state\n# TYPE fermata_jobs gauge\n");
	for (size_t i = 0; i < ARRAY_SIZE(states); i++)
		fprintf(f, "fermata_jobs{state=\"%s\"} %zu\n", states[i], counts[i]);
	if (store_list_checkpoints(d->store, NULL, &checkpoints, &e) == 0)
		for (size_t i = 0; i < checkpoints.count; i++)
			if (checkpoints.data[i].state == CHECKPOINT_WHOLE) {
				whole++;
				bytes += (double)checkpoints.data[i].size;
			}
	put(f, "checkpoints", "gauge", "Checkpoints that are kept", (double)whole);
	put(f, "checkpoint_bytes", "gauge", "Their size together", bytes);
	put(f, "periodic_late_seconds", "gauge", "How late the latest of the periodic checkpoints is", late);
	put(f, "periodic_missed", "gauge", "Periodic checkpoints of these jobs that were left out, since an earlier one was late", missed);
	VEC_FREE(&jobs);
	VEC_FREE(&checkpoints);
}

char *metrics_text(struct daemon *d)
{
	const struct counters *c = &d->counters;
	char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return NULL;
	fprintf(f, "# HELP fermata_info The program\n# TYPE fermata_info gauge\nfermata_info{version=\"" FERMATA_VERSION "\"} 1\n");
	put(f, "start_time_seconds", "gauge", "When the daemon was started", (double)d->started_ns / 1e9);
	put(f, "requests_total", "counter", "Requests answered", (double)c->requests);
	put(f, "requests_failed_total", "counter", "Of these with an error", (double)c->refused);
	put(f, "jobs_started_total", "counter", "Jobs started", (double)c->started);
	put(f, "job_restarts_total", "counter", "Jobs restored after they failed", (double)c->restarts);
	put(f, "dumps_total", "counter", "Dumps that made a checkpoint", (double)c->dumps);
	put(f, "dumps_failed_total", "counter", "Dumps that failed", (double)c->dumps_failed);
	put(f, "dump_seconds_total", "counter", "Time that dumps took", (double)c->dump_us / 1e6);
	put(f, "dump_bytes_total", "counter", "Bytes that dumps wrote", (double)c->bytes_written);
	put(f, "restores_total", "counter", "Restores", (double)c->restores);
	put(f, "restores_failed_total", "counter", "Restores that failed", (double)c->restores_failed);
	put(f, "checkpoints_removed_total", "counter", "Checkpoints removed", (double)c->checkpoints_removed);
	put(f, "operations", "gauge", "Dumps under way", (double)c->operations);
	put(f, "attached", "gauge", "Clients attached to jobs", (double)c->attached);
	put(f, "heap_bytes", "gauge", "Memory in use by the daemon", (double)mallinfo2().uordblks);
	put_jobs(f, d);
	fclose(f);
	return text;
}
