// SPDX-License-Identifier: Apache-2.0
/*
 * check_pace RATE SECONDS: makes RATE checks of CAP_SYS_PACCT a second, in a hundred portions,
 * for so many seconds, and prints how many it made.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct timespec next;
	long portions, each, i, made = 0;

	if (argc != 3) {
		fprintf(stderr, "usage: check_pace RATE SECONDS\n");
		return 2;
	}
	each = atol(argv[1]) / 100;
	portions = atol(argv[2]) * 100;
	clock_gettime(CLOCK_MONOTONIC, &next);
	while (portions--) {
		for (i = 0; i < each; i++)
			syscall(SYS_acct, NULL);
		made += each;
		next.tv_nsec += 10000000;
		if (next.tv_nsec >= 1000000000) {
			next.tv_nsec -= 1000000000;
			next.tv_sec++;
		}
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
	}
	printf("%ld\n", made);
	return 0;
}
