/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What both programs keep to sample events: see events.bpf.h. */
#ifndef __SAMPLING_H__
#define __SAMPLING_H__

struct sample_key {
	__u64 key;
	__u64 executable; /* a mix of device and inode number */
};

struct sample {
	__u64 last;	  /* the clock of the event's time, ns */
	__u64 suppressed; /* equal checks since */
};

struct tokens {
	__u64 left;
	__u64 refilled; /* the clock of the event's time, ns */
};

#endif /* __SAMPLING_H__ */
