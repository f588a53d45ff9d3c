/*
 * Descriptors of /dev/net/tun: fresh ones, and those of network devices that a program makes and that go when it does, with how these are set up
 * (netdev.h). Sources: Documentation/networking/tuntap.rst, drivers/net/tun.c.
 *
 * Left out: packets that were not read yet, which are lost as on a wire; what the kernel does not tell (TUNSETTXFILTER, programs of eBPF that choose
 * queues or packets, TUNSETLINK); TUNSETOFFLOAD, without which the kernel does the work itself. Refused: a filter (TUNATTACHFILTER), which it does not tell either.
 */
#include "engine/kinds/tun.h"

#include "base/pool.h"
#include "engine/kinds/kind.h"
#include "engine/kinds/netdev.h"
#include "engine/ns/net_link.h"
#include "engine/ns/ns.h"
#include "engine/path.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#define TUN_PATH "/dev/net/tun"
#define TUN_MAJOR 10
#define TUN_MINOR 200
#define MADE_FLAGS (IFF_TUN | IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE | IFF_NAPI | IFF_NAPI_FRAGS | IFF_ONE_QUEUE)

static bool recognise(const struct descriptor *f)
{
	return S_ISCHR(f->st.st_mode) && f->st.st_rdev == makedev(TUN_MAJOR, TUN_MINOR) && !(f->flags & O_PATH);
}

/* ---- dump ---- */

struct owners {
	int index, owner, group;
};

/* Who may open the device: -1 where nobody is named. */
static int take_owners(const struct nlmsghdr *h, void *data)
{
	struct owners *o = data;
	struct net_link l;
	const struct nlattr *a;

	if (h->nlmsg_type != RTM_NEWLINK || !net_link_parse(h, &l) || l.index != o->index || !l.data)
		return MNL_CB_OK;
	mnl_attr_for_each_nested(a, l.data) {
		if (mnl_attr_get_type(a) == IFLA_TUN_OWNER && mnl_attr_get_payload_len(a) >= sizeof(uint32_t))
			o->owner = (int)mnl_attr_get_u32(a);
		if (mnl_attr_get_type(a) == IFLA_TUN_GROUP && mnl_attr_get_payload_len(a) >= sizeof(uint32_t))
			o->group = (int)mnl_attr_get_u32(a);
	}
	return MNL_CB_OK;
}

static int find_owners(const char *device, struct owners *ret)
{
	struct net_messages links = {};
	int r = net_links_ask(&links);

	*ret = (struct owners){ (int)if_nametoindex(device), -1, -1 };
	NET_MESSAGES_FOREACH(&links, h)
		take_owners(h, ret);
	net_messages_free(&links);
	return r;
}

static int capture_tun(struct dump *d, struct descriptor *f, const struct ifreq *ifr, TunLinkEntry *ret)
{
	struct {
		unsigned short count;
		void *filter;
	} filter = {};
	int sndbuf = 0, header = 0;
	struct owners owners;

	if (ioctl(f->own_fd, TUNGETFILTER, &filter) == 0 && filter.count)
		return fd_error(d, f, -ENOTSUP, "has a packet filter, which the kernel does not tell; let the program detach it");
	if (ioctl(f->own_fd, TUNGETSNDBUF, &sndbuf) < 0 || ioctl(f->own_fd, TUNGETVNETHDRSZ, &header) < 0)
		return fd_errno(d, f, -errno, "does not tell its settings");
	int r = find_owners(ifr->ifr_name, &owners);
	if (r)
		return fd_errno(d, f, r, "does not tell its owner");
	ret->flags = (uint16_t)ifr->ifr_flags;
	ret->owner = owners.owner;
	ret->group = owners.group;
	ret->vnethdr = (uint32_t)header;
	ret->sndbuf = (uint32_t)sndbuf;
	return 0;
}

/* Whether this is the first description of that device. */
static bool is_first(struct dump *d, const char *device)
{
	const unsigned int number = if_nametoindex(device);

	VEC_FOREACH(&d->tuns, x)
		if (*x == number)
			return false;
	unsigned int *slot = VEC_PUSH(&d->tuns);
	if (slot)
		*slot = number;
	return true; /* twice does no harm */
}

static int capture(struct dump *d, struct descriptor *f)
{
	FileEntry entry = FILE_ENTRY__INIT;
	TunfileEntry e = TUNFILE_ENTRY__INIT;
	TunDeviceEntry device = TUN_DEVICE_ENTRY__INIT;
	TunLinkEntry tun = TUN_LINK_ENTRY__INIT;
	struct ifreq ifr = {};
	struct pool pool = {};
	int r = 0;

	e.id = f->id;
	e.has_flags = 1;
	e.flags = f->flags;
	e.fown = f->fown;
	if (ioctl(f->own_fd, TUNGETIFF, &ifr) == 0) {
		e.netdev = ifr.ifr_name;
		e.has_detached = e.detached = ifr.ifr_flags & IFF_DETACH_QUEUE;
		if (is_first(d, ifr.ifr_name)) {
			e.device = &device;
			device.has_number = ns_is_own(d, CLONE_NEWNET);
			device.number = if_nametoindex(ifr.ifr_name);
			device.tun = &tun;
			r = capture_tun(d, f, &ifr, &tun);
			if (!r)
				r = netdev_capture(ifr.ifr_name, &pool, &device, d->e);
		}
	} else if (errno != EBADFD)
		r = fd_errno(d, f, -errno, "does not tell its device");
	entry.tunf = &e;
	if (!r)
		r = file_entry_write(d, &entry, f, FD_TYPES__TUNF);
	pool_free(&pool);
	return r;
}

/* ---- restore ---- */

static const TunDeviceEntry *device_of(const struct restore *s, const char *name)
{
	for (size_t i = 0; i < s->files.count; i++) {
		const TunfileEntry *e = s->files.data[i].entry->tunf;
		if (e && e->device && e->netdev && !strcmp(e->netdev, name))
			return e->device;
	}
	return NULL;
}

static int set_up(struct restore *s, const char *name, const TunDeviceEntry *device, int fd)
{
	const TunLinkEntry *tun = device->tun;
	int sndbuf = (int)tun->sndbuf, header = (int)tun->vnethdr;

	if ((tun->owner != -1 && ioctl(fd, TUNSETOWNER, tun->owner) < 0) || (tun->group != -1 && ioctl(fd, TUNSETGROUP, tun->group) < 0) ||
	    ioctl(fd, TUNSETSNDBUF, &sndbuf) < 0 || ioctl(fd, TUNSETVNETHDRSZ, &header) < 0)
		return error_errno(s->e, -errno, "cannot set up network device %s", name);
	int r = netdev_set_up(name, device, s->e);
	if (!r && tun->flags & IFF_PERSIST && ioctl(fd, TUNSETPERSIST, 1) < 0)
		r = error_errno(s->e, -errno, "cannot let network device %s stay", name);
	return r;
}

/* Makes the device, or another queue of it; one that is to stay when nobody has it open may be there, and is as it is. */
static int attach(struct restore *s, const TunfileEntry *e, int fd)
{
	const TunDeviceEntry *device = device_of(s, e->netdev);
	struct ifreq ifr = {};

	if (!device || !device->tun || strlen(e->netdev) >= IF_NAMESIZE || !e->netdev[0] || strchr(e->netdev, '%'))
		return error_set(s->e, -EBADMSG, "descriptor of a network device (%s) that can't be", e->netdev);
	if (s->request->only_uid)
		return error_set(s->e, -EPERM, "network device %s: only root may restore what makes one", e->netdev);
	const bool there = if_nametoindex(e->netdev);
	if (e->device && there && !(device->tun->flags & IFF_PERSIST))
		return error_set(s->e, -EEXIST, "there is a network device %s, which another program has made; end that first", e->netdev);
	memcpy(ifr.ifr_name, e->netdev, strlen(e->netdev));
	ifr.ifr_flags = (short)(device->tun->flags & MADE_FLAGS);
	/* In a namespace of the tree's own it is free, and others know it by that. */
	if (e->device && !there && device->has_number && ns_number_saved(s, CLONE_NEWNET) && ioctl(fd, TUNSETIFINDEX, &device->number) < 0)
		return error_errno(s->e, -errno, "cannot give network device %s its number again", e->netdev);
	if (ioctl(fd, TUNSETIFF, &ifr) < 0)
		return error_errno(s->e, -errno, "cannot make network device %s%s", e->netdev, there ? ", or another is there under that name" : "");
	int r = e->device && !there ? set_up(s, e->netdev, device, fd) : 0;
	ifr.ifr_flags = IFF_DETACH_QUEUE;
	if (!r && e->has_detached && e->detached && ioctl(fd, TUNSETQUEUE, &ifr) < 0)
		r = error_errno(s->e, -errno, "cannot detach a queue of network device %s", e->netdev);
	return r;
}

static int create(struct restore *s, struct file *f, int *ret_fd)
{
	const TunfileEntry *e = f->entry->tunf;

	if (!e)
		return error_set(s->e, -EBADMSG, "file %u lacks its content", f->id);
	int fd = path_open(0, TUN_PATH, O_RDWR | (int)(e->flags & O_NONBLOCK));
	if (fd < 0)
		return error_errno(s->e, fd, "cannot open " TUN_PATH);
	int r = e->netdev ? attach(s, e, fd) : 0;
	if (r) {
		close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

int tun_prepare(struct restore *s)
{
	int r = 0;

	for (size_t i = 0; r >= 0 && i < s->files.count; i++)
		if (s->files.data[i].entry->tunf && s->files.data[i].entry->tunf->device)
			r = file_fd(s, s->files.data[i].id);
	return MIN(r, 0);
}

const struct kind kind_tun = {
	.name = "a TUN or TAP device",
	.summary = "Descriptors of /dev/net/tun, and the network devices that programs make by them, with their settings, queues, addresses and routes; "
		   "packets under way are lost",
	.type = FD_TYPES__TUNF,
	.recognise = recognise,
	.capture = capture,
	.create = create,
};
