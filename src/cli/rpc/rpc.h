/*
 * criu's RPC: messages of protobuf (rpc.proto), one in each packet of a SOCK_SEQPACKET socket, as https://criu.org/RPC has it. `criu swrk FD`
 * answers whoever started it on that descriptor, `criu service` whoever connects.
 *
 * What a request asks for becomes options of the command line, by the same table: what that refuses is refused here, in the same words.
 * Paths and descriptors of a request are the caller's. Nothing is printed: descriptors 0 to 2 may be a container's.
 */
#pragma once

#include "cli/cli.h"
#include "rpc.pb-c.h"

/* options.c: adds what the fields of `opts` ask for. Those that are no options (descriptors, pid, notify_scripts) are the caller's to look at. */
int rpc_options(const CriuOpts *opts, struct given_options *given, struct option_list *texts, struct error *e);

/* wire.c. 0, or a negative errno; -ENODATA: the other side has closed the socket. */
int rpc_send(int sk, const CriuResp *resp);
/* *ret is the caller's, to be freed with criu_req__free_unpacked(*ret, NULL). */
int rpc_receive(int sk, CriuReq **ret);

/* serve.c: answers requests of one caller until there are no more. `inherits`: its descriptors came to us by inheritance, too, so those that
 * it names for the restored tree are ours. Gives the exit status: 1 after a request that failed. */
int rpc_serve(int sk, bool inherits);

/* Verbs of criu. */
int verb_swrk(struct command_line *c);
int verb_service(struct command_line *c);
