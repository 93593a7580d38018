// SPDX-License-Identifier: Apache-2.0
/*
 * Makes a given number of capability checks as fast as it can and prints nanoseconds per call.
 * check_loop KIND COUNT ROUNDS: one line a round. KIND: pacct (acct(NULL), CAP_SYS_PACCT) or
 * hostname (sethostname, CAP_SYS_ADMIN). One check a call; run it without the capability.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

int main(int argc, char **argv)
{
	long count, rounds, i;
	int hostname;
	double start;

	if (argc != 4) {
		fprintf(stderr, "usage: check_loop pacct|hostname COUNT ROUNDS\n");
		return 2;
	}
	hostname = !strcmp(argv[1], "hostname");
	count = atol(argv[2]);
	rounds = atol(argv[3]);
	while (rounds--) {
		start = now();
		if (hostname)
			for (i = 0; i < count; i++)
				syscall(SYS_sethostname, "", 0);
		else
			for (i = 0; i < count; i++)
				syscall(SYS_acct, NULL);
		printf("%.2f\n", (now() - start) / count);
		fflush(stdout);
	}
	return 0;
}
