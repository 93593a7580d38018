// SPDX-License-Identifier: Apache-2.0
/*
 * checks acct COUNT			COUNT checks of CAP_SYS_PACCT, one each
 * checks into CGROUP acct COUNT	the same in a child that clone3() makes inside CGROUP
 * checks churn FOLDER COUNT		COUNT times: make a cgroup called like a container, one check of
 *					CAP_SYS_BOOT by a child in it, remove it
 * checks memfd PATH ARG...		execute a copy of PATH that lies in a memfd
 * checks move PROCS_FILE ARG...	write own pid to PROCS_FILE, then act on ARG... in this process
 * checks setuid|setgid ID		change to this id, for good
 * checks mlock|rawsock			lock memory with RLIMIT_MEMLOCK at 0; open a raw socket
 * checks serve UID			bind port 80, change group and user to UID, exit
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/sched.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int act(int argc, char **argv);

static int acct_often(long count)
{
	while (count-- > 0)
		syscall(SYS_acct, NULL);
	return 0;
}

static int into(const char *cgroup, int argc, char **argv)
{
	struct clone_args args = { .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD };
	int status, fd = open(cgroup, O_RDONLY | O_DIRECTORY);
	long pid;

	if (fd < 0)
		return 1;
	args.cgroup = fd;
	pid = syscall(SYS_clone3, &args, sizeof(args));
	if (pid < 0)
		return 1;
	if (!pid)
		_exit(act(argc, argv));
	waitpid(pid, &status, 0);
	return WEXITSTATUS(status);
}

static int churn(const char *folder, long count)
{
	char path[4096];
	int fd, status;
	long pid, n;

	for (n = 0; n < count; n++) {
		struct clone_args args = { .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD };

		snprintf(path, sizeof(path), "%s/%05lx%07x%052lx", folder, n, getpid(), n);
		if (mkdir(path, 0755) || (fd = open(path, O_RDONLY | O_DIRECTORY)) < 0) {
			perror(path);
			return 1;
		}
		args.cgroup = fd;
		pid = syscall(SYS_clone3, &args, sizeof(args));
		if (!pid) {
			/* Without the magic numbers it does nothing, whoever asks. */
			syscall(SYS_reboot, 0, 0, 0, NULL);
			_exit(0);
		}
		if (pid < 0 || waitpid(pid, &status, 0) < 0) {
			perror("clone3");
			return 1;
		}
		close(fd);
		while (rmdir(path))
			if (errno != EBUSY) {
				perror(path);
				return 1;
			}
	}
	return 0;
}

static int from_memfd(char **argv)
{
	char buffer[65536], *environment[] = { "PATH=/bin", NULL };
	int to = memfd_create("copy", 0), from = open(argv[0], O_RDONLY);
	ssize_t len;

	if (to < 0 || from < 0)
		return 1;
	while ((len = read(from, buffer, sizeof(buffer))) > 0)
		if (write(to, buffer, len) != len)
			return 1;
	syscall(SYS_execveat, to, "", argv, environment, AT_EMPTY_PATH);
	return 1;
}

static int move(const char *procs, int argc, char **argv)
{
	int fd = open(procs, O_WRONLY);

	if (fd < 0 || write(fd, "0", 1) != 1) {
		perror(procs);
		return 1;
	}
	close(fd);
	return act(argc, argv);
}

static int lock_memory(void)
{
	static char page[4096];
	struct rlimit none = { 0, 0 };

	return setrlimit(RLIMIT_MEMLOCK, &none) || mlock(page, sizeof(page));
}

/* As web servers start. */
static int serve(int id)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(80) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	return bind(fd, (struct sockaddr *)&address, sizeof(address)) || setgroups(0, NULL) ||
	       setgid(id) || setuid(id);
}

static int act(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[0], "setuid"))
		return setuid(atoi(argv[1])) != 0;
	if (argc == 2 && !strcmp(argv[0], "setgid"))
		return setgid(atoi(argv[1])) != 0;
	if (argc == 1 && !strcmp(argv[0], "mlock"))
		return lock_memory();
	if (argc == 1 && !strcmp(argv[0], "rawsock"))
		return socket(AF_INET, SOCK_RAW, IPPROTO_ICMP) < 0;
	if (argc == 2 && !strcmp(argv[0], "serve"))
		return serve(atoi(argv[1]));
	if (argc == 2 && !strcmp(argv[0], "acct"))
		return acct_often(atol(argv[1]));
	if (argc > 2 && !strcmp(argv[0], "into"))
		return into(argv[1], argc - 2, argv + 2);
	if (argc == 3 && !strcmp(argv[0], "churn"))
		return churn(argv[1], atol(argv[2]));
	if (argc > 1 && !strcmp(argv[0], "memfd"))
		return from_memfd(argv + 1);
	if (argc > 2 && !strcmp(argv[0], "move"))
		return move(argv[1], argc - 2, argv + 2);
	fprintf(stderr, "checks: what is that?\n");
	return 2;
}

int main(int argc, char **argv)
{
	return act(argc - 1, argv + 1);
}
