/* Descriptors of /dev/net/tun: a fresh one; a device with addresses and a route, by which a datagram goes and its answer comes; two queues of one
 * with a hardware address. */
#include "live.h"
#include <arpa/inet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static char name[IF_NAMESIZE], tap_name[IF_NAMESIZE];

static int queue(const char *device, short flags)
{
	struct ifreq ifr = {.ifr_flags = flags};
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		live_say("skip: no /dev/net/tun"), _exit(0);
	strcpy(ifr.ifr_name, device);
	CHECK(ioctl(fd, TUNSETIFF, &ifr) == 0);
	return fd;
}

static void ip(const char *format, ...)
{
	char command[300] = "ip ";
	va_list args;
	va_start(args, format);
	vsnprintf(command + 3, sizeof command - 3, format, args);
	va_end(args);
	CHECK(system(command) == 0);
}

static bool shows(const char *what, const char *wanted)
{
	char command[300], got[4096] = "";
	snprintf(command, sizeof command, "ip %s", what);
	FILE *from = popen(command, "r");
	CHECK(from);
	got[fread(got, 1, sizeof got - 1, from)] = 0;
	pclose(from);
	if (!strstr(got, wanted))
		fprintf(stderr, "%s: no %s in %s", command, wanted, got);
	return strstr(got, wanted);
}

/* A datagram to where the route leads comes out at the descriptor, and one that goes in there comes to the socket. */
static void passes(int tun, int out)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(4000), .sin_addr.s_addr = inet_addr("10.231.9.9")};
	unsigned char got[2000];
	ssize_t size;
	CHECK(sendto(out, "there", 5, 0, (struct sockaddr *)&to, sizeof to) == 5);
	do {
		CHECK(poll(&(struct pollfd){.fd = tun, .events = POLLIN}, 1, 5000) == 1);
		size = read(tun, got, sizeof got);
	} while (size > 0 && (got[0] >> 4 != 4 || got[9] != IPPROTO_UDP)); /* of IPv6, which tells about itself */
	CHECK(size == 33 && memcmp(got + 28, "there", 5) == 0 && memcmp(got + 16, &to.sin_addr, 4) == 0);
	unsigned char back[33];
	memcpy(back, got, 33);
	memcpy(back + 12, got + 16, 4);
	memcpy(back + 16, got + 12, 4);
	memcpy(back + 20, got + 22, 2);
	memcpy(back + 22, got + 20, 2);
	memset(back + 26, 0, 2); /* no checksum */
	CHECK(write(tun, back, sizeof back) == sizeof back);
	CHECK(poll(&(struct pollfd){.fd = out, .events = POLLIN}, 1, 5000) == 1 && recv(out, got, sizeof got, 0) == 5);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
#ifdef OWN_NETWORK
	if (unshare(CLONE_NEWNET)) { live_say("skip: no network namespace: %s", strerror(errno)); return 0; }
#endif
	char what[64];
	snprintf(name, sizeof name, "lt%d", getpid());
	snprintf(tap_name, sizeof tap_name, "lq%d", getpid());
	int tun = queue(name, IFF_TUN | IFF_NO_PI), first = queue(tap_name, IFF_TAP | IFF_MULTI_QUEUE), second = queue(tap_name, IFF_TAP | IFF_MULTI_QUEUE);
	int fresh = open("/dev/net/tun", O_RDWR | O_CLOEXEC), room = 70000, header = 12;
	CHECK(fresh >= 0 && ioctl(tun, TUNSETSNDBUF, &room) == 0);
	ip("addr add 10.231.1.1 peer 10.231.1.2 dev %s", name);
	ip("addr add fd31::1/64 dev %s nodad", name);
	ip("link set %s mtu 1400 txqueuelen 77 up", name);
	ip("route add 10.231.9.0/24 via 10.231.1.2 dev %s metric 50 table main", name);
	ip("link set %s address 02:00:5e:31:32:33", tap_name);
	CHECK(ioctl(second, TUNSETQUEUE, &(struct ifreq){.ifr_flags = IFF_DETACH_QUEUE}) == 0);
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = inet_addr("10.231.1.1")};
	int out = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	CHECK(out >= 0 && bind(out, (struct sockaddr *)&at, sizeof at) == 0);
	passes(tun, out);
	wait_go();
	passes(tun, out);
	snprintf(what, sizeof what, "addr show dev %s", name);
	CHECK(shows(what, "mtu 1400") && shows(what, "qlen 77") && shows(what, "10.231.1.1 peer 10.231.1.2") && shows(what, "fd31::1/64"));
	snprintf(what, sizeof what, "route show dev %s", name);
	CHECK(shows(what, "10.231.9.0/24 via 10.231.1.2 metric 50"));
	snprintf(what, sizeof what, "link show dev %s", tap_name);
	CHECK(shows(what, "02:00:5e:31:32:33"));
	struct ifreq ifr = {};
	CHECK(ioctl(tun, TUNGETIFF, &ifr) == 0 && strcmp(ifr.ifr_name, name) == 0 && ifr.ifr_flags & IFF_NO_PI && fcntl(tun, F_GETFL) & O_NONBLOCK);
	CHECK(ioctl(tun, TUNGETSNDBUF, &header) == 0 && header == room);
	CHECK(ioctl(first, TUNGETIFF, &ifr) == 0 && !(ifr.ifr_flags & IFF_DETACH_QUEUE) && ioctl(second, TUNGETIFF, &ifr) == 0 && ifr.ifr_flags & IFF_DETACH_QUEUE);
	CHECK(ioctl(second, TUNSETQUEUE, &(struct ifreq){.ifr_flags = IFF_ATTACH_QUEUE}) == 0);
	CHECK(ioctl(fresh, TUNGETIFF, &ifr) < 0 && errno == EBADFD && !(fcntl(fresh, F_GETFL) & O_NONBLOCK));
	ifr = (struct ifreq){.ifr_flags = IFF_TUN};
	CHECK(ioctl(fresh, TUNSETIFF, &ifr) == 0);
	return finish();
}
