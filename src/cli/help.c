/* Help and manual pages, made from a program's tables. See options.h. */
#include "cli/options.h"

static void put_form(FILE *f, const struct option_row *row, const char *dash)
{
	fprintf(f, "%s%s%s%s", dash, dash, row->kind == OPTION_BOOL && strncmp(row->name, "no-", 3) ? "[no-]" : "", row->name);
	if (option_takes_value(row))
		fprintf(f, " %s", row->argument);
	else if (row->argument)
		fprintf(f, "[=%s]", row->argument);
}

static void put_option(FILE *f, const struct option_row *row)
{
	char *form = NULL;
	size_t size = 0;
	FILE *text = open_memstream(&form, &size);

	if (!text)
		return;
	put_form(text, row, "-");
	fclose(text);
	if (row->letter)
		fprintf(f, "  -%c, %-30s", row->letter, form);
	else
		fprintf(f, "      %-30s", form);
	fprintf(f, "%s%s", strlen(form) >= 30 ? "\n                                    " : "", row->help);
	if (row->missing)
		fprintf(f, " (not yet%s%s)", row->accepted ? "; taken: " : "", row->accepted ? row->accepted : "");
	fputc('\n', f);
	free(form);
}

static void put_usage(FILE *f, const struct program *p, const struct verb *v)
{
	fprintf(f, "%s %s%s%s", p->name, v->name, *v->arguments ? " " : "", v->arguments);
}

static void put_verb(FILE *f, const struct verb *v)
{
	char left[80];

	snprintf(left, sizeof(left), "%s%s%s", v->name, *v->arguments ? " " : "", v->arguments);
	fprintf(f, "  %-28s %s%s\n", left, v->summary, v->missing ? " (not yet)" : "");
}

static bool begins_with(const char *name, const struct words *words)
{
	for (size_t i = 0; i < words->count; i++) {
		size_t length = strlen(words->data[i]);
		if (strncmp(name, words->data[i], length) || name[length] != ' ')
			return false;
		name += length + 1;
	}
	return words->count;
}

bool help_group(FILE *f, const struct program *p, const struct words *words)
{
	size_t found = 0;

	for (size_t i = 0; i < p->n_verbs; i++) {
		if (!begins_with(p->verbs[i].name, words))
			continue;
		if (!found++)
			fprintf(f, "Commands:\n");
		put_verb(f, &p->verbs[i]);
	}
	if (found)
		fprintf(f, "\nOptions of a command: %s COMMAND --help\n", p->name);
	return found;
}

static void print_verbs(FILE *f, const struct program *p)
{
	fprintf(f, "%s: %s\n\nUsage: %s COMMAND [OPTION…]\n\nCommands:\n", p->name, p->summary, p->name);
	for (size_t i = 0; i < p->n_verbs; i++)
		put_verb(f, &p->verbs[i]);
	fprintf(f, "\nOptions of all commands:\n");
	for (size_t i = 0; i < p->n_rows; i++)
		if (p->rows[i].verbs == ALL_VERBS)
			put_option(f, &p->rows[i]);
	fprintf(f, "\nOptions of a command: %s COMMAND --help\n", p->name);
}

void help_print(FILE *f, const struct program *p, const struct verb *verb)
{
	if (!verb) {
		print_verbs(f, p);
		return;
	}
	fprintf(f, "Usage: ");
	put_usage(f, p, verb);
	fprintf(f, " [OPTION…]\n%s%s\n\nOptions:\n", verb->summary, verb->missing ? " (not yet)" : "");
	for (size_t i = 0; i < p->n_rows; i++)
		if (option_belongs(p, verb, &p->rows[i]))
			put_option(f, &p->rows[i]);
}

/* Text for troff: dashes as the shell takes them, no line that begins with a request. */
static void put_troff(FILE *f, const char *text)
{
	for (; *text; text++) {
		if (*text == '-' || *text == '\\')
			fputc('\\', f);
		fputc(*text == '\\' ? 'e' : *text, f);
	}
}

static void put_troff_option(FILE *f, const struct option_row *row)
{
	fprintf(f, ".TP\n\\fB");
	if (row->letter)
		fprintf(f, "\\-%c\\fR, \\fB", row->letter);
	fprintf(f, "\\-\\-%s", row->kind == OPTION_BOOL && strncmp(row->name, "no-", 3) ? "\\fR[\\fBno\\-\\fR]\\fB" : "");
	put_troff(f, row->name);
	fprintf(f, "\\fR");
	if (row->argument) {
		fprintf(f, option_takes_value(row) ? " \\fI" : "[=\\fI");
		put_troff(f, row->argument);
		fprintf(f, "\\fR%s", option_takes_value(row) ? "" : "]");
	}
	fputc('\n', f);
	put_troff(f, row->help);
	fprintf(f, ".\n");
	if (row->missing) {
		fprintf(f, "Not there yet (");
		put_troff(f, row->missing);
		fprintf(f, "): refused");
		if (row->accepted)
			fprintf(f, ", other than \\fB%s\\fR", row->accepted);
		fprintf(f, ".\n");
	}
}

/* Which commands an option belongs to, where it is not all. */
static void put_troff_verbs(FILE *f, const struct program *p, const struct option_row *row)
{
	const char *between = "Of ";

	if (row->verbs == ALL_VERBS)
		return;
	for (size_t i = 0; i < p->n_verbs; i++)
		if (row->verbs >> i & 1) {
			fprintf(f, "%s\\fB", between);
			put_troff(f, p->verbs[i].name);
			fprintf(f, "\\fR");
			between = ", ";
		}
	fprintf(f, ".\n");
}

void help_manual(FILE *f, const struct program *p)
{
	fprintf(f, ".\\\" Made by `fermata manual %s`.\n.TH %s 1 \"\" \"fermata " FERMATA_VERSION "\"\n.SH NAME\n%s \\- ", p->name, p->name, p->name);
	put_troff(f, p->summary);
	fprintf(f, "\n.SH SYNOPSIS\n.B %s\n\\fICOMMAND\\fR [\\fIOPTION\\fR...]\n.SH DESCRIPTION\n%s.SH COMMANDS\n", p->name, p->description);
	for (size_t i = 0; i < p->n_verbs; i++) {
		const struct verb *v = &p->verbs[i];
		fprintf(f, ".TP\n\\fB");
		put_troff(f, v->name);
		fprintf(f, "\\fR \\fI");
		put_troff(f, v->arguments);
		fprintf(f, "\\fR\n");
		put_troff(f, v->summary);
		fprintf(f, ".\n");
		if (v->missing) {
			fprintf(f, "Not there yet: ");
			put_troff(f, v->missing);
			fprintf(f, ".\n");
		}
	}
	fprintf(f, ".SH OPTIONS\nLong options may be written with one dash, and as \\fB\\-\\-name=value\\fR. They may stand before or behind the command.\n");
	for (size_t i = 0; i < p->n_rows; i++) {
		put_troff_option(f, &p->rows[i]);
		put_troff_verbs(f, p, &p->rows[i]);
	}
}
