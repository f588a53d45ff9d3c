/* Files under another name than they were opened by: renamed themselves, or their directory was. */
#include "data.h"
#include <sys/stat.h>

int main(int argc, char **argv)
{
	live_init(argc, argv);
	struct stat one, other;
	CHECK(mkdir("old", 0755) == 0);
	int file = data_file("before", 100, 1), inside = data_file("old/inside", 100, 2);
	int odd = data_file("with space\nand (deleted)", 100, 3);
	CHECK(rename("before", "after") == 0 && rename("old", "new") == 0);
	close(data_file("before", 300, 4));
	wait_go();
	CHECK(fstat(file, &one) == 0 && stat("after", &other) == 0 && one.st_ino == other.st_ino && one.st_size == 100);
	CHECK(fstat(inside, &one) == 0 && stat("new/inside", &other) == 0 && one.st_ino == other.st_ino);
	CHECK(fstat(odd, &one) == 0 && stat("with space\nand (deleted)", &other) == 0 && one.st_ino == other.st_ino);
	return finish();
}
