/*
 * Holds back what goes over the devices of a new namespace, but for that of lo, while its sockets are not there: a table of nftables that goes with
 * its owner (Linux 5.12). Who looks for neighbours is answered.
 */
#include "engine/ns/net.h"

#include "engine/nft.h"

static const char rules[] =
	"create table inet fermata-hold { flags owner; }\n"
	"add chain inet fermata-hold in { type filter hook input priority -400; policy accept; }\n"
	"add chain inet fermata-hold out { type filter hook output priority -400; policy accept; }\n"
	"add rule inet fermata-hold in icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept\n"
	"add rule inet fermata-hold in iifname != \"lo\" drop\n"
	"add rule inet fermata-hold out icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept\n"
	"add rule inet fermata-hold out oifname != \"lo\" drop\n";

int net_hold(struct net_restore *n)
{
	struct error why = {};
	int size, r;

	if (n->s->request->network_lock == NETWORK_LOCK_SKIP || n->devices.count < 2)
		return 0;
	r = nft_new(&n->hold, &why);
	if (!r && (r = nft_run(n->hold, rules))) {
		const char *text = nft_complaint(n->hold, &size);
		error_set(&why, r, "nftables says: %.*s", size, text);
	}
	return r ? error_set(n->s->e, r, "the network of the namespace can't be held back: %s; --network-lock skip does without", why.text) : 0;
}
