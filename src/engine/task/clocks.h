/*
 * CLOCK_MONOTONIC and CLOCK_BOOTTIME, which begin anew when the machine is booted: what a program has noted by them (a deadline of an event loop, of
 * pthread_cond_timedwait(3)) would lie days ahead, or long ago. So a tree that is restored after a boot, or on another machine, gets a time namespace in
 * which they go on from where they were (time_namespaces(7), Linux 5.6). On the same boot time has just passed.
 */
#pragma once

#include "engine/dump.h"
#include "engine/restore.h"
#include "inventory.pb-c.h"

#define BOOT_ID_SIZE 40

/* The moment that the tree's clocks go on from: not before one by which it was said how long something still has to wait, or that would end too early.
 * `to` and `boot` are the caller's. */
void clocks_capture(const struct dump *d, FermataClocksEntry *to, char boot[BOOT_ID_SIZE]);

/* Decides whether the tree needs clocks of its own. Before anything is planned. */
int clocks_prepare(struct restore *s);
/* Has `birth` make the root: by this thread, or by one whose children have those clocks. That one stays until clocks_release: it is the root's parent
 * for who asks to be told of its end. */
/* What the caller, who has one thread, makes from now on has the tree's clocks; where the tree needs none of its own nothing changes. 0, also where they can't be had: then a
 * warning says so. */
void clocks_unshare(struct restore *s);
int clocks_birth(struct restore *s, int (*birth)(struct restore *s));
void clocks_release(struct restore *s);
