/*
 * A network namespace of its own with about everything in it that is saved: devices of several kinds in each other, addresses, routes, rules,
 * neighbours, nftables, settings; and sockets with connections among them. What `ip` and `nft` print must be the same afterwards.
 */
#include "live.h"
#include <arpa/inet.h>
#include <sched.h>
#include <sys/socket.h>

/* A bridge's timers and counters, and what the kernel learns by itself, are left out. */
static const char look[] =
    "ip -d link | grep -v '^ *RX:' | sed -E 's/(hello_timer|gc_timer|tcn_timer|topology_change_timer|message_age_timer|hold_timer|forward_delay_timer) +[0-9.]+//g; s/qdisc [a-z_]+//';"
    "ip addr | grep inet; ip route show table all | sort; ip -6 route show table all | sort; ip rule; ip -6 rule; ip neigh show nud permanent | sort; ip neigh show proxy;"
    "bridge fdb show | grep static; nft list ruleset;"
    "find /proc/sys/net -type f -perm -600 | sort | xargs grep -H . 2>/dev/null | grep -v conntrack_count";

static const char set_up[] =
    "set -e; ip link set lo up; ip addr add 10.9.8.7/32 dev lo;"
    "ip link add name up0 index 17 address 02:00:00:00:11:01 mtu 1400 txqueuelen 77 type veth peer name in0 index 23 address 02:00:00:00:11:02;"
    "ip link add name br7 type bridge forward_delay 200 ageing_time 9000 stp_state 0; ip link set in0 master br7; ip link set in0 type bridge_slave hairpin on learning off;"
    "ip link set up0 alias 'the upper one'; ip link property add dev up0 altname upper altname uppermost;"
    "ip link add mv0 link up0 type macvlan mode bridge;"
    "ip addr add 10.31.0.2/24 brd + dev up0; ip addr add 10.31.0.3/24 dev up0 label up0:1; ip -6 addr add fd31::2/64 dev up0 nodad; ip addr add 10.31.0.1/24 dev br7 noprefixroute;"
    "ip addr add 10.32.0.1 peer 10.32.0.2/32 dev mv0;"
    "ip link set up0 up; ip link set in0 up; ip link set br7 up; ip link set mv0 up; ip link set mv0 allmulticast on;"
    "ip -6 addr flush dev br7 scope link;"
    "ip route add default via 10.31.0.9 metric 70; ip route add 10.40.0.0/16 via 10.31.0.8 src 10.31.0.3 mtu 1300; ip route add 10.41.0.0/16 via 10.40.0.1 onlink dev up0;"
    "ip route add blackhole 10.42.0.0/16 table 77; ip route add 10.43.0.0/16 nexthop via 10.31.0.8 weight 2 nexthop via 10.31.0.9 weight 3;"
    "ip route add unreachable 10.44.0.0/16 metric 4000; ip -6 route add fd40::/32 via fd31::9 metric 55; ip -6 route add fd41::/32 dev up0 table 78; ip route add local 10.45.0.0/16 dev lo;"
    "ip rule add from 10.31.0.3 lookup 77 pref 100; ip rule add fwmark 5/7 iif up0 lookup 77; ip -6 rule add to fd40::/32 lookup 78 pref 99; ip rule del pref 32767;"
    "ip neigh add 10.31.0.55 lladdr 02:00:00:00:00:55 dev up0; ip neigh add proxy 10.31.0.56 dev up0; ip -6 neigh add fd31::55 lladdr 02:00:00:00:00:66 dev up0;"
    "bridge fdb add 02:00:00:00:77:77 dev in0 master static;"
    "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.up0.rp_filter=2 net.ipv4.ip_local_port_range='20000 21000' net.ipv6.conf.in0.disable_ipv6=1 net.unix.max_dgram_qlen=33"
    " net.ipv4.conf.default.log_martians=1 net.ipv6.conf.mv0.accept_ra=0;"
    "nft -f - <<'end'\n"
    "table inet t {\n"
    "  set hosts { type ipv4_addr; flags interval; elements = { 10.1.0.0/16, 10.3.0.1 } }\n"
    "  map ports { type inet_service : verdict; elements = { 22 : accept, 23 : drop } }\n"
    "  counter seen { packets 5 bytes 500 }\n"
    "  chain one { ip saddr @hosts counter packets 3 bytes 30 drop comment \"say include it\"; tcp dport vmap @ports; }\n"
    "  chain in { type filter hook input priority 10; policy accept; iifname \"up0\" meta mark set 0x9 jump one; ct state invalid drop; udp dport { 5, 7, 9 } counter name \"seen\" reject; }\n"
    "}\n"
    "table ip nat { chain post { type nat hook postrouting priority srcnat; policy accept; ip saddr 10.99.0.0/16 oif up0 masquerade; }; }\n"
    "table arp a { chain x { type filter hook input priority 0; policy accept; arp operation request limit rate 10/second accept; }; }\n"
    "end\n";

static void run(const char *script)
{
    int status = system(script);
    if (status) live_say("not ok: status %d", status);
    CHECK(status == 0);
}

static char *capture(void)
{
    static char *texts[2];
    static int n;
    char **text = &texts[n++];
    FILE *f = popen(look, "r");
    size_t size = 1 << 20, used = 0, got;
    CHECK(f && (*text = malloc(size)));
    while ((got = fread(*text + used, 1, size - used - 1, f)) > 0) used += got;
    (*text)[used] = '\0';
    CHECK(pclose(f) != -1 && used > 1000);
    return *text;
}

/* The first line that differs. */
static void compare(const char *before, const char *after)
{
    const char *line = before, *line2 = after;
    for (; *before || *after; before++, after++) {
        if (*before != *after)
            live_say("not ok: was: %.*s | is: %.*s", (int)strcspn(line, "\n"), line, (int)strcspn(line2, "\n"), line2);
        CHECK(*before == *after);
        if (*before == '\n') line = before + 1, line2 = after + 1;
    }
}

static int connect_pair(int *ret_listener, int ends[2])
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {inet_addr("10.31.0.2")}};
    socklen_t size = sizeof at;
    *ret_listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(bind(*ret_listener, (void *)&at, size) == 0 && listen(*ret_listener, 3) == 0 && getsockname(*ret_listener, (void *)&at, &size) == 0);
    ends[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(connect(ends[0], (void *)&at, size) == 0);
    ends[1] = accept4(*ret_listener, NULL, NULL, SOCK_CLOEXEC);
    CHECK(ends[1] >= 0);
    return ntohs(at.sin_port);
}

static void talk(int from, int to, const char *word)
{
    char text[64];
    CHECK(send(from, word, strlen(word), 0) == (ssize_t)strlen(word));
    CHECK(recv(to, text, sizeof text, 0) == (ssize_t)strlen(word) && !memcmp(text, word, strlen(word)));
}

int main(int argc, char **argv)
{
    int listener, ends[2], more;
    live_init(argc, argv);
    if (geteuid() || unshare(CLONE_NEWNET)) { live_say("skip: no network namespace: %s", strerror(errno)); return 0; }
    run(set_up);
    int port = connect_pair(&listener, ends);
    CHECK(port >= 20000 && port <= 21000);
    int six = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_port = htons(5353)};
    CHECK(inet_pton(AF_INET6, "fd31::2", &at.sin6_addr) == 1 && bind(six, (void *)&at, sizeof at) == 0);
    CHECK(sendto(six, "queued", 6, 0, (void *)&at, sizeof at) == 6);
    talk(ends[0], ends[1], "before");
    run("while ip addr | grep -q tentative; do sleep 0.05; done"); /* the kernel tries an address first */
    char *before = capture();
    wait_go();
    compare(before, capture());
    talk(ends[0], ends[1], "after");
    talk(ends[1], ends[0], "back");
    struct sockaddr_in there;
    socklen_t size = sizeof there;
    CHECK(getsockname(listener, (void *)&there, &size) == 0);
    more = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(connect(more, (void *)&there, size) == 0);
    char text[16];
    CHECK(recv(six, text, sizeof text, 0) == 6 && !memcmp(text, "queued", 6));
    return finish();
}
