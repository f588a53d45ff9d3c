/* The same as tun.c in a network namespace of its own, of which these are the only devices. */
#define OWN_NETWORK
#include "tun.c"
