/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Where checks are counted: a hash table in plain memory that the process maps.
 *
 * A key may live in four buckets of a cache line each; it is put into the first that has room
 * and mostly found in the first. A slot's key is one word: claimed by one compare-and-swap,
 * matched by one compare, and constant until the process retires it, which it does only after
 * the cgroup is gone, and frees it only after every program that may have matched it has
 * ended. So a count can't be credited to another key, however programs nest or preempt each
 * other. Two slots may come to hold the same key; the process adds them up.
 *
 * CPUs share a table only so far as memory demands (shards).
 */
#ifndef __COUNTERS_BPF_H__
#define __COUNTERS_BPF_H__

#include "common.bpf.h"

#define BUCKET_CHOICES 4

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* set before loading */
	__type(key, __u32);
	__type(value, struct bucket);
} counters SEC(".maps");

/*
 * A log of the slots claimed: in the lower half the slot plus one, in the upper the position, so
 * that the process can tell what was written from what is still to come.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} claims SEC(".maps");

/* For kernels without compare-and-swap (before 5.12): one system call per key to drain. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, __u64);
} counts_by_key SEC(".maps");

static __always_inline __u64 mix(__u64 key)
{
	key *= 0x9e3779b97f4a7c15ULL;
	return key ^ (key >> 32);
}

static __always_inline __u32 bucket_index(__u64 hash, __u32 shard, int choice)
{
	/* An odd step visits every bucket of a table whose size is a power of two. */
	__u32 step = (__u32)(hash >> 40) | 1;

	return (shard << config.bucket_bits) +
	       (((__u32)hash + choice * step) & config.bucket_mask);
}

static __always_inline void count_overflow(__u64 key, __u64 *reason)
{
	__sync_fetch_and_add(&state.overflow[key & (CAP_KEY_KINDS - 1)], 1);
	__sync_fetch_and_add(reason, 1);
}

/* The key is not in its first bucket: look on, else claim a slot. */
__noinline int count_slow(__u64 key, __u32 shard)
{
	__u64 hash = mix(key);
	struct bucket *bucket;
	__u64 seen, claimed;
	__u32 index, nr;
	int i, s;

#pragma unroll
	for (i = 0; i < BUCKET_CHOICES; i++) {
		index = bucket_index(hash, shard, i);
		bucket = bpf_map_lookup_elem(&counters, &index);
		if (!bucket)
			break;
#pragma unroll
		for (s = 0; s < CAP_BUCKET_SLOTS; s++) {
			if (bucket->slots[s].key == key) {
				__sync_fetch_and_add(&bucket->slots[s].count, 1);
				return 0;
			}
		}
	}
#pragma unroll
	for (i = 0; i < BUCKET_CHOICES; i++) {
		index = bucket_index(hash, shard, i);
		bucket = bpf_map_lookup_elem(&counters, &index);
		if (!bucket)
			break;
#pragma unroll
		for (s = 0; s < CAP_BUCKET_SLOTS; s++) {
			seen = __sync_val_compare_and_swap(&bucket->slots[s].key, CAP_SLOT_EMPTY,
							   key);
			if (seen != CAP_SLOT_EMPTY && seen != key)
				continue;
			__sync_fetch_and_add(&bucket->slots[s].count, 1);
			if (seen == key)
				return 0;
			claimed = __sync_fetch_and_add(&state.claims, 1);
			nr = claimed & config.claims_mask;
			claimed = claimed << 32 | (index * CAP_BUCKET_SLOTS + s + 1);
			bpf_map_update_elem(&claims, &nr, &claimed, BPF_ANY);
			return 0;
		}
	}
	count_overflow(key, &state.overflow_full);
	return 0;
}

static __always_inline void count_in_table(__u64 key)
{
	__u32 shard = bpf_get_smp_processor_id() & config.shard_mask;
	__u32 index = bucket_index(mix(key), shard, 0);
	struct bucket *bucket = bpf_map_lookup_elem(&counters, &index);
	int s;

	if (bucket) {
#pragma unroll
		for (s = 0; s < CAP_BUCKET_SLOTS; s++) {
			if (bucket->slots[s].key == key) {
				__sync_fetch_and_add(&bucket->slots[s].count, 1);
				return;
			}
		}
	}
	count_slow(key, shard);
}

static __always_inline void count_by_key(__u64 key)
{
	__u64 *count = bpf_map_lookup_elem(&counts_by_key, &key);
	__u64 one = 1;
	long err;

	if (!count) {
		err = bpf_map_update_elem(&counts_by_key, &key, &one, BPF_NOEXIST);
		if (!err)
			return;
		/* Another CPU was first: without a second look one check would be lost. */
		count = bpf_map_lookup_elem(&counts_by_key, &key);
	}
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		count_overflow(key, &state.overflow_full);
}

#endif /* __COUNTERS_BPF_H__ */
