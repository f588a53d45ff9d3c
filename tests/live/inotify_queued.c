/* Events that were told and nobody has read yet: of each kind, with and without names, of watches that have gone since, also with the file system. They come as they would have, and what happens later comes behind them. */
#include "live.h"
#include <dirent.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/stat.h>

enum { EVENTS_MAX = 64 };
struct told { int wd; unsigned mask, cookie; char name[256]; };

static void touch(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
	CHECK(fd >= 0 && write(fd, "x", 1) == 1 && close(fd) == 0);
}

static void look(const char *path)
{
	char byte;
	int fd = open(path, O_RDONLY);
	CHECK(fd >= 0 && read(fd, &byte, 1) == 1 && close(fd) == 0);
}

/* Makes an event of each kind. */
static void make_events(void)
{
	touch("dir/one");
	look("dir/one");
	CHECK(chmod("dir/one", 0640) == 0 && mkdir("dir/below", 0700) == 0 && chmod("dir/below", 0750) == 0);
	CHECK(rename("dir/one", "dir/two") == 0 && rename("dir/two", "other/a longer name than the others") == 0);
	CHECK(rename("dir/below", "outside") == 0 && rename("outside", "dir/below again") == 0);
	DIR *list = opendir("dir");
	CHECK(list && readdir(list) && closedir(list) == 0);
	CHECK(rmdir("dir/below again") == 0 && unlink("other/a longer name than the others") == 0);
	touch("file");
	look("file");
	CHECK(chmod("file", 0644) == 0 && rename("file", "moved") == 0);
	touch("gone");
	CHECK(unlink("gone") == 0 && rename("dir", "dir moved") == 0);
}

static int take(int fd, struct told *to, int max)
{
	char got[8192] __attribute__((aligned(8)));
	int n = 0;
	ssize_t size;
	while (n < max && (size = read(fd, got, sizeof got)) > 0)
		for (char *at = got; at < got + size && n < max; n++) {
			struct inotify_event *e = (struct inotify_event *)at;
			to[n] = (struct told){.wd = e->wd, .mask = e->mask, .cookie = e->cookie};
			if (e->len) strcpy(to[n].name, e->name);
			at += sizeof *e + e->len;
		}
	CHECK(n && n < max && errno == EAGAIN);
	return n;
}

/* The same twice, of which one is read at once: what the other must tell then. */
static struct told expected[EVENTS_MAX], got[EVENTS_MAX];
static int watched[2], count, first_new;

static int watch_all(int fd)
{
	int gap = inotify_add_watch(fd, ".", IN_DELETE_SELF);
	CHECK(inotify_rm_watch(fd, gap) == 0);
	int dir = inotify_add_watch(fd, "dir", IN_ALL_EVENTS), other = inotify_add_watch(fd, "other", IN_ALL_EVENTS);
	int file = inotify_add_watch(fd, "file", IN_ALL_EVENTS), gone = inotify_add_watch(fd, "gone", IN_ALL_EVENTS);
	int once = inotify_add_watch(fd, "once", IN_ATTRIB | IN_ONESHOT);
	int top = inotify_add_watch(fd, "mounted", IN_ATTRIB), below = inotify_add_watch(fd, "mounted/file", IN_ATTRIB);
	CHECK(dir > gap && other > dir && file > other && gone > file && once > gone && top > once && below > top);
	return dir;
}

static void compare(void)
{
	for (int i = 0; i < count; i++) {
		const struct told *a = &expected[i], *b = &got[i];
		if (a->wd == b->wd && a->mask == b->mask && !a->cookie == !b->cookie && !strcmp(a->name, b->name)) continue;
		live_say("not ok: event %d is %d %x %s, was %d %x %s", i, b->wd, b->mask, b->name, a->wd, a->mask, a->name);
		_exit(1);
	}
	for (int i = 0; i < count; i++)
		for (int j = 0; j < i; j++)
			CHECK(!got[i].cookie || (expected[i].cookie == expected[j].cookie) == (got[i].cookie == got[j].cookie));
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	CHECK(mkdir("dir", 0755) == 0 && mkdir("other", 0755) == 0);
	touch("file");
	touch("gone");
	touch("once");
	CHECK(mkdir("mounted", 0755) == 0 && mount("none", "mounted", "tmpfs", 0, NULL) == 0);
	touch("mounted/file");
	int fd = inotify_init1(IN_NONBLOCK), second = inotify_init1(IN_NONBLOCK);
	watched[0] = watch_all(fd);
	watched[1] = watch_all(second);
	make_events();
	CHECK(umount("mounted") == 0 && chmod("once", 0600) == 0);
	count = take(second, expected, EVENTS_MAX);
	CHECK(watched[0] == watched[1] && count > 30);
	wait_go();
	CHECK(take(fd, got, EVENTS_MAX) == count);
	compare();
	touch("moved");
	int later = take(fd, got, EVENTS_MAX);
	CHECK(later == 3 && got[0].mask == IN_OPEN && got[1].mask == IN_MODIFY && got[2].mask == IN_CLOSE_WRITE && got[0].wd == watched[0] + 2);
	first_new = inotify_add_watch(fd, "once", IN_ATTRIB);
	CHECK(first_new == watched[0] + 7 && inotify_add_watch(fd, "dir moved", IN_ATTRIB) == watched[0]);
	return finish();
}
