/* Help and manual pages, made from a program's tables. See options.h. */
#include "cli/options.h"

#include <ctype.h>

#define COMMON_VERBS 24

static void put_form(FILE *f, const struct option_row *row, const char *dash)
{
	fprintf(f, "%s%s%s%s", dash, dash, row->kind == OPTION_BOOL && strncmp(row->name, "no-", 3) ? "[no-]" : "", row->name);
	if (option_takes_value(row))
		fprintf(f, " %s", row->argument);
	else if (row->argument)
		fprintf(f, "[=%s]", row->argument);
}

/* Of nearly all verbs: it stands behind those that are a verb's own. */
static bool is_common(const struct option_row *row)
{
	return __builtin_popcountll(row->verbs) > COMMON_VERBS;
}

/* The letter as this verb has it, which may be another option's elsewhere. */
static char letter_of(const struct program *p, const struct verb *v, const struct option_row *row)
{
	return row->letter && option_find_letter(p, v, row->letter) == row ? row->letter : 0;
}

static void put_option(FILE *f, const struct program *p, const struct verb *v, const struct option_row *row)
{
	char *form = NULL;
	size_t size = 0;
	FILE *text = open_memstream(&form, &size);

	if (!text)
		return;
	put_form(text, row, "-");
	fclose(text);
	if (letter_of(p, v, row))
		fprintf(f, "  -%c, %-30s", row->letter, form);
	else
		fprintf(f, "      %-30s", form);
	fprintf(f, "%s%s", strlen(form) >= 30 ? "\n                                    " : "", row->help);
	if (row->missing)
		fprintf(f, " (not yet%s%s)", row->accepted ? "; taken: " : "", row->accepted ? row->accepted : "");
	fputc('\n', f);
	free(form);
}

/* What is behind `--` stands last. */
static void put_usage(FILE *f, const struct program *p, const struct verb *v)
{
	const bool last = !strncmp(v->arguments, "--", 2);

	fprintf(f, "%s %s%s%s%s%s%s", p->name, v->name, last || !*v->arguments ? "" : " ", last ? "" : v->arguments, " [OPTION…]", last ? " " : "",
		last ? v->arguments : "");
}

static void put_verb(FILE *f, const struct verb *v)
{
	char left[80];

	snprintf(left, sizeof(left), "%s%s%s", v->name, *v->arguments ? " " : "", v->arguments);
	fprintf(f, "  %-28s%s%s%s\n", left, strlen(left) > 28 ? "\n                               " : " ", v->summary, v->missing ? " (not yet)" : "");
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
	fprintf(f, "%s: %s\n\nUsage: %s COMMAND [OPTION…]\n\n", p->name, p->summary, p->name);
	if (p->examples)
		fprintf(f, "For a start:\n%s\n", p->examples);
	fprintf(f, "Commands:\n");
	for (size_t i = 0; i < p->n_verbs; i++)
		put_verb(f, &p->verbs[i]);
	fprintf(f, "\nOptions of all commands:\n");
	for (size_t i = 0; i < p->n_rows; i++)
		if (p->rows[i].verbs == ALL_VERBS)
			put_option(f, p, NULL, &p->rows[i]);
	fprintf(f, "\nOptions of a command: %s COMMAND --help\n", p->name);
}

static void put_options(FILE *f, const struct program *p, const struct verb *v, bool common, const char *head)
{
	for (size_t i = 0; i < p->n_rows; i++) {
		if (!option_belongs(p, v, &p->rows[i]) || is_common(&p->rows[i]) != common)
			continue;
		fputs(head, f);
		head = "";
		put_option(f, p, v, &p->rows[i]);
	}
}

void help_print(FILE *f, const struct program *p, const struct verb *verb)
{
	if (!verb) {
		print_verbs(f, p);
		return;
	}
	fprintf(f, "Usage: ");
	put_usage(f, p, verb);
	fprintf(f, "\n%s%s\n", verb->summary, verb->missing ? " (not yet)" : "");
	put_options(f, p, verb, false, "\nOptions:\n");
	put_options(f, p, verb, true, "\nOptions of most commands:\n");
}

/* Text for troff: dashes as the shell takes them, no line that begins with a request. */
static void put_troff(FILE *f, const char *text)
{
	for (; *text; text++) {
		if (!strncmp(text, "…", 3)) { /* in ASCII, which each troff reads */
			fputs("...", f);
			text += 2;
			continue;
		}
		if (*text == '-' || *text == '\\')
			fputc('\\', f);
		fputc(*text == '\\' ? 'e' : *text, f);
	}
}

static void put_troff_option(FILE *f, const struct option_row *row, char letter)
{
	fprintf(f, ".TP\n\\fB");
	if (letter)
		fprintf(f, "\\-%c\\fR, \\fB", letter);
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
	fprintf(f, "\n.SH SYNOPSIS\n.B %s\n\\fICOMMAND\\fR [\\fIOPTION\\fR...]\n.SH DESCRIPTION\n%s", p->name, p->description);
	if (p->examples) {
		fprintf(f, ".SH EXAMPLES\n.nf\n");
		put_troff(f, p->examples);
		fprintf(f, ".fi\n");
	}
	fprintf(f, ".SH COMMANDS\n");
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
		put_troff_option(f, &p->rows[i], p->rows[i].letter);
		put_troff_verbs(f, p, &p->rows[i]);
	}
}

static void put_troff_options(FILE *f, const struct program *p, const struct verb *v, bool common, const char *head)
{
	for (size_t i = 0; i < p->n_rows; i++) {
		if (!option_belongs(p, v, &p->rows[i]) || is_common(&p->rows[i]) != common)
			continue;
		fputs(head, f);
		head = "";
		put_troff_option(f, &p->rows[i], letter_of(p, v, &p->rows[i]));
	}
}

void help_manual_verb(FILE *f, const struct program *p, const struct verb *v)
{
	char page[100];
	char *usage = NULL;
	size_t size = 0;
	FILE *text = open_memstream(&usage, &size);

	if (!text)
		return;
	put_usage(text, p, v);
	fclose(text);
	snprintf(page, sizeof(page), "%s-%s", p->name, v->name);
	for (char *at = page; *at; at++)
		*at = *at == ' ' ? '-' : *at;
	fprintf(f, ".\\\" Made by `%s manual %s`.\n.TH %s 1 \"\" \"fermata " FERMATA_VERSION "\"\n.SH NAME\n", p->name, v->name, page);
	put_troff(f, page);
	fprintf(f, " \\- ");
	fputc(tolower((unsigned char)v->summary[0]), f);
	put_troff(f, v->summary + 1);
	fprintf(f, "\n.SH SYNOPSIS\n");
	put_troff(f, usage);
	fprintf(f, "\n.SH DESCRIPTION\n");
	put_troff(f, v->summary);
	fprintf(f, ".\n");
	put_troff_options(f, p, v, false, ".SH OPTIONS\n");
	put_troff_options(f, p, v, true, ".SH OPTIONS OF MOST COMMANDS\n");
	fprintf(f, ".SH SEE ALSO\n.BR %s (1)\n", p->name);
	free(usage);
}
