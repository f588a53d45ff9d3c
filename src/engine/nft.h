/*
 * nftables by its library (libnftables(3)), which is loaded when it is first needed: most dumps have no use for it. Commands and output are those
 * of nft(8). What it acts on is the network namespace of the thread that made it.
 */
#pragma once

#include "base/error.h"

struct nft;
/* -ENOSYS with the text set where there is no library, or one that lacks something. */
int nft_new(struct nft **ret, struct error *e);
/* 0, or -EIO: nft_complaint says why. */
int nft_run(struct nft *n, const char *text);
/* What the last command printed; valid until the next. */
const char *nft_output(const struct nft *n);
/* The first line of what it had to say; its length is *ret_size. */
const char *nft_complaint(const struct nft *n, int *ret_size);
/* Numbers in place of names, in all that is printed from now on. */
void nft_numeric(struct nft *n);
/* Takes NULL. */
void nft_free(struct nft *n);
